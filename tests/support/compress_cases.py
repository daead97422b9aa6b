"""Chunks with any pattern of zero bytes, for the tests of the compression of feature maps."""

import numpy as np
from numpy.typing import NDArray

from hwgate.machine.config import CHUNK_BEATS

__all__ = ["boundary_chunks", "random_chunk"]


def random_chunk(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """A chunk (CHUNK_BEATS, size) of any density, in part beat by beat."""
    shape = CHUNK_BEATS, size
    share = rng.choice([0, 0.05, 0.3, 0.5, 0.7, 0.75, 0.8, 1, rng.random()])
    keep = rng.random(shape) < share
    if rng.random() < 0.5:
        keep &= rng.random((CHUNK_BEATS, 1)) < rng.choice([0.3, 0.7])
    if rng.random() < 0.3:
        keep |= rng.random((CHUNK_BEATS, 1)) < 0.3
    return (keep * rng.integers(1, 256, shape)).astype(np.uint8)


def boundary_chunks(rng: np.random.Generator, size: int) -> list[NDArray[np.uint8]]:
    """Chunks with just as many bytes as fill some beats, one less and one more; at their front, at
    their end and anywhere."""
    chunks = []
    total = CHUNK_BEATS * size
    for count in sorted({min(total, max(0, beats * size + more))
                         for beats in range(CHUNK_BEATS + 1) for more in (-1, 0, 1)}):
        for places in (np.arange(count), np.arange(total - count, total),
                       rng.permutation(total)[:count]):
            chunk = np.zeros(total, np.uint8)
            chunk[places] = rng.integers(1, 256, count)
            chunks.append(chunk.reshape(CHUNK_BEATS, size))
    return chunks
