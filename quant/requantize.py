"""Golden model of the requantizer."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["SHIFTS", "requantize"]

#: Smallest and largest right shift. The largest keeps every intermediate below 64 bits.
SHIFTS = (1, 47)


def requantize(psum: ArrayLike, bias: ArrayLike, mult: ArrayLike, shift: ArrayLike,
               low: int, high: int, residual: ArrayLike = 0,
               mult_residual: ArrayLike = 0, relu_first: ArrayLike = False) -> NDArray[np.int64]:
    """``clamp(((psum + bias) * mult + residual * mult_residual + 2^(shift-1)) >> shift)``.

    One rounding, half up, by an arithmetic shift; exact in int64 for psums and biases of 32 bits,
    factors of 16 bits, residuals of 8 bits, their factors of 24 bits and shifts in :data:`SHIFTS`.

    Parameters
    ----------
    psum, bias, mult, shift, residual, mult_residual : integer arrays
        Broadcast against each other.
    low, high : int
        Limits of the clamp, both included.
    relu_first : array of bool
        Clamp ``(psum + bias) * mult`` at 0 from below. Broadcasts likewise.

    Returns
    -------
    int64 array
    """
    total, factor, places = (np.asarray(v, np.int64) for v in (psum, mult, shift))
    assert ((places >= SHIFTS[0]) & (places <= SHIFTS[1])).all(), places
    product = (total + np.asarray(bias, np.int64)) * factor
    product = np.where(relu_first, np.maximum(product, 0), product)
    product = product + np.asarray(residual, np.int64) * np.asarray(mult_residual, np.int64)
    half = np.int64(1) << (places - 1)
    return np.clip((product + half) >> places, low, high)
