"""Issue: starts a lane's passes and sends their windows into the pipeline."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.counters import LANE_COUNTERS
from hwgate.machine.layouts import Gated
from hwgate.rtl.countdown import Countdown
from hwgate.rtl.fetch import JOBS_ALIVE, table_layout
from hwgate.rtl.pixels import PixelCounter
from hwgate.rtl.structs import CONTEXTS, descriptor_struct, pixel_layout
from hwgate.rtl.weights import pass_layout

__all__ = ["ISSUE_JOB", "ISSUE_LATENCY", "Activity", "Issue", "progress_layout", "tag_layout"]

#: Cycles from starting a pass to its first window at the output.
ISSUE_LATENCY = 2

#: Index of each lane counter in :attr:`Issue.activity`.
Activity = {name: n for n, name in enumerate(LANE_COUNTERS)}


def progress_layout() -> data.StructLayout:
    """How far the loaders and the store are: complete tiles, planes of the next one, and pixels of
    its next plane."""
    return data.StructLayout({"loaded_tile": 16, "loaded_plane": 16, "loaded_words": 16,
                              "residual_tile": 16, "residual_plane": 16, "stored_tile": 16})


def tag_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What travels with a window through the pipeline of a lane.

    ``init`` starts the psum from zero, ``gate`` asks for a decision, ``emit`` makes an output,
    ``last`` ends its pass, ``swap`` begins it, ``cond`` takes weights of the conditional queue,
    ``image_last`` is the last one of its image in a base pass.
    """
    return data.StructLayout({
        "valid": 1, "index": (config.buffers.pixels - 1).bit_length(), "init": 1, "gate": 1,
        "emit": 1, "last": 1, "swap": 1, "cond": 1, "slot": range(JOBS_ALIVE), "image_last": 1})


#: What the block reads of the job in a slot.
ISSUE_JOB = ("base_blocks", "cond_blocks", "gated", "channel", "tile", "last", "tasks", "adds",
             "early_words", "out_pixels", "images", "pad_top", "row_end")


class Issue(wiring.Component):
    """Runs the passes of a lane's jobs: base passes over all windows of the tile, conditional
    passes over the task list. One window per cycle; a pass that can start does so without a lost
    cycle.

    The base passes of a job come before the conditional passes of the one before it, so that the
    gate decides, and conditional weights come, while the lane works. Only the last job of a lane
    has nothing to put between: its first conditional pass reads the task list while the gate still
    writes it. Base passes follow the loader, row by row. A score has no conditional passes; those
    of the jobs that follow read its list.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    start : In
        A layer begins.
    layer : In
        Layer descriptor; stable while the layer runs.
    slot, job
        A slot, and what is known of its job: :data:`ISSUE_JOB`.
    fresh, take, no_more
        Of :class:`JobFetch`.
    progress : In
        See :func:`progress_layout`.
    base, cond : In(stream)
        Passes whose weights have arrived.
    task_counts, task_valid, task, task_position, task_clear, task_rewind, task_next
        The task lists; ``task_list`` is that of the pass that starts.
    drained : In
        One bit per task list: its gate pass has made all its decisions.
    o, pixel, block, half, pad_top, row_end : Out
        A window's tag, position, pass, half of the window memory and rows of its tile.
    activity : Out
        One bit per lane counter; exactly one is set in each cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        passes = stream.Signature(pass_layout(config))
        count = (config.buffers.pixels - 1).bit_length() + 1
        super().__init__({
            "start": In(1), "layer": In(descriptor_struct()),
            "slot": Out(range(JOBS_ALIVE)), "job": In(table_layout(config, ISSUE_JOB)),
            "fresh": In(JOBS_ALIVE), "take": Out(JOBS_ALIVE), "no_more": In(1),
            "progress": In(progress_layout()),
            "base": In(passes), "cond": In(passes),
            "task_counts": In(data.ArrayLayout(count, CONTEXTS)), "task_valid": In(1),
            "task": In(pixel_layout(config)), "task_list": Out(range(CONTEXTS)),
            "task_position": In(count), "task_clear": Out(1), "task_rewind": Out(1),
            "task_next": Out(1), "drained": In(CONTEXTS),
            "o": Out(tag_layout(config)), "pixel": Out(pixel_layout(config)),
            "block": Out(pass_layout(config)), "half": Out(1), "pad_top": Out(2),
            "row_end": Out(16),
            "activity": Out(len(LANE_COUNTERS))})

    def elaborate(self, platform):
        m = Module()
        layer, progress, job, slot = self.layer, self.progress, self.job, self.slot
        m.submodules.raster = raster = PixelCounter(self.config)
        m.submodules.pixels = pixels = Countdown()
        m.submodules.images = images = Countdown()

        # The pass that runs, and the rows that it may read.
        running, begun, tag = Signal(), Signal(), Signal(tag_layout(self.config))
        block, now = Signal.like(self.block), Signal.like(job, reset_less=True)
        tile, image_first, base_last = now.tile, Signal(), Signal()
        issue_base, issue_cond, last, end = Signal(), Signal(), Signal(), Signal()
        listed, drained, reads = Signal.like(self.task_position), Signal(), Signal()
        needed, whole, rows = Signal(17), Signal(), Signal()
        m.d.comb += [
            whole.eq(_passed(progress.loaded_tile, progress.loaded_plane, tile, block.plane)),
            rows.eq(whole | (progress.loaded_tile == tile) & (progress.loaded_plane == block.plane)
                    & (progress.loaded_words >= needed)),
            listed.eq(self.task_counts[reads]), drained.eq(self.drained.bit_select(reads, 1)),
            issue_base.eq(running & ~tag.cond & rows),
            issue_cond.eq(running & tag.cond & self.task_valid),
            base_last.eq(pixels.last & images.last),
            last.eq(Mux(tag.cond, drained & (self.task_position == listed - 1), base_last)),
            end.eq((issue_base | issue_cond) & last
                   | running & tag.cond & ~issue_cond & drained & (self.task_position == listed)),
            self.task_next.eq(issue_cond), raster.next.eq(issue_base),
            raster.step_q.eq(layer.step_q), raster.step_m.eq(layer.step_m),
            raster.row_words.eq(layer.row_words), raster.row_step.eq(layer.row_step),
            raster.width.eq(layer.out_width), raster.image_words.eq(layer.image_words),
            raster.reduce.eq(layer.reduce[0]), raster.image_last.eq(pixels.last),
            pixels.next.eq(issue_base), images.next.eq(issue_base & pixels.last)]
        with m.If(issue_base & raster.row_end):
            m.d.sync += needed.eq(needed + layer.early_step)

        # The pass that comes next: number ``index`` of the base path of the job in slot ``fore``,
        # or of the conditional path of the oldest one that waits for it, in slot ``back``.
        fore, back = Signal(range(JOBS_ALIVE)), Signal(range(JOBS_ALIVE))
        cond, index, all_begun = Signal(), Signal(16), Signal()
        waiting, score = Signal(range(CONTEXTS + 1)), Signal()
        # Of the jobs that wait, which may have ended, and left their slots to others.
        lists, scores = Signal(CONTEXTS), Signal(CONTEXTS)
        head = Mux(cond, self.cond.payload.as_value(), self.base.payload.as_value())
        head = pass_layout(self.config)(head)
        weights, windows, output, tasks = Signal(), Signal(), Signal(), Signal()
        final, gate, operand, group = Signal(), Signal(), Signal(), Signal(16)
        decided = Signal()
        m.d.comb += [
            slot.eq(Mux(cond, back, fore)),
            self.task_list.eq(Mux(cond, lists.bit_select(back % CONTEXTS, 1), job.tasks)),
            score.eq(Mux(cond, scores.bit_select(back % CONTEXTS, 1),
                         job.gated == Gated.SCORE)),
            final.eq(index + 1 == Mux(cond, job.cond_blocks, job.base_blocks)),
            gate.eq(final & ~cond & (job.gated != Gated.NONE)),
            # The last base pass is the first one that may make outputs.
            group.eq((job.channel >> (self.config.channels - 1).bit_length()) - layer.res_group),
            operand.eq(cond | ~final | ~job.adds | _passed(
                progress.residual_tile, progress.residual_plane, job.tile, group)),
            weights.eq(Mux(cond, self.cond.valid,
                           self.base.valid & ((index != 0) | self.fresh.bit_select(slot, 1)))),
            windows.eq(operand & (
                _passed(progress.loaded_tile, progress.loaded_plane, job.tile, head.plane)
                | ~cond & (progress.loaded_tile == job.tile)
                & (progress.loaded_plane == head.plane)
                & (progress.loaded_words >= job.early_words))),
            output.eq((index != 0) | cond | (job.tile < progress.stored_tile + 2)),
            tasks.eq(~cond | (index != 0) | ~score & (self.task_counts[self.task_list] != 0)),
            decided.eq(score | self.drained.bit_select(self.task_list, 1))]
        go, skip, free = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~running | end),
            go.eq(free & weights & windows & output & tasks), skip.eq(~tasks & decided),
            self.base.ready.eq(go & ~cond), self.cond.ready.eq(go & cond),
            raster.restart.eq(go & ~cond), images.restart.eq(raster.restart),
            pixels.restart.eq(raster.restart | issue_base & pixels.last),
            pixels.count.eq(Mux(go, job.out_pixels, now.out_pixels)), images.count.eq(job.images)]
        with m.If(go):
            m.d.comb += [self.task_rewind.eq(cond),
                         self.task_clear.eq(gate & (job.gated != Gated.SHARED)),
                         self.take.eq((~cond & (index == 0)) << slot)]
            m.d.sync += [
                running.eq(1), begun.eq(0), block.eq(head), now.eq(job), reads.eq(self.task_list),
                needed.eq(job.early_words),
                tag.cond.eq(cond), tag.slot.eq(slot), tag.init.eq(~cond & (index == 0)),
                tag.gate.eq(gate), tag.emit.eq(final & ~gate),
                index.eq(Mux(final, 0, index + 1))]
        with m.Else():
            with m.If(end):
                m.d.sync += running.eq(0)
            with m.If(issue_base | issue_cond):
                m.d.sync += begun.eq(1)
        with m.If(go & final & ~cond):
            m.d.sync += [lists.bit_select(fore % CONTEXTS, 1).eq(job.tasks),
                         scores.bit_select(fore % CONTEXTS, 1).eq(score)]
            m.d.sync += [fore.eq(fore + 1), all_begun.eq(job.last), waiting.eq(waiting + gate),
                         cond.eq(gate & ((waiting == CONTEXTS - 1) | job.last))]
        with m.Elif(go & final | skip):
            m.d.sync += [back.eq(back + 1), waiting.eq(waiting - 1),
                         cond.eq(all_begun & (waiting != 1))]
        with m.If(self.start):
            m.d.sync += [fore.eq(0), back.eq(0), cond.eq(0), index.eq(0), waiting.eq(0),
                         all_begun.eq(0)]

        # Into the pipeline; a layer that reduces keeps one psum and makes one output per image.
        with m.If(go | issue_base):
            m.d.sync += image_first.eq(raster.restart | pixels.last)
        pixel = Mux(tag.cond, self.task.as_value(), raster.o.as_value())
        m.d.sync += [
            self.o.eq(tag), self.o.valid.eq(issue_base | issue_cond), self.o.last.eq(last),
            self.o.swap.eq(~begun), self.block.eq(block), self.half.eq(tile[0]),
            self.pad_top.eq(now.pad_top), self.row_end.eq(now.row_end),
            self.o.image_last.eq(pixels.last),
            self.pixel.eq(pixel), self.o.index.eq(pixel_layout(self.config)(pixel).index)]
        with m.If(layer.reduce[0]):
            m.d.sync += [self.o.init.eq(tag.init & image_first),
                         self.o.emit.eq(tag.emit & pixels.last)]

        name = Signal(range(len(LANE_COUNTERS)))
        m.d.comb += self.activity.eq(1 << name)
        with m.If(issue_base):
            m.d.comb += name.eq(Activity["base"])
        with m.Elif(issue_cond):
            m.d.comb += name.eq(Activity["conditional"])
        with m.Elif(running & ~tag.cond):
            m.d.comb += name.eq(Activity["windows"])
        with m.Elif(running | ~tasks):
            m.d.comb += name.eq(Activity["gate"])
        with m.Elif(~cond & (index == 0) & self.no_more & ~self.fresh.bit_select(slot, 1)):
            m.d.comb += name.eq(Activity["idle"])
        with m.Elif(~weights):
            m.d.comb += name.eq(Activity["weights"])
        with m.Elif(~windows):
            m.d.comb += name.eq(Activity["windows"])
        with m.Elif(~output):
            m.d.comb += name.eq(Activity["output"])
        with m.Else():
            m.d.comb += name.eq(Activity["turnaround"])
        return m


def _passed(tile, plane, wanted_tile, wanted_plane):
    """Progress (tile, plane) includes the wanted plane. Of tiles the lowest bits tell: progress is
    at most two tiles ahead of a job, and no job as many ahead of it as a lane has jobs."""
    ahead = (tile - wanted_tile)[:3].as_signed()
    return (ahead > 0) | (ahead == 0) & (plane > wanted_plane)
