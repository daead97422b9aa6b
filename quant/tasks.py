"""Golden model of the task list."""

from collections.abc import Iterable

__all__ = ["task_list"]


def task_list(decisions: Iterable[bool]) -> list[int]:
    """Numbers of the open pixels, in the order of their decisions: what each conditional pass of
    the job visits.

    Parameters
    ----------
    decisions : iterable of bool
        One per pixel of the tile, in raster order; true where the gate opens.
    """
    return [index for index, opened in enumerate(decisions) if opened]
