"""Golden model of the channel gate."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["decide"]


def decide(psum_base: NDArray[np.int64], threshold: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Decisions of the gate: open iff the base psum is strictly greater than the threshold.

    Parameters
    ----------
    psum_base : int64 array
        Partial sums of the base path.
    threshold : int64 array
        Broadcasts against ``psum_base``.

    Returns
    -------
    bool array
        True where the gate opens. A tie stays closed.
    """
    return np.asarray(psum_base) > np.asarray(threshold)
