"""Fetching weights: which job a lane runs next, and the read requests for its blocks."""

from collections.abc import Sequence
from typing import Any

from amaranth import Array, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.machine.layouts import Gated, header_layout
from hwgate.rtl.burst import request_layout
from hwgate.rtl.structs import delay, descriptor, descriptor_struct, header_struct, of_tile
from hwgate.rtl.tiles import TileCounter

__all__ = ["HEADER_TO_CLAIM", "HEADER_TO_REST", "JOBS_ALIVE", "JOB_OF_TILE", "REQUEST_CYCLES",
           "BlockFetch", "JobFetch", "JobTable", "job_layout", "kept_jobs", "kept_member",
           "run_layout", "start_latency", "store_layout"]

#: Cycles from accepting a run, taking a request or a swap to offering the request that follows.
REQUEST_CYCLES = 2
#: Cycles from a job's header to offering the run of its other blocks, or, without one, that of the
#: next job.
HEADER_TO_REST, HEADER_TO_CLAIM = 2, 3

#: Jobs of a lane between the request for their header and their last output: one in each context,
#: and two whose weights come.
JOBS_ALIVE = 4
#: Descriptor fields that depend on the tile, and that a job carries.
JOB_OF_TILE = ("early_words", "out_pixels", "images", "job_outputs", "row_end", "pad_top")


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
    """A run of weight blocks in memory, which begins on a beat; with ``header``, a job's header and
    first base blocks. One that ``follows`` begins where the run before ended."""
    return data.StructLayout({
        "address": config.bus.address_bits, "header": 1, "follows": 1,
        "blocks": (config.buffers.passes * TAPS).bit_length(), **kept_member(config)})


def start_latency(config: AcceleratorConfig) -> int:
    """Cycles from the start of a layer to offering the first run."""
    return 2 + max(0, (config.lanes - 1).bit_length() - 1)


def job_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A job: its header, place in the layer (the last one of its tile, of the lane's jobs), task
    list, and first word in the output column, whether it ``adds`` a residual operand, and the
    descriptor fields of its tile; ``kept`` is that of its base weights. A score has the channel of
    the job that follows it."""
    return data.StructLayout({
        "header": header_struct(config), "channel": 16, "tile": 16, "tile_last": 1, "last": 1,
        "tasks": 1, "adds": 1, "column": (config.buffers.output_words - 1).bit_length(),
        "conditional": config.bus.address_bits, **dict.fromkeys(JOB_OF_TILE, 16),
        "pad_top": 2, **kept_member(config)})


def table_layout(config: AcceleratorConfig, names: Sequence[str]) -> data.StructLayout:
    """Some members of a job and of its header."""
    members = {**dict(header_struct(config)), **dict(job_layout(config))}
    return data.StructLayout({name: members[name].shape for name in names})


def store_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Strobe: the header of this job has arrived, which has this slot from now on."""
    return data.StructLayout({"valid": 1, "slot": range(JOBS_ALIVE), "job": job_layout(config)})


class JobTable(wiring.Component):
    """What one reader wants to know of the jobs that are alive.

    Parameters
    ----------
    config : AcceleratorConfig
    names : sequence of str
        Members of the job and of its header.

    Members
    -------
    store : In
        A job gets its slot, see :func:`store_layout`; it can be read from the next cycle on.
    slot, o : In, Out
        Members ``names`` of the job in a slot, in the same cycle.
    """

    def __init__(self, config: AcceleratorConfig, names: Sequence[str]):
        self.layout = table_layout(config, names)
        super().__init__({"store": In(store_layout(config)), "slot": In(range(JOBS_ALIVE)),
                          "o": Out(self.layout)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.jobs = ram = memory.Memory(
            shape=self.layout, depth=JOBS_ALIVE, init=[], attrs={"ram_style": "distributed"})
        write, read = ram.write_port(), ram.read_port(domain="comb")
        job = self.store.job
        m.d.comb += [write.en.eq(self.store.valid), write.addr.eq(self.store.slot),
                     read.addr.eq(self.slot), self.o.eq(read.data)]
        for name in self.layout.members:
            own = job[name] if name in job.shape().members else job.header[name]
            m.d.comb += write.data[name].eq(own)
        return m


class BlockFetch(wiring.Component):
    """Turns runs of blocks into read requests for which a weight queue has room.

    A request is offered :data:`REQUEST_CYCLES` after its run was accepted or the request before was
    taken, or after the swap that makes room for it. Requests ask for ``config.request_blocks``
    blocks, the last one for the rest, in whole beats. The next run is accepted from the cycle after
    the last request was taken on.

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
        self._most_beats = -(-(header_layout(config).size_bytes + config.request_blocks
                               * config.block_bytes) // config.bus.bytes)
        super().__init__({
            "i": In(stream.Signature(run_layout(config))), "first_blocks": In(16),
            "first_beats": In(16), "swap": In(1),
            "o": Out(stream.Signature(request_layout(config))), "header": Out(1),
            **{name: Out(layout) for name, layout in kept_member(config).items()}})

    def elaborate(self, platform):
        m = Module()
        config, new = self.config, self.i.payload
        depth, most, beat = config.buffers.weight_blocks, config.request_blocks, config.bus.bytes
        beat_bits = (beat - 1).bit_length()
        address = Signal(config.bus.address_bits - beat_bits, reset_less=True)
        blocks, header = Signal.like(new.blocks, reset_less=True), Signal(reset_less=True)
        whole, idle = Signal(reset_less=True), Signal(init=1)  # more than one request; no run
        chunk, room = Signal(range(depth + 1)), Signal(range(depth + 1), init=depth)
        beats = Signal(range(self._most_beats + 1), reset_less=True)
        prepares, accepts, taken = Signal(), Signal(), Signal()
        of_chunk = Array(-(-n * config.block_bytes // beat) for n in range(most + 1))
        m.d.comb += [
            self.i.ready.eq(idle), accepts.eq(idle & self.i.valid),
            taken.eq(self.o.valid & self.o.ready),
            chunk.eq(Mux(whole, most, blocks)),
            prepares.eq(~idle & ~self.o.valid & (room >= chunk)),
            self.o.payload.address.eq(address << beat_bits), self.o.payload.beats.eq(beats),
            self.header.eq(header)]

        following = Signal.like(blocks)
        m.d.comb += following.eq(Mux(idle, Mux(new.header, self.first_blocks, new.blocks),
                                     blocks - most))
        with m.If(accepts | taken):
            m.d.sync += [blocks.eq(following), whole.eq(~(idle & new.header) & (following > most)),
                         idle.eq(taken & ~whole)]
        with m.If(accepts):
            m.d.sync += header.eq(new.header)
        with m.If(accepts & ~new.follows):
            m.d.sync += address.eq(new.address[beat_bits:])
            if config.buffers.weight_bytes:
                m.d.sync += self.kept.eq(new.kept)
        with m.Elif(taken):
            m.d.sync += address.eq(address + beats)
        with m.If(prepares):
            m.d.sync += [self.o.valid.eq(1), beats.eq(Mux(header, self.first_beats,
                                                          of_chunk[chunk]))]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        m.d.sync += room.eq(room - Mux(prepares, chunk, 0) + self.swap)
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
        A job header arrives; it stays for another cycle.
    done : In
        A job's last output has been written.
    store : Out
        A job gets its slot, see :func:`store_layout`.
    fresh : Out
        Slots whose job has not started.
    take : In
        The job in this slot starts.
    finished : Out
        Every header has arrived.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "lane": In(range(max(2, config.lanes))), "start": In(1),
            "layer": In(descriptor_struct().size),
            "o": Out(stream.Signature(run_layout(config))),
            "header_valid": In(1), "header": In(header_struct(config)), "done": In(1),
            "store": Out(store_layout(config)),
            "fresh": Out(JOBS_ALIVE), "take": In(JOBS_ALIVE), "finished": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        layer, lane, lanes = descriptor(self.layer), self.lane, self.config.lanes
        stride_bits = (lanes - 1).bit_length()
        alive, slot = Signal(range(JOBS_ALIVE + 1)), Signal(range(JOBS_ALIVE))
        job, kind = self.store.job, self.header.gated
        # Of the layer; its first job of the lane after as many cycles as there are bits of lanes.
        some, first = Signal(reset_less=True), layer.weights_address
        for bit in range(stride_bits):
            step = Signal.like(first, name=f"first_{bit}", reset_less=True)
            m.d.sync += step.eq(first + Mux(lane[bit], layer.job_stride << bit, 0))
            first = step
        begin = delay(m, self.start, max(0, stride_bits - 1), name="begin")
        # Of the job and the tile at hand, from the second cycle on.
        address = Signal(self.config.bus.address_bits, reset_less=True)
        channel, column = Signal(16, reset_less=True), Signal.like(job.column, reset_less=True)
        last_channel, last_tile = Signal(reset_less=True), Signal(reset_less=True)
        conditional = Signal.like(address, reset_less=True)
        own = {name: Signal.like(job[name], name=name, reset_less=True)
               for name in JOB_OF_TILE}
        m.submodules.counter = counter = TileCounter()
        next_channel = Signal(17)
        m.d.comb += [counter.restart.eq(self.start), counter.round_tiles.eq(layer.round_tiles),
                     next_channel.eq(channel + lanes)]
        m.d.sync += [
            some.eq(layer.out_channels > lane), conditional.eq(address + layer.cond_offset),
            last_channel.eq(next_channel >= layer.out_channels),
            last_tile.eq(counter.tile + 1 == layer.tiles)]
        # A score has no channel of its own. The jobs that follow it have its task list.
        claim, score, tasks = Signal(), Signal(), Signal()
        m.d.sync += alive.eq(alive + claim - self.done)
        m.d.comb += [
            score.eq(kind == Gated.SCORE), self.store.slot.eq(slot),
            job.header.eq(self.header), job.channel.eq(channel), job.column.eq(column),
            job.tile.eq(counter.tile), job.adds.eq(self.header.mult_residual != 0),
            job.tasks.eq(tasks ^ (kind != Gated.SHARED)), job.tile_last.eq(last_channel & ~score),
            job.last.eq(job.tile_last & last_tile), job.conditional.eq(conditional)]
        m.d.sync += self.fresh.eq(self.fresh & ~self.take)
        m.d.sync += [own[name].eq(of_tile(layer, name, counter.place)) for name in own]
        m.d.comb += [job[name].eq(value) for name, value in own.items()]
        run = self.o.payload
        m.d.comb += [run.address.eq(address), run.follows.eq(~run.header)]
        if self.config.buffers.weight_bytes:
            m.d.comb += job.kept.eq(run.kept)
            m.d.sync += [  # every tile but the first one finds what is kept
                run.kept.keep.eq(channel < layer.kept_channels),
                run.kept.there.eq((channel < layer.kept_channels) & (counter.tile != 0))]

        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        restart, forth = Signal(), Signal()
        with m.If(restart):
            m.d.sync += [channel.eq(lane), column.eq(0), address.eq(first)]
        with m.Elif(forth):
            m.d.sync += address.eq(address + (layer.job_stride << stride_bits))
            with m.If(~score):
                m.d.sync += [channel.eq(next_channel), column.eq(column + layer.slot_words)]
        with m.If(self.start & some):
            m.d.sync += self.finished.eq(0)
        with m.FSM():
            with m.State("Idle"):
                m.d.sync += [slot.eq(0), tasks.eq(1)]
                m.d.comb += restart.eq(1)
                with m.If(begin & some):
                    m.next = "Claim"
            with m.State("Claim"):
                with m.If(~self.o.valid & (alive != JOBS_ALIVE)):
                    m.d.comb += claim.eq(1)
                    m.d.sync += [self.o.valid.eq(1), run.header.eq(1)]
                    m.next = "Header"
            with m.State("Header"):
                with m.If(self.header_valid):
                    m.next = "Rest"
            with m.State("Rest"):
                m.d.comb += [self.store.valid.eq(1), restart.eq(job.tile_last),
                             forth.eq(1), counter.next.eq(job.tile_last)]
                m.d.sync += [
                    self.fresh.bit_select(slot, 1).eq(1), slot.eq(slot + 1), tasks.eq(job.tasks),
                    run.blocks.eq(self.header.base_blocks - layer.first_blocks),
                    run.header.eq(0),
                    self.o.valid.eq(self.header.base_blocks != layer.first_blocks)]
                m.next = "Claim"
                with m.If(job.last):
                    m.d.sync += self.finished.eq(1)
                    m.next = "Idle"
        return m
