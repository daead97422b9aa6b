"""Golden model of the dot product of a window and a weight block."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["dot"]


def dot(window: NDArray[np.int8], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """Exact sum of the 9·R products.

    Parameters
    ----------
    window, weights : int8 (..., 9, R)

    Returns
    -------
    int64 (...)
    """
    return (window.astype(np.int64) * weights.astype(np.int64)).sum(axis=(-2, -1))
