"""Where pixels lie: feature maps in memory, and words in the nine banks of a window memory.

A *word* holds R channels of one pixel. Pixel by pixel rather than fast: what the loader and the
store are tested against.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

__all__ = ["BANKS", "bank_memory", "feature_map", "window_memory"]

#: Banks of a window memory: the taps of a 3x3 window, which never share one.
BANKS = 9


def feature_map(x: NDArray[np.int8], channels: int, beat_pixels: int) -> NDArray[np.int8]:
    """One image's feature map as it lies in memory, ``[group][y][x][R]``.

    Parameters
    ----------
    x : int8 (C, H, W)
    channels : int
        R.
    beat_pixels : int
        Words of one beat. A group occupies whole beats; what is missing there, and channels
        beyond C, are zero.

    Returns
    -------
    int8 (groups, pixels, R)
        ``pixels`` is H*W, rounded up to whole beats.
    """
    count, height, width = x.shape
    pixels = ceil(height * width / beat_pixels) * beat_pixels
    memory = np.zeros((ceil(count / channels), pixels, channels), np.int8)
    for channel, row, column in np.ndindex(x.shape):
        word = memory[channel // channels, row * width + column]
        word[channel % channels] = x[channel, row, column]
    return memory


def window_memory(x: NDArray[np.int8], channels: int,
                  padding: int) -> dict[tuple[int, int], NDArray[np.int8]]:
    """Words of a feature map in a window memory, for 3x3 kernels.

    Pixel (y, x) of the padded map lies in bank (y mod 3, x mod 3); the groups follow one another
    in every bank. Padding has a place, but is never written.

    Parameters
    ----------
    x : int8 (C, H, W)
    channels : int
        R.
    padding : int

    Returns
    -------
    dict of (bank, address) to int8 (R,)
        Exactly the words that are written.
    """
    _, height, width = x.shape
    row_words = ceil((width + 2 * padding) / 3)
    group_words = row_words * ceil((height + 2 * padding) / 3)
    words = {}
    for group, plane in enumerate(feature_map(x, channels, 1)):
        for row, column in np.ndindex(height, width):
            y, x_ = row + padding, column + padding
            address = group * group_words + y // 3 * row_words + x_ // 3
            words[y % 3 * 3 + x_ % 3, address] = plane[row * width + column]
    return words


def bank_memory(x: NDArray[np.int8], channels: int) -> dict[tuple[int, int], NDArray[np.int8]]:
    """Words of a feature map in a window memory, for 1x1 kernels: a bank holds whole groups.

    Group g lies in bank g mod 9, so that a pixel's nine words of nine groups are read together.
    Parameters and result are those of :func:`window_memory`.
    """
    words = {}
    for group, plane in enumerate(feature_map(x, channels, 1)):
        for pixel, word in enumerate(plane):
            words[group % BANKS, group // BANKS * len(plane) + pixel] = word
    return words
