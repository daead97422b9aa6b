"""Fetching weights: which job a lane runs next, and the read requests for its blocks."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.layouts import Gated, header_layout
from hwgate.rtl.burst import request_layout
from hwgate.rtl.structs import descriptor_struct, header_struct, place_layout
from hwgate.rtl.tiles import TileCounter

__all__ = ["JOBS_ALIVE", "BlockFetch", "JobFetch", "job_layout", "kept_jobs", "kept_member",
           "run_layout"]

#: Jobs of a lane between the request for their header and their last output: one in each context,
#: and two whose weights come.
JOBS_ALIVE = 4


def kept_member(config: AcceleratorConfig) -> dict[str, Any]:
    """Member ``kept`` of a request for weights, if there is an on-chip weight memory: ``keep`` if
    they have a place in it, ``there`` if they are in it already."""
    layout = data.StructLayout({"keep": 1, "there": 1})
    return {"kept": layout} if config.buffers.weight_bytes else {}


def kept_jobs(config: AcceleratorConfig) -> int:
    """Most jobs of a lane and tile that have conditional weights and fit the weight memory."""
    size = config.bus.bytes
    path = -(-config.block_bytes // size) * size
    smallest = header_layout(config).size_bytes + 2 * path
    return -(-config.buffers.weight_bytes // smallest // config.lanes)


def run_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A run of weight blocks in memory; with ``header``, a job's header and first base blocks."""
    return data.StructLayout({"address": config.bus.address_bits, "blocks": 16, "header": 1,
                              **kept_member(config)})


def job_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A job: its header, place in the layer (the last one of its tile, of the lane's jobs), place
    of its tile in the round, task list, and first word in the output column; ``kept`` is that of
    its base weights. A score has the channel of the job that follows it."""
    return data.StructLayout({
        "header": header_struct(config), "channel": 16, "tile": 16, "place": place_layout(),
        "tile_last": 1, "last": 1, "tasks": 1,
        "column": (config.buffers.output_words - 1).bit_length(),
        "conditional": config.bus.address_bits, **kept_member(config)})


class BlockFetch(wiring.Component):
    """Turns runs of blocks into read requests for which a weight queue has room.

    A run accepted in cycle t has its first request at the output from cycle t+1 on, or when the
    queue has room for it. Requests ask for ``config.request_blocks`` blocks, the last one for the
    rest, in whole beats.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    i : In(stream)
        Runs, see :func:`run_layout`.
    first_blocks, first_beats : In
        Size of a request that includes a header; stable.
    swap : In
        A block leaves the queue.
    o : Out(stream)
        Read requests.
    header : Out
        The request at the output includes a header.
    kept : Out
        See :func:`kept_member`; of the request at the output.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(run_layout(config))), "first_blocks": In(16),
            "first_beats": In(16), "swap": In(1),
            "o": Out(stream.Signature(request_layout(config))), "header": Out(1),
            **{name: Out(layout) for name, layout in kept_member(config).items()}})

    def elaborate(self, platform):
        m = Module()
        config = self.config
        depth, most, beat = config.buffers.weight_blocks, config.request_blocks, config.bus.bytes
        run, reserved = Signal(run_layout(config)), Signal(range(depth + 1))
        chunk, beats = Signal(range(depth + 1)), Signal(16)
        with m.If(run.header):
            m.d.comb += [chunk.eq(self.first_blocks), beats.eq(self.first_beats)]
        with m.Else():
            m.d.comb += [
                chunk.eq(Mux(run.blocks > most, most, run.blocks)),
                beats.eq((chunk * config.block_bytes + beat - 1) >> (beat - 1).bit_length())]
        taken = self.o.valid & self.o.ready
        m.d.comb += [
            self.i.ready.eq(run.blocks == 0), self.header.eq(run.header),
            self.o.valid.eq((run.blocks != 0) & (reserved + chunk <= depth)),
            self.o.payload.address.eq(run.address), self.o.payload.beats.eq(beats)]
        if config.buffers.weight_bytes:
            m.d.comb += self.kept.eq(run.kept)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += run.eq(self.i.payload)
        with m.Elif(taken):
            m.d.sync += [run.address.eq(run.address + beats * beat),
                         run.blocks.eq(Mux(run.header, 0, run.blocks - chunk))]
        m.d.sync += reserved.eq(reserved + Mux(taken, chunk, 0) - self.swap)
        return m


class JobFetch(wiring.Component):
    """Goes through a lane's jobs, channels ``lane``, ``lane + lanes`` ... of each tile in turn,
    and the scores that stand before some of them.

    Asks for header and base blocks of the next job as soon as fewer than :data:`JOBS_ALIVE` are
    alive, and stores its header in the slots in turn.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    lane : In
        Index of the lane; constant.
    start : In
        Begin with the first job of ``layer``; the lane is idle.
    layer : In
        Layer descriptor; stable while the layer runs.
    o : Out(stream)
        Runs of base blocks.
    header_valid, header : In
        A job header arrives.
    done : In
        A job's last output has been written.
    jobs : Out
        The slots; ``fresh`` marks those whose job has not started.
    take : In
        The job in this slot starts.
    finished : Out
        Every header has arrived.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "lane": In(range(max(2, config.lanes))), "start": In(1),
            "layer": In(descriptor_struct()),
            "o": Out(stream.Signature(run_layout(config))),
            "header_valid": In(1), "header": In(header_struct(config)), "done": In(1),
            "jobs": Out(data.ArrayLayout(job_layout(config), JOBS_ALIVE)),
            "fresh": Out(JOBS_ALIVE), "take": In(JOBS_ALIVE), "finished": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        layer, lane, lanes = self.layer, self.lane, self.config.lanes
        alive, slot = Signal(range(JOBS_ALIVE + 1)), Signal(range(JOBS_ALIVE))
        job = Signal(job_layout(self.config))
        address, rest = Signal(self.config.bus.address_bits), Signal(16)
        first = layer.weights_address + lane * layer.job_stride
        claim = Signal()
        m.d.sync += alive.eq(alive + claim - self.done)
        m.submodules.counter = counter = TileCounter()
        m.d.comb += [counter.restart.eq(self.start), counter.round_tiles.eq(layer.round_tiles)]
        # A score has no channel of its own. The jobs that follow it have its task list.
        kind, score, tasks = self.header.gated, Signal(), Signal()
        last_channel, own_tasks, tile_last = Signal(), Signal(), Signal()
        m.d.comb += [last_channel.eq(job.channel + lanes >= layer.out_channels),
                     tile_last.eq(last_channel & (kind != Gated.SCORE)),
                     own_tasks.eq(tasks ^ (kind != Gated.SHARED))]
        m.d.sync += self.fresh.eq(self.fresh & ~self.take)
        if self.config.buffers.weight_bytes:
            kept = self.o.payload.kept
            m.d.comb += [  # every tile but the first one finds what is kept
                kept.keep.eq(job.channel < layer.kept_channels),
                kept.there.eq(kept.keep & (counter.tile != 0))]

        with m.FSM():
            with m.State("Idle"):
                with m.If(self.start):
                    m.d.sync += [job.channel.eq(lane), job.column.eq(0),
                                 address.eq(first), slot.eq(0), self.fresh.eq(0), tasks.eq(1)]
                    with m.If(layer.out_channels > lane):
                        m.d.sync += self.finished.eq(0)
                        m.next = "Claim"
            with m.State("Claim"):
                m.d.comb += [
                    self.o.valid.eq(alive < JOBS_ALIVE), self.o.payload.address.eq(address),
                    self.o.payload.blocks.eq(layer.first_blocks), self.o.payload.header.eq(1)]
                with m.If(self.o.valid & self.o.ready):
                    m.d.comb += claim.eq(1)
                    m.next = "Header"
            with m.State("Header"):
                with m.If(self.header_valid):
                    target = self.jobs[slot]
                    m.d.sync += [
                        target.eq(job), target.header.eq(self.header),
                        target.tile.eq(counter.tile), target.place.eq(counter.place),
                        score.eq(kind == Gated.SCORE), tasks.eq(own_tasks),
                        target.tasks.eq(own_tasks), target.tile_last.eq(tile_last),
                        target.last.eq(tile_last & (counter.tile == layer.tiles - 1)),
                        target.conditional.eq(address + layer.cond_offset),
                        self.fresh.bit_select(slot, 1).eq(1), slot.eq(slot + 1),
                        rest.eq(self.header.base_blocks - layer.first_blocks)]
                    if self.config.buffers.weight_bytes:
                        m.d.sync += target.kept.eq(self.o.payload.kept)
                    m.next = "Rest"
            with m.State("Rest"):
                m.d.comb += [
                    self.o.valid.eq(rest != 0), self.o.payload.blocks.eq(rest),
                    self.o.payload.address.eq(address + layer.first_beats * self.config.bus.bytes)]
                with m.If((rest == 0) | self.o.ready):
                    m.next = "Claim"
                    with m.If(score | ~last_channel):
                        m.d.sync += address.eq(address + layer.job_stride * lanes)
                        with m.If(~score):
                            m.d.sync += [job.channel.eq(job.channel + lanes),
                                         job.column.eq(job.column + layer.slot_words)]
                    with m.Else():
                        m.d.comb += counter.next.eq(1)
                        m.d.sync += [job.channel.eq(lane), job.column.eq(0), address.eq(first)]
                        with m.If(counter.tile == layer.tiles - 1):
                            m.d.sync += self.finished.eq(1)
                            m.next = "Idle"
        return m
