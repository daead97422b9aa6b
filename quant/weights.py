"""Golden model of a weight queue: which channel group each block of a job belongs to."""

from hwgate.config import TAPS

__all__ = ["passes"]


def passes(bitmap: int, group_words: int, in_planes: int, bank_mode: bool) -> list[tuple[int, int]]:
    """Passes of the blocks of a bitmap, in the order of its bits.

    Parameters
    ----------
    bitmap : int
        Bit g is set if channel group g (bank mode: the g-th nine channel groups) has weights.
    group_words, in_planes, bank_mode
        Fields of the layer descriptor.

    Returns
    -------
    list of (base, plane)
        Address of the group in the window memory, and the last channel group the pass reads.
    """
    groups = [g for g in range(bitmap.bit_length()) if bitmap >> g & 1]
    last = [min(TAPS * g + TAPS, in_planes) - 1 if bank_mode else g for g in groups]
    return [(g * group_words, plane) for g, plane in zip(groups, last, strict=True)]
