"""Decisions of a gated layer, as far as they matter for time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.plan.geometry import Tiling

__all__ = ["OpenPixels"]


@dataclass(frozen=True)
class OpenPixels:
    """Decisions of a gated layer, as far as they matter for time.

    Parameters
    ----------
    count, first, last : int (tiles, Co)
        Open pixels of each tile and channel, and the place of the first and last one among the
        windows of the tile. With a limit, the first one is that with which any counts.
    waits : mapping of (int, int) to list of (int, int)
        Of a tile and channel: the place of the pixel with which those of an image count, and how
        many open ones there are from the image's first on. Only with a limit.
    """

    count: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    waits: Mapping[tuple[int, int], list[tuple[int, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, decision: NDArray[np.bool_], tiling: Tiling, limit: int = 0) -> "OpenPixels":
        """Summary of decisions (N, Co, H, W) of a layer in such tiles. With a limit, an image and
        channel has no open pixel, or more than so many."""
        found: list[tuple[Any, Any, Any]] = []
        waits: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for tile, part in enumerate(tiling.parts()):
            own = decision[part.image:part.image + part.images, :,
                           part.first:part.first + part.rows]
            flat = own.swapaxes(0, 1).reshape(own.shape[1], -1)
            first = flat.argmax(axis=1)
            for channel in np.flatnonzero(flat.any(axis=1)).tolist() if limit else ():
                waits[tile, channel] = _waits(flat[channel], flat.shape[1] // part.images, limit)
                first[channel] = waits[tile, channel][0][0]
            found.append((flat.sum(axis=1), first,
                          flat.shape[1] - 1 - flat[:, ::-1].argmax(axis=1)))
        count, first, last = (np.array(values) for values in zip(*found, strict=True))
        return cls(count, first, last, waits)


def _waits(opened: NDArray[np.bool_], pixels: int, limit: int) -> list[tuple[int, int]]:
    """See :class:`OpenPixels`, of a tile and channel whose images have so many pixels."""
    places = np.flatnonzero(opened)
    _, starts = np.unique(places // pixels, return_index=True)
    return [(int(places[start + limit]), len(places) - int(start)) for start in starts]
