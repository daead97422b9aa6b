"""Golden model of a weight queue: which windows each block of a job belongs to."""

from hwgate.machine.config import TAPS

__all__ = ["passes"]


def passes(bitmap: int, group_words: int, in_planes: int, bank_mode: bool, row_words: int = 0,
           kernel_blocks: int = 1) -> list[tuple[int, int, int, int]]:
    """Passes of the blocks of a bitmap: in the order of its bits, and for each bit the blocks of
    the kernel, row by row.

    Parameters
    ----------
    bitmap : int
        Bit g is set if channel group g (bank mode: the g-th nine channel groups) has weights.
    group_words, in_planes, bank_mode, row_words, kernel_blocks
        Fields of the layer descriptor.

    Returns
    -------
    list of (base, row, column, plane)
        Address of the block's windows in the window memory, its place in the kernel in blocks of
        three taps, and the last channel group the pass reads.
    """
    found = []
    for group in range(bitmap.bit_length()):
        if bitmap >> group & 1:
            last = min(TAPS * group + TAPS, in_planes) - 1 if bank_mode else group
            found += [(group * group_words + row * row_words + column, row, column, last)
                      for row in range(kernel_blocks) for column in range(kernel_blocks)]
    return found
