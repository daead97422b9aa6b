"""Feature maps side by side: what a layer that takes several outputs reads."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["joined", "side_by_side", "stored_places"]


def joined(maps: Sequence[NDArray[np.int8]]) -> NDArray[np.int8]:
    """Feature maps (N, C, H, W) side by side, one's channels after the other's."""
    return maps[0] if len(maps) == 1 else np.concatenate(maps, axis=1)


def stored_places(parts: Sequence[int], size: int) -> NDArray[np.int64]:
    """Place in memory of each channel of maps side by side, which lie in whole channel groups.

    Parameters
    ----------
    parts : sequence of int
        Channels of each map.
    size : int
        R, channels of a group.
    """
    starts = np.cumsum([0, *(-(-part // size) * size for part in parts[:-1])])
    return np.concatenate([start + np.arange(part)
                           for start, part in zip(starts, parts, strict=True)])


def side_by_side(runs: Iterable[Sequence[int]]) -> tuple[dict[int, tuple[int, ...]], int | None]:
    """Order of maps in memory in which each run of maps lies side by side.

    Parameters
    ----------
    runs : iterable of sequences of int
        Indices of maps; runs may overlap.

    Returns
    -------
    chains : mapping of int to tuple of int
        Of each map: all that lie side by side with it, in order, itself among them.
    conflict : int or None
        Number of the first run for which there is no such order; it has no place in ``chains``.
    """
    after, before = dict[int, int](), dict[int, int]()
    maps, conflict = dict[int, None](), None
    for number, run in enumerate(runs):
        pairs = list(pairwise(run))
        fits = len(set(run)) == len(run) and all(
            after.get(one, two) == two and before.get(two, one) == one for one, two in pairs)
        if fits and not _closes(after, pairs):
            after.update(pairs)
            before.update((two, one) for one, two in pairs)
            maps |= dict.fromkeys(run)
        elif conflict is None:
            conflict = number
    chains = dict[int, tuple[int, ...]]()
    for first in maps:
        if first not in before:
            chain = [first]
            while chain[-1] in after:
                chain.append(after[chain[-1]])
            chains |= dict.fromkeys(chain, tuple(chain))
    return chains, conflict


def _closes(after: dict[int, int], pairs: Sequence[tuple[int, int]]) -> bool:
    """Whether further neighbours would make a circle."""
    following = after | dict(pairs)
    for start, _ in pairs:
        at = following.get(start)
        while at is not None and at != start:
            at = following.get(at)
        if at == start:
            return True
    return False
