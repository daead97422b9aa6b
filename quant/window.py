"""Golden model of the window memory."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["channel_groups", "window"]


def window(x: NDArray[np.int8], row: int, column: int, pad: int,
           pad_top: int) -> NDArray[np.int8]:
    """The 3x3 window of one channel group at a position of the padded map.

    Windows of a larger kernel are several of these, three rows and columns apart.

    Parameters
    ----------
    x : int8 (R, H, W)
        A channel group, without padding.
    row, column : int
        Top left corner of the window in the padded map, whose corner is (0, 0).
    pad, pad_top : int
        Columns to the left of the map, and rows above it.

    Returns
    -------
    int8 (9, R)
        Tap ``3*i + j`` is pixel ``(row + i, column + j)`` of the padded map: zero outside ``x``,
        on any side and however far.
    """
    padded = np.pad(x, ((0, 0), (pad_top, row + 3), (pad, column + 3)))
    taps = padded[:, row:row + 3, column:column + 3]
    return taps.reshape(len(x), 9).T


def channel_groups(x: NDArray[np.int8], row: int, column: int) -> NDArray[np.int8]:
    """What stands for a window in a 1x1 layer: nine channel groups of one pixel.

    Parameters
    ----------
    x : int8 (9, R, H, W)
        Nine channel groups.
    row, column : int
        The pixel.

    Returns
    -------
    int8 (9, R)
        Tap ``t`` is group ``t``.
    """
    assert len(x) == 9, x.shape
    return x[:, :, row, column]
