"""Golden model of the psum memory."""

from collections.abc import Iterable

__all__ = ["accumulate"]


def accumulate(accesses: Iterable[tuple[int, bool, int]]) -> list[int]:
    """Sum after each access ``(place, init, addend)``, in order.

    An access adds to the sum of its place, or starts it from zero if ``init`` is set.

    Raises
    ------
    KeyError
        If a place is added to that was never started: hardware has no such sum.
    """
    sums: dict[int, int] = {}
    history = []
    for place, init, addend in accesses:
        sums[place] = addend + (0 if init else sums[place])
        history.append(sums[place])
    return history
