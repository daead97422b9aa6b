"""Schedule of the store and the writer, which end the layer."""

from collections.abc import Generator

from hwgate.machine.bursts import split_bursts
from hwgate.machine.config import CHUNK_BEATS
from hwgate.rtl.compress import COMPRESS_LATENCY, COMPRESSED_BEAT_LATENCY
from hwgate.rtl.store import (
    POOL_LATENCY,
    STORE_BEAT_LATENCY,
    STORE_READY_LATENCY,
    STORE_TILE_CYCLES,
)
from hwgate.rtl.writer import BURST_QUEUE, WRITE_BEAT_LATENCY
from hwgate.schedule.state import Block, LayerState, Times

__all__ = ["beat_latency", "complete", "store", "store_cycles"]


def store_cycles(layer: LayerState, tile: int) -> tuple[int, int, int]:
    """Units of an image's plane in a tile (words, or pooled pixels), those of a beat, and the
    cycles that the store reads for each."""
    d, own = layer.d, layer.tiles[tile]
    taps = d["pool"] ** 2 * layer.config.slot_reads
    if d["pool"] == 1:
        return own["out_beats"], 1, taps
    return own["store_pixels"], layer.config.beat_pixels, taps


def beat_latency(layer: LayerState) -> int:
    """Cycles from choosing the last word of a beat to the beat."""
    return STORE_BEAT_LATENCY + (POOL_LATENCY if layer.d["pool"] > 1 else 0)


def complete(layer: LayerState, tile: int, plane: int, at: int) -> Generator[Times, None, int]:
    """Ends with the first cycle from ``at`` on in which every lane has its part of a plane."""
    config = layer.config
    need = -(-(plane + 1) * config.channels // config.lanes)
    for lane in layer.lanes:
        jobs = lane.channels
        if jobs:
            job = tile * jobs + min(need, jobs) - 1
            while len(lane.outputs) <= job:
                yield lane.outputs
            at = max(at, lane.outputs[job] + STORE_READY_LATENCY)
    return at


def store(layer: LayerState) -> Block:
    """The store, and the writer or the on-chip map memory, neither of which makes it wait."""
    d, config, latency = layer.d, layer.config, beat_latency(layer)
    stored = layer.stored_maps.get("out")
    at, idle = 1, 1  # from when the store waits, and the writer's splitter is idle
    sent: list[int] = []      # last beat of each burst
    answered = 0  # cycle of the last answer, or of the last beat written on chip
    first = d["out_address"]
    for tile, own in enumerate(layer.tiles):
        units, per_beat, taps = store_cycles(layer, tile)
        address, at = first, at + STORE_TILE_CYCLES
        for plane in range(d["out_planes"]):
            ready = yield from complete(layer, tile, plane, at)
            if d["out_chip"]:
                at = ready + own["images"] * units * taps + 1
                answered = at - 1 + latency
                layer.chip_bytes += own["out_run_beats"] * config.bus.bytes
                continue
            if stored is not None:
                lengths = []
                for n in range(own["out_run_beats"] // CHUNK_BEATS):
                    lengths.append(stored.chunk(address + n * config.chunk_bytes)[0])
                    images, rest = divmod((n + 1) * CHUNK_BEATS, own["out_beats"])
                    done_units = images * units + min(units, rest * per_beat)
                    answered = max(answered + 1, ready + done_units * taps + latency
                                   + COMPRESS_LATENCY + COMPRESSED_BEAT_LATENCY + lengths[-1] - 1
                                   + WRITE_BEAT_LATENCY + layer.timing.write_latency)
                at = ready + own["images"] * units * taps + 1
                address += d["out_plane_stride"]
                layer.bytes["output"] = (layer.bytes.get("output", 0)
                                         + sum(lengths) * config.bus.bytes)
                continue
            begin = max(ready, idle)
            beats_done, idle = 0, begin
            for _, beats in split_bursts(config, address, own["out_run_beats"]):
                idle += 1
                if len(sent) >= BURST_QUEUE:
                    idle = max(idle, sent[len(sent) - BURST_QUEUE] + 1)
                beats_done += beats
                images, rest = divmod(beats_done, own["out_beats"])
                done_units = images * units + min(units, rest * per_beat)
                sent.append(begin + done_units * taps + latency + WRITE_BEAT_LATENCY)
                answered = max(answered + 1, sent[-1] + layer.timing.write_latency)
            idle += 1
            at = begin + own["images"] * units * taps + 1
            address += d["out_plane_stride"]
            layer.bytes["output"] = (layer.bytes.get("output", 0)
                                     + own["out_run_beats"] * config.bus.bytes)
        layer.stored.add(at)
        first = (first + own["out_stride"]) % (1 << 32)
    while len(layer.map_ends) < 2:
        yield layer.map_ends
    layer.end = max(at, answered + 1, *layer.map_ends)
