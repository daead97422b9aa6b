"""Schedule of the weight fetches of a lane."""

from hwgate.rtl.fetch import (
    HEADER_TO_CLAIM,
    HEADER_TO_REST,
    JOBS_ALIVE,
    REQUEST_CYCLES,
    start_latency,
)
from hwgate.rtl.unpack import UNPACK_LATENCY
from hwgate.rtl.weights import BLOCK_LATENCY
from hwgate.schedule.state import Block, Kept, LaneState, LayerState, Read

__all__ = ["fetch_conditional", "fetch_jobs"]


def _blocks(layer: LayerState, lane: LaneState, stream: str, source: int, since: int,
            address: int, beats: int, blocks: int, requested: int, header: int,
            kept: Kept) -> Read:
    """One request of a :class:`BlockFetch`, whose run was accepted in cycle ``since``, or the
    request before taken, when its queue has room; as :meth:`LayerState.read`."""
    short = requested + blocks - layer.config.buffers.weight_blocks
    if short > 0:
        while len(lane.freed[stream]) < short:
            yield lane.freed[stream]
        since = max(since, lane.freed[stream][short - 1] - 1)  # the cycle of the swap
    grant, beat = yield from layer.read(source, since + REQUEST_CYCLES, address, beats, stream,
                                        kept=kept)
    interval, latency = layer.weight_interval(kept), UNPACK_LATENCY + BLOCK_LATENCY
    for beats_before in layer.block_beats[:blocks]:
        lane.weights[stream].add(beat + (header + beats_before) * interval + latency)
    return grant, beat


def fetch_jobs(layer: LayerState, lane: LaneState, source: int) -> Block:
    """Headers and base blocks of a lane's jobs."""
    d, size = layer.d, layer.config.bus.bytes
    claim, free, requested = start_latency(layer.config), 0, 0
    for number, (tile, channel, score, _) in enumerate(lane.jobs):
        keep = channel < d["kept_channels"]
        kept = Kept(keep, keep and tile > 0)
        if number >= JOBS_ALIVE:
            while len(lane.done) <= number - JOBS_ALIVE:
                yield lane.done
            claim = max(claim, lane.done[number - JOBS_ALIVE] + 1)
        address = d["weights_address"] + layer.plan.places[channel, score] * d["job_stride"]
        grant, beat = yield from _blocks(
            layer, lane, "base", source, max(claim, free), address, d["first_beats"],
            d["first_blocks"], requested, layer.header_beats, kept)
        requested += d["first_blocks"]
        interval = layer.weight_interval(kept)
        header = beat + (layer.header_beats - 1) * interval + UNPACK_LATENCY
        rest = len(layer.plan.job(channel, score).base) - d["first_blocks"]
        address += d["first_beats"] * size
        claim, since, free = header + HEADER_TO_CLAIM, header + HEADER_TO_REST, 0
        for blocks, beats in layer.chunks(rest):
            grant, _ = yield from _blocks(layer, lane, "base", source, since, address, beats,
                                          blocks, requested, 0, kept)
            requested += blocks
            address += beats * size
            since, free = grant, grant + 1


def fetch_conditional(layer: LayerState, lane: LaneState, source: int) -> Block:
    """Conditional blocks of the jobs that open a gate."""
    d, requested, number, free = layer.d, 0, 0, 0
    while True:
        while len(lane.runs) <= number:
            yield lane.runs
        since, channel, blocks_left = lane.runs[number]
        since = max(since, free)
        keep = channel < d["kept_channels"]
        kept = Kept(keep, keep and channel in layer.asked)
        layer.asked.add(channel)
        place = layer.plan.places[channel, False]
        address = d["weights_address"] + place * d["job_stride"] + d["cond_offset"]
        for blocks, beats in layer.chunks(blocks_left):
            grant, _ = yield from _blocks(layer, lane, "conditional", source, since, address,
                                          beats, blocks, requested, 0, kept)
            requested += blocks
            address += beats * layer.config.bus.bytes
            since = grant
        free, number = since + 1, number + 1
