"""Golden model of the compressed feature maps: chunks of beats without their zero bytes.

A chunk of :data:`hwgate.machine.config.CHUNK_BEATS` beats is stored as a mask, one bit per byte,
and its bytes that are not zero, packed and padded with zeros to whole beats. The masks of all
beats of a chunk fill one beat. A chunk that would not become shorter is stored as it is.
"""

import numpy as np
from numpy.typing import NDArray

from hwgate.machine.config import CHUNK_BEATS

__all__ = ["beats_needed", "chunk_lengths", "compress", "decompress"]


def chunk_lengths(beats: NDArray[np.integer]) -> NDArray[np.int64]:
    """Stored beats of each chunk.

    Parameters
    ----------
    beats : (n, bytes of a beat)
        Whole chunks, in the order of their addresses.

    Returns
    -------
    int (n / CHUNK_BEATS,)
        From 1, a chunk of nothing but zeros, to CHUNK_BEATS, one that is stored as it is.
    """
    chunks = _chunks(beats)
    return np.minimum(1 - -_nonzero(chunks)[:, -1] // chunks.shape[2], CHUNK_BEATS)


def beats_needed(beats: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many stored beats of its chunk each beat is restored from.

    Parameters and returns as for :func:`chunk_lengths`, but (n / CHUNK_BEATS, CHUNK_BEATS).
    """
    chunks = _chunks(beats)
    needed = 1 - -_nonzero(chunks) // chunks.shape[2]
    plain = needed[:, -1:] >= CHUNK_BEATS
    return np.where(plain, np.arange(1, CHUNK_BEATS + 1), needed)


def compress(chunk: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Beats (1..CHUNK_BEATS, bytes) that a chunk (CHUNK_BEATS, bytes) is stored as."""
    raw = np.ascontiguousarray(chunk).view(np.uint8)
    mask = np.packbits((raw != 0).reshape(-1), bitorder="little")
    packed = raw[raw != 0]
    stored = np.zeros((CHUNK_BEATS, raw.shape[1]), np.uint8)
    length = int(chunk_lengths(raw)[0])
    if length == CHUNK_BEATS:
        return raw.copy()
    stored[0] = mask
    stored[1:].reshape(-1)[:len(packed)] = packed
    return stored[:length]


def decompress(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The chunk (CHUNK_BEATS, bytes) that :func:`compress` was given."""
    if len(stored) == CHUNK_BEATS:
        return stored.copy()
    keep = np.unpackbits(stored[0], bitorder="little").astype(bool)
    chunk = np.zeros(len(keep), np.uint8)
    chunk[keep] = stored[1:].reshape(-1)[:keep.sum()]
    return chunk.reshape(CHUNK_BEATS, -1)


def _chunks(beats: NDArray[np.integer]) -> NDArray[np.integer]:
    return beats.reshape(-1, CHUNK_BEATS, beats.shape[1])


def _nonzero(chunks: NDArray[np.integer]) -> NDArray[np.int64]:
    """Bytes that are not zero up to the end of each beat of a chunk."""
    return (chunks != 0).sum(axis=2).cumsum(axis=1)
