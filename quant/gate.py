"""Golden model of the channel gate, and of tau."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["close_idle", "decide"]


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


def close_idle(decisions: NDArray[np.bool_], limit: int) -> NDArray[np.bool_]:
    """Decisions with the gates of a channel closed again for an image in which few are open.

    Parameters
    ----------
    decisions : bool (N, Co, H, W)
    limit : int
        Most open gates of a map that are few; 0 changes nothing.

    Returns
    -------
    bool (N, Co, H, W)
    """
    return np.asarray(decisions & (decisions.sum(axis=(2, 3), keepdims=True) > limit))
