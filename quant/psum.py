"""Golden model of the psum memory."""

from collections.abc import Iterable

__all__ = ["accumulate"]


def accumulate(accesses: Iterable[tuple[int, bool, int]]) -> list[int]:
    """Sum after each access ``(pixel, init, addend)``, in order.

    An access adds to the sum of its pixel, or starts it from zero if ``init`` is set.

    Raises
    ------
    KeyError
        If a pixel is added to that was never started: hardware has no such sum.
    """
    sums: dict[int, int] = {}
    history = []
    for pixel, init, addend in accesses:
        sums[pixel] = addend + (0 if init else sums[pixel])
        history.append(sums[pixel])
    return history
