"""Lane: runs jobs from their weights to the activations in its output column."""

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.counters import LANE_COUNTERS
from hwgate.machine.layouts import Gated
from hwgate.rtl.burst import request_layout
from hwgate.rtl.dot import DotProduct, dot_latency
from hwgate.rtl.fetch import (
    BlockFetch,
    JobFetch,
    JobTable,
    kept_jobs,
    kept_member,
    run_layout,
)
from hwgate.rtl.gate import GATE_LATENCY, Gate
from hwgate.rtl.issue import ISSUE_JOB, ISSUE_LATENCY, Issue, progress_layout
from hwgate.rtl.pixels import PixelCounter
from hwgate.rtl.psum import PSUM_LATENCY, PSUM_LOOKUP, PsumMemory
from hwgate.rtl.requantize import REQUANTIZE_LATENCY, Requantize
from hwgate.rtl.structs import (
    CONTEXTS,
    block_layout,
    delay,
    descriptor,
    descriptor_struct,
    event_layout,
    header_struct,
    residual_write_layout,
    status_layout,
    window_write_layout,
)
from hwgate.rtl.tasks import TaskList
from hwgate.rtl.weights import WeightQueue
from hwgate.rtl.window import WINDOW_LATENCY, WindowMemory

__all__ = ["DRAIN_LATENCY", "Lane", "decision_latency", "lane_signature"]

#: Kinds of jobs whose last base pass does not take every pixel as open.
_DECIDED = (Gated.OWN, Gated.SCORE, Gated.SHARED)
#: What becomes of a decided window depends on these of its job.
_DECIDED_JOB = ("threshold", "gated", "tasks", "channel", "tile", "column", "job_outputs",
                "conditional", "cond_blocks", "cond_bitmap", "bias_closed", "bias_open",
                "mult_closed", "mult_open", "mult_residual", "shift")
#: Cycles from the last decision of a job until its conditional passes can end.
DRAIN_LATENCY = 2
#: Cycles from an output to its count.
_COUNT_LATENCY = 1


def decision_latency(config: AcceleratorConfig) -> int:
    """Cycles from starting a pass to the decision on its first window."""
    return ISSUE_LATENCY + WINDOW_LATENCY + dot_latency(config) + PSUM_LATENCY + GATE_LATENCY


def lane_signature(config: AcceleratorConfig) -> wiring.Signature:
    """Members of :class:`Lane`."""
    requests = stream.Signature(request_layout(config))
    kept = {f"{path}_kept": Out(layout) for path in ("base", "cond")
            for layout in kept_member(config).values()}
    return wiring.Signature({
        "lane": In(range(max(2, config.lanes))), "start": In(1),
        "layer": In(descriptor_struct().size),
        "write": In(window_write_layout(config)),
        "residual_write": In(residual_write_layout(config)), "progress": In(progress_layout()),
        "base": Out(requests), "header": Out(1), "cond": Out(requests),
        "header_valid": In(1), "job_header": In(header_struct(config)),
        "base_valid": In(1), "cond_valid": In(1), "block": In(block_layout(config)),
        "column_address": In((2 * config.buffers.output_words - 1).bit_length()),
        "column": Out(8 * config.beat_pixels),
        "status": Out(status_layout()),
        "activity": Out(len(LANE_COUNTERS)), "event": Out(event_layout()), **kept})


class Lane(wiring.Component):
    """One lane of the array: window memory, 9·R multipliers, psum memory, gate, task list,
    requantizer and output column.

    Works through its jobs by itself; meets the others only at the read arbiter, at the loader,
    which frees no half before every lane has left it, and at the store.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    lane : In
        Index of the lane; constant.
    start, layer : In
        A layer begins; its descriptor, stable while it runs.
    write, residual_write, progress : In
        From the loaders; how far they and the store are.
    base, cond : Out(stream)
        Read requests for a job's base and conditional weights; ``header`` marks those of
        ``base`` that begin with a job header.
    base_kept, cond_kept : Out
        Of these requests; see :func:`hwgate.rtl.fetch.kept_member`.
    header_valid, header, base_valid, cond_valid, block : In
        The answers, unpacked.
    column_address, column : In, Out
        Word of the output column for the store, one cycle later; the address includes the half.
    status : Out
        How far the lane is, see :func:`status_layout`.
    activity : Out
        One bit per lane counter; exactly one is set in each cycle.
    event : Out
        Monitor event.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(lane_signature(config))

    def elaborate(self, platform):
        m = Module()
        config, layer = self.config, descriptor(self.layer)
        m.submodules.fetch = fetch = JobFetch(config)
        m.submodules.base_fetch = base_fetch = BlockFetch(config)
        m.submodules.cond_fetch = cond_fetch = BlockFetch(config)
        m.submodules.base_queue = base_queue = WeightQueue(config)
        m.submodules.cond_queue = cond_queue = WeightQueue(config)
        m.submodules.issue = issue = Issue(config)
        m.submodules.tasks = tasks = TaskList(config)

        # Weights: fetched, queued, announced to the issue unit.
        wiring.connect(m, fetch.o, base_fetch.i)
        wiring.connect(m, wiring.flipped(self.base), base_fetch.o)
        wiring.connect(m, wiring.flipped(self.cond), cond_fetch.o)
        wiring.connect(m, base_queue.o, issue.base)
        wiring.connect(m, cond_queue.o, issue.cond)
        for queue, fetcher, push in ((base_queue, base_fetch, self.base_valid),
                                     (cond_queue, cond_fetch, self.cond_valid)):
            m.d.comb += [
                queue.push.eq(push), queue.block.eq(self.block), fetcher.swap.eq(queue.swap),
                queue.group_words.eq(layer.group_words), queue.in_planes.eq(layer.in_planes),
                queue.bank_mode.eq(layer.bank_mode), queue.row_words.eq(layer.row_words),
                queue.kernel_blocks.eq(layer.kernel_blocks),
                fetcher.first_blocks.eq(layer.first_blocks),
                fetcher.first_beats.eq(layer.first_beats)]
        done = Signal()
        m.d.comb += [
            fetch.lane.eq(self.lane), fetch.start.eq(self.start), fetch.layer.eq(layer),
            self.header.eq(base_fetch.header), fetch.header_valid.eq(self.header_valid),
            fetch.header.eq(self.job_header), fetch.done.eq(done),
            base_queue.load.eq(self.header_valid),
            base_queue.bitmap.eq(self.job_header.base_bitmap)]

        # Issue.
        drained = Signal(CONTEXTS)  # of each task list
        m.d.comb += [
            issue.start.eq(self.start), issue.layer.eq(layer),
            issue.fresh.eq(fetch.fresh), fetch.take.eq(issue.take),
            issue.no_more.eq(fetch.finished), issue.progress.eq(self.progress),
            issue.task_some.eq(tasks.some), issue.task_valid.eq(tasks.valid),
            issue.task.eq(tasks.o), issue.task_last.eq(tasks.last),
            tasks.clear.eq(issue.task_clear), tasks.clear_list.eq(issue.task_list),
            tasks.rewind.eq(issue.task_rewind), tasks.list.eq(issue.task_list),
            tasks.next.eq(issue.task_next), issue.drained.eq(drained),
            self.activity.eq(issue.activity)]

        m.d.comb += issue.job.eq(self._jobs(m, fetch, "issue", issue.slot, ISSUE_JOB))
        tag, job, psum, opened = self._datapath(m, issue, base_queue, cond_queue, fetch)
        listed = Signal.like(tasks.count[0])
        own, score, shared = (Signal(name=kind.name.lower()) for kind in _DECIDED)
        deciding, emit, decision = Signal(), Signal(), Signal()
        # Pixels of an image with few open gates so far are emitted as closed: a conditional pass
        # emits them again, if the image opens more. So are all pixels of a job after its score.
        m.d.comb += [
            *(one.eq(tag.gate & (job.gated == kind))
              for kind, one in zip(_DECIDED, (own, score, shared), strict=True)),
            listed.eq(tasks.count[job.tasks]), decision.eq(opened & ~tag.gate),
            deciding.eq(tag.valid & (own | score)),
            emit.eq(tag.valid & (tag.emit | shared | own & ~tasks.counted))]

        # Decisions come in raster order, so a second counter knows their positions.
        m.submodules.raster = raster = PixelCounter(config)
        m.d.comb += [
            raster.restart.eq(self.start | deciding & tag.last), raster.next.eq(deciding),
            raster.step_q.eq(layer.step_q), raster.step_m.eq(layer.step_m),
            raster.row_words.eq(layer.row_words), raster.row_step.eq(layer.row_step),
            raster.width.eq(layer.out_width), raster.image_last.eq(tag.image_last),
            raster.image_words.eq(layer.image_words),
            tasks.append.eq(deciding & opened), tasks.append_list.eq(job.tasks),
            tasks.pixel.eq(raster.o), tasks.limit.eq(layer.gate_limit),
            tasks.image_last.eq(deciding & tag.image_last)]
        ends = delay(m, Cat(deciding & tag.last, job.tasks), DRAIN_LATENCY - 1, name="ends")
        with m.If(ends[0]):
            m.d.sync += drained.bit_select(ends[1], 1).eq(1)
        with m.If(issue.task_clear):
            m.d.sync += drained.bit_select(issue.task_list, 1).eq(0)

        # The first task of a job asks for its conditional weights, or, if its score has left any,
        # its first window; they wait while those of the job before are still being asked for.
        asking, first, waits, waiting = Signal(), Signal(), Signal(), Signal(run_layout(config))
        follows = tag.init & tag.swap & (job.gated == Gated.SHARED)
        m.d.comb += [
            asking.eq(tag.valid & (own & (listed == 0) | follows)),
            first.eq(asking & (tasks.counted | (listed != 0))),
            cond_fetch.i.valid.eq(first | waits),
            cond_fetch.i.payload.address.eq(Mux(waits, waiting.address, job.conditional)),
            cond_fetch.i.payload.blocks.eq(Mux(waits, waiting.blocks, job.cond_blocks)),
            cond_queue.load.eq(first), cond_queue.bitmap.eq(job.cond_bitmap)]
        if config.buffers.weight_bytes:
            kept, there = cond_fetch.i.payload.kept, self._asked(m, job, asking, first)
            m.d.comb += [
                self.base_kept.eq(base_fetch.kept), self.cond_kept.eq(cond_fetch.kept),
                kept.keep.eq(Mux(waits, waiting.kept.keep, job.kept.keep)),
                kept.there.eq(Mux(waits, waiting.kept.there, there))]
        with m.If(cond_fetch.i.ready):
            m.d.sync += waits.eq(0)
        with m.Elif(first):
            m.d.sync += [waits.eq(1), waiting.eq(cond_fetch.i.payload)]

        # Outputs: counting those that are final ends the job, and its last decision a score. Jobs
        # retire in their order, though a job without conditional path can end before the one that
        # it overtook. Of a job after its score, all pixels without a task count as one.
        ended, retire = Signal(CONTEXTS), Signal()
        oldest = Signal.like(tag.slot)
        final, outputs, counts, whole = Signal(17), Signal(17), Signal(), Signal()
        context, total = Signal(range(CONTEXTS)), Signal(17)
        emitted = Signal(data.ArrayLayout(17, CONTEXTS))
        m.d.sync += [counts.eq(tag.valid), context.eq(tag.slot), outputs.eq(job.job_outputs),
                     whole.eq(score & tag.last)]
        with m.If(own):
            m.d.sync += final.eq(~opened + tasks.dropped)
        with m.Elif(shared):
            m.d.sync += final.eq(Mux(tag.last, job.job_outputs - listed, 0))
        with m.Else():
            m.d.sync += final.eq(tag.emit)
        m.d.comb += [total.eq(emitted[context] + final),
                     retire.eq(ended.bit_select(oldest % CONTEXTS, 1))]
        with m.If(retire):
            m.d.sync += [oldest.eq(oldest + 1), ended.bit_select(oldest % CONTEXTS, 1).eq(0)]
        # The next job of a context may end in the cycle in which this one retires.
        with m.If(counts):
            m.d.sync += emitted[context].eq(total)
            with m.If((total == outputs) | whole):
                m.d.sync += [emitted[context].eq(0), ended.bit_select(context, 1).eq(1)]
        with m.If(self.start):
            m.d.sync += oldest.eq(0)
        m.submodules.requantize = requantize = Requantize(config)
        m.d.comb += [
            requantize.psum.eq(psum), requantize.relu.eq(layer.relu[0]),
            requantize.bias.eq(Mux(decision, job.bias_open, job.bias_closed)),
            requantize.mult.eq(Mux(decision, job.mult_open, job.mult_closed)),
            requantize.shift.eq(job.shift),
            requantize.mult_residual.eq(job.mult_residual),
            requantize.relu_first.eq(layer.relu_first[0]),
            self.event.valid.eq(emit | tag.valid & score), self.event.score.eq(score),
            self.event.channel.eq(job.channel),
            self.event.tile.eq(job.tile), self.event.pixel.eq(tag.index),
            self.event.psum.eq(psum), self.event.decision.eq(Mux(score, opened, decision))]
        self._column(m, tag, job, emit, requantize)
        leaves = self._jobs(m, fetch, "retiring", oldest, ("tile_last", "gated"))
        finish = delay(m, Cat(retire, leaves.tile_last, leaves.gated != Gated.SCORE),
                       REQUANTIZE_LATENCY - _COUNT_LATENCY - 1, name="finish")
        m.d.comb += [done.eq(finish[0]), self.status.absent.eq(layer.out_channels <= self.lane)]
        with m.If(self.start):
            m.d.sync += [self.status.tile.eq(0), self.status.jobs.eq(0)]
        with m.Elif(done & finish[2]):
            m.d.sync += self.status.jobs.eq(self.status.jobs + 1)
            with m.If(finish[1]):
                m.d.sync += [self.status.tile.eq(self.status.tile + 1), self.status.jobs.eq(0)]
        return m

    def _jobs(self, m, fetch, name, slot, names):
        """Members of the job in a slot, for a reader of its own."""
        m.submodules[f"{name}_jobs"] = table = JobTable(self.config, names)
        m.d.comb += [table.store.eq(fetch.store), table.slot.eq(slot)]
        return table.o

    def _asked(self, m, job, asking, asks):
        """Whether a job's conditional weights are in the weight memory: they are if the job of the
        same channel has asked for them in an earlier tile that found or brought the base weights.

        A bit per job, written while the job has not asked for them, and in the cycle in which it
        does: cleared by the tile that brings the base weights.
        """
        m.submodules.asked = bits = memory.Memory(shape=1, depth=kept_jobs(self.config), init=[])
        write, read = bits.write_port(), bits.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(job.channel >> (self.config.lanes - 1).bit_length()),
            read.addr.eq(write.addr), write.data.eq(asks),
            write.en.eq(asking & job.kept.keep & (asks | ~job.kept.there))]
        return job.kept.there & read.data

    def _datapath(self, m, issue, base_queue, cond_queue, fetch):
        """Window, dot product, psum, gate. Returns (tag, job, psum, decision) of a window."""
        config, layer = self.config, descriptor(self.layer)
        m.submodules.window = window = WindowMemory(config)
        m.submodules.dot = dot = DotProduct(config)
        m.submodules.psum = psum = PsumMemory(config)
        m.submodules.gate = gate = Gate(config)
        m.d.comb += [
            window.write.eq(self.write), window.pixel.eq(issue.pixel),
            window.base.eq(issue.block.base), window.row.eq(issue.block.row),
            window.column.eq(issue.block.column), window.half.eq(issue.half),
            window.pad_top.eq(issue.pad_top), window.row_end.eq(issue.row_end),
            window.pad.eq(layer.pad), window.col_end.eq(layer.col_end),
            window.row_words.eq(layer.row_words), window.bank_mode.eq(layer.bank_mode)]

        swap = delay(m, issue.o, WINDOW_LATENCY - 1, name="at_swap")
        weights = Signal(block_layout(config))
        m.d.comb += [base_queue.swap.eq(swap.valid & swap.swap & ~swap.cond),
                     cond_queue.swap.eq(swap.valid & swap.swap & swap.cond)]
        with m.If(base_queue.swap):
            m.d.sync += weights.eq(base_queue.weights)
        with m.If(cond_queue.swap):
            m.d.sync += weights.eq(cond_queue.weights)
        m.d.comb += [dot.window.eq(window.o), dot.weights.eq(weights), psum.dot.eq(dot.o)]

        lookup = delay(m, swap, 1 + dot_latency(config) - PSUM_LOOKUP, name="at_lookup")
        m.d.comb += [psum.valid.eq(lookup.valid),
                     psum.place.eq(Cat(lookup.index, lookup.slot % CONTEXTS)),
                     psum.init.eq(lookup.init)]
        compare = delay(m, lookup, PSUM_LOOKUP + PSUM_LATENCY, name="at_gate")
        job = self._jobs(m, fetch, "decided", compare.slot,
                         _DECIDED_JOB + tuple(kept_member(config)))
        m.d.comb += [gate.gate.eq(compare.gate), gate.psum.eq(psum.o),
                     gate.threshold.eq(job.threshold)]
        tag, job = (delay(m, value, GATE_LATENCY, name=name)
                    for value, name in ((compare, "decided"), (job, "decided_job")))
        return tag, job, gate.o_psum, gate.open

    def _column(self, m, tag, job, emit, requantize):
        """Write activations by pixel address; the store reads whole words. The residual operand
        of an activation has the same address in a memory of its own."""
        config = self.config
        pixels = config.beat_pixels
        shift = (pixels - 1).bit_length()
        layout = data.ArrayLayout(unsigned(8), pixels)
        m.submodules.column = ram = memory.Memory(shape=layout, init=[],
                                                  depth=2 * config.buffers.output_words)
        write, read = ram.write_port(granularity=1), ram.read_port()
        bits = (config.buffers.output_words - 1).bit_length()
        place = data.StructLayout({"enable": pixels, "word": bits, "half": 1})
        here = Signal(place)
        m.d.comb += [
            here.enable.eq(emit << tag.index[:shift]), here.half.eq(job.tile[0]),
            here.word.eq(job.column + (tag.index >> shift))]
        later = delay(m, here, REQUANTIZE_LATENCY, name="place")
        m.d.comb += [
            write.en.eq(later.enable), write.addr.eq(Cat(later.word, later.half)),
            write.data.eq(Cat(requantize.o for _ in range(pixels))),
            read.addr.eq(self.column_address), read.en.eq(1), self.column.eq(read.data)]

        m.submodules.residual = ram = memory.Memory(shape=layout, init=[],
                                                    depth=2 * config.buffers.output_words)
        write, read = ram.write_port(granularity=1), ram.read_port()
        mine = self.residual_write.lanes.as_value().word_select(
            self.lane, len(self.residual_write.lanes[0].as_value()))
        mine = residual_write_layout(config)["lanes"].shape.elem_shape(mine)
        chosen = Signal(range(max(2, pixels)))
        m.d.sync += [chosen.eq(tag.index[:shift]),
                     requantize.residual.eq(read.data.as_value().word_select(chosen, 8))]
        m.d.comb += [
            write.en.eq(mine.enable), write.data.eq(mine.data),
            write.addr.eq(Cat(self.residual_write.word, self.residual_write.half)),
            read.addr.eq(Cat(here.word, here.half)), read.en.eq(1)]
