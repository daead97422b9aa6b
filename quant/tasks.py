"""Golden model of the task list."""

from collections.abc import Sequence

__all__ = ["task_list"]


def task_list(decisions: Sequence[bool], limit: int = 0, pixels: int | None = None) -> list[int]:
    """Numbers of the open pixels, in the order of their decisions: what each conditional pass of
    the job visits.

    Parameters
    ----------
    decisions : sequence of bool
        One per pixel of the tile, image after image in raster order; true where the gate opens.
    limit : int
        An image of no more open pixels has none in the list.
    pixels : int, optional
        Pixels of an image; the tile is one image unless given.
    """
    pixels = pixels or len(decisions)
    images = [range(first, first + pixels) for first in range(0, len(decisions), pixels or 1)]
    opened = [[index for index in image if decisions[index]] for image in images]
    return [index for image in opened if len(image) > limit for index in image]
