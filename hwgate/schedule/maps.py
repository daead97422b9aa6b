"""Schedule of the loaders: feature maps and residual operands of one tile after another."""

from bisect import bisect_right
from collections.abc import Callable, Generator
from itertools import pairwise

from hwgate.machine.config import CHUNK_BEATS
from hwgate.rtl.chunks import LOOKUP_CYCLES
from hwgate.rtl.decompress import DECOMPRESS_LATENCY
from hwgate.rtl.loader import LOADED_LATENCY
from hwgate.rtl.tiles import TILE_CHUNK, TILE_QUEUE
from hwgate.schedule.state import HALVES, Block, LayerState, Times

__all__ = ["load", "load_residual", "words_loaded"]


def load(layer: LayerState, source: int) -> Block:
    """The loader: windows of one tile after another. It takes a beat when the pixels that are left
    of those before do not fill a cycle's writes."""
    def steps(tile: int) -> list[int]:
        writes = layer.plane_writes[tile]
        return [after - before for before, after in pairwise(writes)] * layer.tiles[tile]["images"]

    yield from _tiles(layer, source, "in", "windows", steps, layer.loaded, layer.window_beats)


def words_loaded(layer: LayerState, plane: int, words: int) -> Generator[Times, None, int]:
    """Ends with the cycle from which ``words`` pixels of a plane, or all, count as loaded.

    Tiles of several images count whole planes only.
    """
    tile, number = divmod(plane, layer.d["in_planes"])
    writes = layer.plane_writes[tile]
    write = -(-words // layer.write_words) - 1
    beat = bisect_right(writes, write) - 1
    if beat >= len(writes) - 1:
        while len(layer.loaded) <= plane:
            yield layer.loaded
        return int(layer.loaded[plane])
    after = write - writes[beat]
    beat += layer.beats_before[tile] + number * (len(writes) - 1)
    while len(layer.window_beats) <= beat:
        yield layer.window_beats
    return int(layer.window_beats[beat]) + after + LOADED_LATENCY


def load_residual(layer: LayerState, source: int) -> Block:
    """The residual loader, which takes a beat when it has written it."""
    config = layer.config
    each = config.slot_reads * (config.beat_pixels if layer.d["res_step"] == 2 else 1)

    def steps(tile: int) -> list[int]:
        d = layer.tiles[tile]
        return [each] * (d["images"] * d["res_beats"])

    yield from _tiles(layer, source, "res", "residual", steps, layer.operands)


def _tiles(layer: LayerState, source: int, prefix: str, stream: str,
           steps_of: Callable[[int], list[int]], loaded: Times,
           takes: Times | None = None) -> Block:
    """A :class:`TileQueue`, whose user writes for so many cycles after each beat of a tile's
    plane, and takes the beat before them (then ``takes`` gets the cycles), or in the last one."""
    d, config = layer.d, layer.config
    popped: list[int] = []  # cycle from which each beat's place in the queue is free
    chip = bool(d[f"{prefix}_chip"])
    interval = 1 if chip else layer.timing.beat_interval
    stored = layer.stored_maps.get(prefix)
    unit, lookup = (TILE_CHUNK, 0) if stored is None else (CHUNK_BEATS, LOOKUP_CYCLES)
    latency = 1 + (DECOMPRESS_LATENCY if config.buffers.compressed_chunks else 0)
    valid, busy, at, first = 1, 0, 0, d[f"{prefix}_address"]
    for tile, own in enumerate(layer.tiles if d[f"{prefix}_runs"] else ()):
        steps = steps_of(tile)
        for lane in layer.lanes:
            jobs = lane.channels
            if tile >= HALVES and jobs:
                while len(lane.outputs) < (tile - HALVES + 1) * jobs:
                    yield lane.outputs
                valid = max(valid, lane.outputs[(tile - HALVES + 1) * jobs - 1])
        valid += 1
        for run in range(d[f"{prefix}_runs"]):
            address = first + run * d[f"{prefix}_run_stride"]
            left = own[f"{prefix}_run_beats"]
            while left:
                chunk, valid = min(unit, left), valid + lookup
                beats, needed = (chunk, range(1, chunk + 1)) if stored is None else (
                    stored.chunk(address))
                short = len(popped) + chunk - TILE_QUEUE
                if short > 0:
                    valid = max(valid, popped[short - 1])
                grant, beat = yield from layer.read(source, valid, address, beats, stream, chip)
                for count in needed:
                    take = max(busy, beat + (count - 1) * interval + latency)
                    busy = take + steps[at]
                    popped.append(busy if takes is None else take + 1)
                    if takes is not None:
                        takes.append(take)
                    at += 1
                    if at == len(steps):
                        loaded.add(busy - 1 + LOADED_LATENCY)
                        at = 0
                if takes is not None:
                    takes.wake()
                valid, left = grant + 1, left - chunk
                address += chunk * config.bus.bytes
        first = (first + own[f"{prefix}_stride"]) % (1 << 32)
    layer.map_ends.add(busy)
