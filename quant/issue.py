"""Golden model of the issue unit: the order of a lane's paths, and the windows of a job."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Window", "job_windows", "path_order"]


@dataclass(frozen=True)
class Window:
    """One window on its way through a lane.

    Parameters
    ----------
    block : int
        Weight block of its path that it meets.
    pixel : int
        Number of the window in the tile, image after image in raster order.
    index : int
        Psum that it adds to.
    cond : bool
        It belongs to the conditional path.
    init, gate, emit : bool
        It starts its psum, asks for a decision, makes an output.
    swap, last : bool
        It is its pass's first, last one.
    """

    block: int
    pixel: int
    index: int
    cond: bool
    init: bool
    gate: bool
    emit: bool
    swap: bool
    last: bool


def path_order(jobs: int, gated: bool) -> Iterator[tuple[int, bool]]:
    """Paths (job, conditional) of a lane's jobs: in a gated layer, the base path of each job comes
    before the conditional path of the one before it.

    Parameters
    ----------
    jobs : int
    gated : bool
        All jobs of a layer have a conditional path, or none has.
    """
    for job in range(jobs):
        yield job, False
        if gated and job:
            yield job - 1, True
    if gated and jobs:
        yield jobs - 1, True


def job_windows(base_blocks: int, cond_blocks: int, gated: bool, reduce: bool, pixels: int,
                opened: Sequence[int], *, images: int = 1,
                beat_pixels: int = 1) -> Iterator[Window]:
    """Windows of one job: every base block over the tile, every conditional one over the open
    pixels. The last base pass of a gated job decides; a closed pixel is an output at once, which
    is not the issue unit's to say. A job that reduces has one psum and one output per image.

    Parameters
    ----------
    base_blocks, cond_blocks : int
    gated, reduce : bool
        Not both.
    pixels : int
        Windows of an image.
    opened : sequence of int
        Open pixels of a gated job, as they are numbered in the tile.
    images, beat_pixels : int
        Images of the tile; the psums of each begin at a multiple of ``beat_pixels``.
    """
    psums = 1 if reduce else pixels
    pitch = -(-psums // beat_pixels) * beat_pixels
    paths: list[tuple[bool, int, Sequence[int]]] = [(False, base_blocks, range(images * pixels))]
    if gated and opened:
        paths.append((True, cond_blocks, opened))
    for cond, blocks, places in paths:
        for block in range(blocks):
            final = block == blocks - 1
            for number, pixel in enumerate(places):
                swap, last = number == 0, number == len(places) - 1
                gate = gated and not cond and final
                image, place = divmod(pixel, pixels)
                yield Window(
                    block, pixel, image * pitch + (0 if reduce else place), cond,
                    init=not cond and block == 0 and (place == 0 or not reduce), gate=gate,
                    emit=final and not gate and (place == pixels - 1 or not reduce), swap=swap,
                    last=last)
