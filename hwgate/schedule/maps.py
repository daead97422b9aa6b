"""Schedule of the loaders: feature maps and residual operands of one tile after another."""

from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from typing import NamedTuple

from hwgate.machine.config import CHUNK_BEATS
from hwgate.rtl.decompress import DECOMPRESS_LATENCY
from hwgate.rtl.loader import LOADED_LATENCY, TILE_CYCLES
from hwgate.rtl.tiles import (
    QUEUE_LATENCY,
    REQUEST_CYCLES,
    RUN_CYCLES,
    TILE_CHUNK,
    TILE_QUEUE,
    TURN_CYCLES,
)
from hwgate.schedule.state import HALVES, Block, LayerState, Times

__all__ = ["PlaneWalk", "load", "load_residual", "window_walk", "words_loaded"]


class PlaneWalk(NamedTuple):
    """How a loader works through a plane.

    Parameters
    ----------
    steps : list of int
        Of each beat: cycles from taking it until the next one can be taken.
    end : int
        Cycles from taking the last beat to the last step.
    writes : list of (int, int)
        Steps of the first image: the beat after which one follows, and by how many cycles.
    words : list of int
        Pixels that are loaded with each of them.
    """

    steps: list[int]
    end: int
    writes: Sequence[tuple[int, int]] = ()
    words: Sequence[int] = ()


def window_walk(layer: LayerState, tile: int) -> PlaneWalk:
    """A plane of a tile in the loader: rows, and the pixels before them in their first beat, are
    cut into what is written in a cycle."""
    d = layer.tiles[tile]
    most = 1 if d["bank_mode"] else layer.config.write_words
    walk = _cut(layer.config.beat_pixels, most, d["in_skip"], d["in_rows"], d["in_width"])
    return walk._replace(steps=walk.steps * d["images"])


@lru_cache(maxsize=256)
def _cut(pixels: int, most: int, skip: int, rows: int, width: int) -> PlaneWalk:
    """Walk of one image with beats of so many pixels."""
    total = skip + rows * width
    steps, writes, words = [0] * -(-total // pixels), [], []
    starts = accumulate([skip, *[width] * rows], initial=0)
    for start, stop in pairwise(starts):
        for first in range(start, stop, most):
            beat, end = first // pixels, min(first + most, stop)
            steps[beat] += 1
            # What reaches into the next beat is written when that one is taken.
            writes.append((beat, steps[beat]) if end <= (beat + 1) * pixels else (beat + 1, 0))
            words.append(end)
    beat, after = writes[-1]
    return PlaneWalk([max(1, count) for count in steps], after, writes, words)


def load(layer: LayerState, source: int) -> Block:
    """The loader: windows of one tile after another."""
    yield from _tiles(layer, source, "in", "windows", partial(window_walk, layer), layer.loaded,
                      layer.window_beats)


def words_loaded(layer: LayerState, plane: int, words: int) -> Generator[Times, None, int]:
    """Ends with the cycle from which ``words`` pixels of a plane, or all, count as loaded.

    Tiles of several images count whole planes only.
    """
    tile, number = divmod(plane, layer.d["in_planes"])
    walk = window_walk(layer, tile)
    write = bisect_left(walk.words, words)
    if write >= len(walk.words) - 1:
        while len(layer.loaded) <= plane:
            yield layer.loaded
        return int(layer.loaded[plane])
    beat, after = walk.writes[write]
    beat += layer.beats_before[tile] + number * len(walk.steps)
    while len(layer.window_beats) <= beat:
        yield layer.window_beats
    return int(layer.window_beats[beat]) + after + LOADED_LATENCY


def load_residual(layer: LayerState, source: int) -> Block:
    """The residual loader."""
    config = layer.config
    each = config.slot_reads * (config.beat_pixels if layer.d["res_step"] == 2 else 1)

    def walk(tile: int) -> PlaneWalk:
        d = layer.tiles[tile]
        return PlaneWalk([each] * (d["images"] * d["res_beats"]), each)

    yield from _tiles(layer, source, "res", "residual", walk, layer.operands, layer.operand_beats)


def _tiles(layer: LayerState, source: int, prefix: str, stream: str,
           walk_of: Callable[[int], PlaneWalk], loaded: Times, takes: Times) -> Block:
    """A :class:`TileQueue` and its user, which takes a beat when it has worked through the one
    before; ``takes`` gets the cycles."""
    d, config = layer.d, layer.config
    planes = d[f"{prefix}_planes"]
    chip = bool(d[f"{prefix}_chip"])
    interval = 1 if chip else layer.timing.beat_interval
    stored = layer.stored_maps.get(prefix)
    unit = TILE_CHUNK if stored is None else CHUNK_BEATS
    latency = 1 + DECOMPRESS_LATENCY if config.buffers.compressed_chunks else QUEUE_LATENCY
    turn, busy, end, at, plane, first = 1, 0, -1, 0, 0, d[f"{prefix}_address"]
    for tile, own in enumerate(layer.tiles if d[f"{prefix}_runs"] else ()):
        walk, free = walk_of(tile), turn
        for lane in layer.lanes:
            jobs = lane.channels
            if tile >= HALVES and jobs:
                while len(lane.outputs) < (tile - HALVES + 1) * jobs:
                    yield lane.outputs
                free = max(free, lane.outputs[(tile - HALVES + 1) * jobs - 1])
        begin = free + TURN_CYCLES
        for run in range(d[f"{prefix}_runs"]):
            address = first + run * d[f"{prefix}_run_stride"]
            left, looks = own[f"{prefix}_run_beats"], begin + RUN_CYCLES
            while left:
                chunk = min(unit, left)
                beats, needed = (chunk, range(1, chunk + 1)) if stored is None else (
                    stored.chunk(address))
                short = len(takes) + chunk - TILE_QUEUE
                if short > 0:
                    looks = max(looks, takes[short - 1] + 1)
                grant, beat = yield from layer.read(source, looks + REQUEST_CYCLES, address, beats,
                                                    stream, chip)
                for count in needed:
                    take = max(busy, beat + (count - 1) * interval + latency)
                    busy = take + walk.steps[at]
                    takes.append(take)
                    at += 1
                    if at == len(walk.steps):
                        end = take + walk.end
                        loaded.add(end + LOADED_LATENCY)
                        at, plane = 0, plane + 1
                        if plane % planes == 0:
                            busy = end + TILE_CYCLES
                takes.wake()
                looks, left = grant + REQUEST_CYCLES + 1, left - chunk
                address += chunk * config.bus.bytes
            begin = turn = grant + 1
        first = (first + own[f"{prefix}_stride"]) % (1 << 32)
    layer.map_ends.add(end + 1)
