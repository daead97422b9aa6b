"""Golden model of compressed feature maps: nothing is lost, and nothing grows."""

import numpy as np
import pytest

from hwgate.machine.config import CHUNK_BEATS
from hwgate.quant.compress import beats_needed, chunk_lengths, compress, decompress
from support.compress_cases import boundary_chunks, random_chunk


def chunks_of(size, seed=1):
    rng = np.random.default_rng(seed)
    return boundary_chunks(rng, size) + [random_chunk(rng, size) for _ in range(200)]


@pytest.mark.parametrize("size", [8, 16])
def test_restores_every_chunk(size):
    for chunk in chunks_of(size):
        stored = compress(chunk)
        assert stored.dtype == np.uint8 and stored.shape[1] == size
        np.testing.assert_array_equal(decompress(stored), chunk)


@pytest.mark.parametrize("size", [8, 16])
def test_a_chunk_has_a_mask_and_its_bytes_unless_that_is_no_shorter(size):
    for chunk in chunks_of(size):
        count, stored = int((chunk != 0).sum()), compress(chunk)
        beats = 1 + -(-count // size)
        if beats >= CHUNK_BEATS:
            np.testing.assert_array_equal(stored, chunk)
        else:
            assert len(stored) == beats
            assert [bit for byte in stored[0] for bit in f"{byte:08b}"[::-1]] == [
                str(int(byte != 0)) for byte in chunk.reshape(-1)]
            packed = stored[1:].reshape(-1)
            assert not packed[count:].any()
            np.testing.assert_array_equal(packed[:count], chunk[chunk != 0])
        assert len(stored) == chunk_lengths(chunk)[0]


@pytest.mark.parametrize("size", [8, 16])
def test_a_beat_needs_the_stored_beats_that_hold_its_bytes(size):
    """Later stored beats may be anything, and the one before must not."""
    for chunk in chunks_of(size):
        stored, needed = compress(chunk), beats_needed(chunk)[0]
        for row, count in enumerate(needed):
            cut = np.zeros_like(stored)
            cut[:count] = stored[:count]
            np.testing.assert_array_equal(decompress(cut)[:row + 1], chunk[:row + 1])
        assert (np.diff(needed) >= 0).all() and needed[-1] <= len(stored)
        own = (chunk != 0).sum(axis=1)
        assert all(needed[row] > needed[row - 1] for row in range(1, CHUNK_BEATS)
                   if own[row] == size)


def test_many_chunks_at_once():
    chunks = chunks_of(16)
    beats = np.concatenate(chunks).view(np.int8)
    np.testing.assert_array_equal(chunk_lengths(beats), [len(compress(c)) for c in chunks])
    np.testing.assert_array_equal(beats_needed(beats), [beats_needed(c)[0] for c in chunks])


def test_shortest_and_longest():
    nothing = np.zeros((CHUNK_BEATS, 16), np.uint8)
    assert len(compress(nothing)) == 1
    assert len(compress(nothing + 1)) == CHUNK_BEATS
    nothing[3, 5] = 128
    assert compress(nothing).shape == (2, 16)
