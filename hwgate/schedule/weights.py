"""Schedule of the weight fetches of a lane."""

from hwgate.rtl.fetch import JOBS_ALIVE
from hwgate.rtl.unpack import UNPACK_LATENCY
from hwgate.rtl.weights import BLOCK_LATENCY
from hwgate.schedule.state import Block, Kept, LaneState, LayerState, Read

__all__ = ["fetch_conditional", "fetch_jobs"]


def _blocks(layer: LayerState, lane: LaneState, stream: str, source: int, valid: int,
            address: int, beats: int, blocks: int, requested: int, header: int,
            kept: Kept) -> Read:
    """One request of a :class:`BlockFetch`, when its queue has room; as :meth:`LayerState.read`."""
    short = requested + blocks - layer.config.buffers.weight_blocks
    if short > 0:
        while len(lane.freed[stream]) < short:
            yield lane.freed[stream]
        valid = max(valid, lane.freed[stream][short - 1])
    grant, beat = yield from layer.read(source, valid, address, beats, stream, kept=kept)
    interval, latency = layer.weight_interval(kept), UNPACK_LATENCY + BLOCK_LATENCY
    for beats_before in layer.block_beats[:blocks]:
        lane.weights[stream].add(beat + (header + beats_before) * interval + latency)
    return grant, beat


def fetch_jobs(layer: LayerState, lane: LaneState, source: int) -> Block:
    """Headers and base blocks of a lane's jobs."""
    d, size = layer.d, layer.config.bus.bytes
    claim, ready, requested = 1, 1, 0
    for number, (tile, channel, score, _) in enumerate(lane.jobs):
        keep = channel < d["kept_channels"]
        kept = Kept(keep, keep and tile > 0)
        if number >= JOBS_ALIVE:
            while len(lane.done) <= number - JOBS_ALIVE:
                yield lane.done
            claim = max(claim, lane.done[number - JOBS_ALIVE])
        claim = max(claim, ready)
        address = d["weights_address"] + layer.plan.places[channel, score] * d["job_stride"]
        grant, beat = yield from _blocks(
            layer, lane, "base", source, claim + 1, address, d["first_beats"], d["first_blocks"],
            requested, layer.header_beats, kept)
        requested += d["first_blocks"]
        interval = layer.weight_interval(kept)
        header = beat + (layer.header_beats - 1) * interval + UNPACK_LATENCY
        rest = len(layer.plan.job(channel, score).base) - d["first_blocks"]
        address += d["first_beats"] * size
        claim = ready = header + 2
        for blocks, beats in layer.chunks(rest):
            grant, _ = yield from _blocks(layer, lane, "base", source, ready, address, beats,
                                           blocks, requested, 0, kept)
            requested += blocks
            address += beats * size
            ready = grant + 1


def fetch_conditional(layer: LayerState, lane: LaneState, source: int) -> Block:
    """Conditional blocks of the jobs that open a gate."""
    d, requested, number, free = layer.d, 0, 0, 0
    while True:
        while len(lane.runs) <= number:
            yield lane.runs
        valid, channel, blocks_left = lane.runs[number]
        valid = max(valid, free)
        keep = channel < d["kept_channels"]
        kept = Kept(keep, keep and channel in layer.asked)
        layer.asked.add(channel)
        place = layer.plan.places[channel, False]
        address = d["weights_address"] + place * d["job_stride"] + d["cond_offset"]
        for blocks, beats in layer.chunks(blocks_left):
            grant, _ = yield from _blocks(layer, lane, "conditional", source, valid, address,
                                               beats, blocks, requested, 0, kept)
            requested += blocks
            address += beats * layer.config.bus.bytes
            valid = grant + 1
        free, number = valid + 1, number + 1
