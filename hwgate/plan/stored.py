"""Compressed feature maps in memory: which ones can be, and how long each of their chunks is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.machine.config import CHUNK_BEATS, AcceleratorConfig
from hwgate.machine.layouts import tiles_of
from hwgate.quant.compress import beats_needed, chunk_lengths

__all__ = ["ASSUMPTION", "StoredMap", "whole_chunks"]

#: What :meth:`StoredMap.assumed` stands for, in words.
ASSUMPTION = "every second byte of compressed maps zero"


@dataclass(frozen=True)
class StoredMap:
    """Chunks of a compressed map.

    Parameters
    ----------
    address : int
        First byte in memory.
    chunk_bytes : int
        Before zeros are left out.
    lengths : list of int
        Stored beats of each chunk.
    needed : list of list of int
        How many stored beats of its chunk each beat is restored from.
    """

    address: int
    chunk_bytes: int
    lengths: list[int]
    needed: list[list[int]]

    @classmethod
    def of(cls, config: AcceleratorConfig, address: int, packed: NDArray[Any]) -> "StoredMap":
        """A map that is ``packed`` as in memory, before zeros are left out."""
        beats = packed.reshape(-1, config.bus.bytes)
        return cls(address, config.chunk_bytes, chunk_lengths(beats).tolist(),
                   beats_needed(beats).tolist())

    @classmethod
    def assumed(cls, config: AcceleratorConfig, address: int, size: int) -> "StoredMap":
        """A map of ``size`` bytes, of which every second one is zero."""
        return cls.of(config, address, np.arange(size, dtype=np.int8) % 2)

    def chunk(self, address: int) -> tuple[int, list[int]]:
        """Stored beats of the chunk at an address, and how many each of its beats needs."""
        number = (address - self.address) // self.chunk_bytes
        return self.lengths[number], self.needed[number]


def whole_chunks(config: AcceleratorConfig, d: Mapping[str, int], prefix: str) -> bool:
    """Whether a descriptor reads (``"in"``, ``"res"``) or writes (``"out"``) whole chunks of a map
    only, with addresses relative to it."""
    runs, stride = ((d["out_planes"], d["out_plane_stride"]) if prefix == "out" else
                    (d[f"{prefix}_runs"], d[f"{prefix}_run_stride"]))
    tiles = tiles_of(d)
    steps = [d[f"{prefix}_address"], *(tile[f"{prefix}_stride"] for tile in tiles[:-1]),
             *[stride] * (runs > 1)]
    return (all(tile[f"{prefix}_run_beats"] % CHUNK_BEATS == 0 for tile in tiles)
            and all(step % config.chunk_bytes == 0 for step in steps))
