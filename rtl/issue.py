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
from hwgate.rtl.structs import CONTEXTS, descriptor, descriptor_struct, pixel_layout
from hwgate.rtl.weights import pass_layout

__all__ = ["CHOICE_LATENCY", "ISSUE_JOB", "ISSUE_LATENCY", "PROGRESS_LATENCY", "SKIP_CYCLES",
           "Activity", "Issue", "progress_layout", "tag_layout"]

#: Cycles from starting a pass to its first window at the output.
ISSUE_LATENCY = 2
#: Cycles from choosing a pass to its start, if nothing else is missing; the next one can be chosen
#: in the cycle after.
CHOICE_LATENCY = 2
#: Cycles from skipping the conditional passes of a job to choosing a pass of the next one.
SKIP_CYCLES = 2
#: Cycles by which a pass starts later than the windows or the room that it waits for, and a row.
PROGRESS_LATENCY = 1

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
    passes over the task list. One window per cycle. The next pass is chosen while one runs, so that
    it follows without a lost cycle unless that one had fewer than three windows.

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
    task_some, task_valid, task_last, task, task_clear, task_rewind, task_next
        The task lists; ``task_list`` is that of the pass that starts.
    drained : In
        One bit per task list: its gate pass has made all its decisions, so that ``task_last`` is
        known.
    o, pixel, block, half, pad_top, row_end : Out
        A window's tag, position, pass, half of the window memory and rows of its tile.
    activity : Out
        One bit per lane counter; exactly one is set in each cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        passes = stream.Signature(pass_layout(config))
        super().__init__({
            "start": In(1), "layer": In(descriptor_struct().size),
            "slot": Out(range(JOBS_ALIVE)), "job": In(table_layout(config, ISSUE_JOB)),
            "fresh": In(JOBS_ALIVE), "take": Out(JOBS_ALIVE), "no_more": In(1),
            "progress": In(progress_layout()),
            "base": In(passes), "cond": In(passes),
            "task_some": In(CONTEXTS), "task_valid": In(1), "task_last": In(1),
            "task": In(pixel_layout(config)), "task_list": Out(range(CONTEXTS)),
            "task_clear": Out(1), "task_rewind": Out(1), "task_next": Out(1),
            "drained": In(CONTEXTS),
            "o": Out(tag_layout(config)), "pixel": Out(pixel_layout(config)),
            "block": Out(pass_layout(config)), "half": Out(1), "pad_top": Out(2),
            "row_end": Out(16),
            "activity": Out(len(LANE_COUNTERS), init=1 << Activity["idle"])})

    def elaborate(self, platform):
        m = Module()
        go = Signal()
        new, ready, waits = self._choose(m, go)
        running, reason = self._run(m, go, new, ready)
        name = Signal(range(len(LANE_COUNTERS)))
        m.d.sync += self.activity.eq(1 << name)
        m.d.comb += name.eq(Mux(running, reason, waits))
        return m

    def _choose(self, m, go):
        """Choose the pass after the one that runs, and see whether it can start. Returns (pass,
        ready, what it waits for)."""
        progress, job, cond = self.progress, Signal.like(self.job, reset_less=True), Signal()
        m.d.sync += job.eq(self.job)
        # Number ``index`` of the base path of the job in slot ``fore``, or of the conditional path
        # of the oldest one that waits for it, in slot ``back``.
        fore, back = Signal(range(JOBS_ALIVE)), Signal(range(JOBS_ALIVE))
        index, all_begun = Signal.like(job.base_blocks), Signal()
        waiting, first = Signal(range(CONTEXTS + 1)), Signal(init=1)
        # Of the jobs that wait, which may have ended, and left their slots to others.
        lists, scores = Signal(CONTEXTS), Signal(CONTEXTS)
        weights, tasks, decided, final, gate = (Signal() for _ in range(5))
        choose, skip, skipped, chosen, ready, score = (Signal() for _ in range(6))
        new, list_ = Signal(_pass_layout(self.config), reset_less=True), Signal()
        m.d.comb += [
            self.slot.eq(Mux(self.start, 0, Mux(cond, back, fore))),
            list_.eq(Mux(cond, lists.bit_select(back % CONTEXTS, 1), job.tasks)),
            score.eq(Mux(cond, scores.bit_select(back % CONTEXTS, 1), job.gated == Gated.SCORE)),
            final.eq(index + 1 == Mux(cond, job.cond_blocks, job.base_blocks)),
            gate.eq(final & ~cond & (job.gated != Gated.NONE)),
            weights.eq(Mux(cond, self.cond.valid,
                           self.base.valid & (~first | self.fresh.bit_select(fore, 1)))),
            tasks.eq(~cond | ~first | ~score & self.task_some.bit_select(list_, 1)),
            decided.eq(score | self.drained.bit_select(list_, 1)),
            choose.eq(~chosen & ~skipped & weights & tasks),
            skip.eq(~chosen & ~skipped & ~tasks & decided),
            self.base.ready.eq(choose & ~cond), self.cond.ready.eq(choose & cond),
            self.take.eq((choose & ~cond & first) << fore)]
        m.d.sync += skipped.eq(skip)
        with m.If(choose):
            head = Mux(cond, self.cond.payload.as_value(), self.base.payload.as_value())
            m.d.sync += [
                chosen.eq(1), new.block.eq(head), new.list.eq(list_), new.init.eq(~cond & first),
                new.cond.eq(cond), new.slot.eq(self.slot), new.gate.eq(gate),
                new.emit.eq(final & ~gate), new.clears.eq(gate & (job.gated != Gated.SHARED)),
                # The last base pass is the first one that may make outputs.
                new.adds.eq(final & ~cond & job.adds),
                new.group.eq((job.channel >> (self.config.channels - 1).bit_length())
                             - descriptor(self.layer).res_group),
                *(new[name].eq(job[name]) for name in _OF_TILE),
                first.eq(final), index.eq(Mux(final, 0, index + 1))]
        with m.Elif(go):
            m.d.sync += chosen.eq(0)
        with m.If(choose & final & ~cond):
            m.d.sync += [
                lists.bit_select(fore % CONTEXTS, 1).eq(job.tasks),
                scores.bit_select(fore % CONTEXTS, 1).eq(score), fore.eq(fore + 1),
                all_begun.eq(job.last), waiting.eq(waiting + gate),
                cond.eq(gate & ((waiting == CONTEXTS - 1) | job.last))]
        with m.Elif(choose & final | skip):
            m.d.sync += [back.eq(back + 1), waiting.eq(waiting - 1),
                         cond.eq(all_begun & (waiting != 1))]
        with m.If(self.start):
            m.d.sync += [signal.eq(0) for signal in (fore, back, cond, index, waiting, all_begun,
                                                     chosen)]
            m.d.sync += first.eq(1)

        # What it needs never goes away again.
        windows, output = Signal(), Signal()
        m.d.comb += [
            windows.eq((_passed(progress.loaded_tile, progress.loaded_plane, new.tile,
                                new.block.plane)
                        | ~new.cond & _at(progress, new.tile, new.block.plane)
                        & (progress.loaded_words >= new.early_words))
                       & (~new.adds | _passed(progress.residual_tile, progress.residual_plane,
                                              new.tile, new.group))),
            output.eq(~new.init | ((new.tile - progress.stored_tile)[:3].as_signed() < 2))]
        m.d.sync += ready.eq(chosen & ~go & windows & output & ~self.start)

        waits = Signal(range(len(LANE_COUNTERS)))
        with m.If(chosen):
            m.d.comb += waits.eq(Mux(~windows, Activity["windows"], Mux(
                ~output, Activity["output"], Activity["turnaround"])))
        with m.Elif(skipped | ~tasks):
            m.d.comb += waits.eq(Activity["gate"])
        with m.Elif(~cond & first & self.no_more & ~self.fresh.bit_select(fore, 1)):
            m.d.comb += waits.eq(Activity["idle"])
        with m.Else():
            m.d.comb += waits.eq(Mux(weights, Activity["turnaround"], Activity["weights"]))
        return new, ready, waits

    def _run(self, m, go, new, ready):
        """Run a pass, and start the next one with its last window. Returns (running, on what it
        spends the cycle)."""
        layer, progress = descriptor(self.layer), self.progress
        m.submodules.raster = raster = PixelCounter(self.config)
        m.submodules.pixels = pixels = Countdown()
        m.submodules.images = images = Countdown()
        now, running, begun = Signal.like(new, reset_less=True), Signal(), Signal()
        issue_base, issue_cond, end, last = Signal(), Signal(), Signal(), Signal()
        # Rows that may be read, the one at hand among them, and the words that the next one needs.
        rows, needed, more = Signal(2), Signal(17, reset_less=True), Signal()
        m.d.comb += [
            issue_base.eq(running & ~now.cond & (rows != 0)),
            issue_cond.eq(running & now.cond & self.task_valid),
            last.eq(Mux(now.cond, self.drained.bit_select(now.list, 1)
                        & (self.task_last | ~self.task_valid), pixels.last & images.last)),
            end.eq(last & (issue_base | running & now.cond)), go.eq(ready & (~running | end)),
            more.eq((rows != 3) & (
                _passed(progress.loaded_tile, progress.loaded_plane, now.tile, now.block.plane)
                | _at(progress, now.tile, now.block.plane)
                & (progress.loaded_words >= needed))),
            raster.step_q.eq(layer.step_q), raster.step_m.eq(layer.step_m),
            raster.row_words.eq(layer.row_words), raster.row_step.eq(layer.row_step),
            raster.width.eq(layer.out_width), raster.image_words.eq(layer.image_words),
            raster.reduce.eq(layer.reduce[0]), raster.image_last.eq(pixels.last),
            raster.restart.eq(go & ~new.cond), raster.next.eq(issue_base),
            images.count.eq(new.images), images.restart.eq(raster.restart),
            images.next.eq(issue_base & pixels.last),
            pixels.count.eq(Mux(go, new.out_pixels, now.out_pixels)), pixels.next.eq(issue_base),
            pixels.restart.eq(raster.restart | issue_base & pixels.last),
            self.task_list.eq(new.list), self.task_rewind.eq(go & new.cond),
            self.task_clear.eq(go & new.clears), self.task_next.eq(issue_cond)]
        m.d.sync += rows.eq(rows + more - (issue_base & raster.row_end))
        with m.If(more):
            m.d.sync += needed.eq(needed + layer.early_step)
        with m.If(issue_base | issue_cond):
            m.d.sync += begun.eq(1)
        with m.If(go):
            m.d.sync += [now.eq(new), begun.eq(0), rows.eq(1),
                         needed.eq(new.early_words + layer.early_step)]
        with m.If(go | end):
            m.d.sync += running.eq(go)

        # Into the pipeline; a layer that reduces keeps one psum and makes one output per image.
        image_first, tag, pixel = Signal(), self.o, Signal.like(self.pixel)
        m.d.comb += pixel.eq(Mux(now.cond, self.task.as_value(), raster.o.as_value()))
        with m.If(go | issue_base):
            m.d.sync += image_first.eq(raster.restart | pixels.last)
        m.d.sync += [
            tag.valid.eq(issue_base | issue_cond), tag.last.eq(last), tag.swap.eq(~begun),
            tag.image_last.eq(pixels.last), tag.index.eq(pixel.index),
            *(tag[name].eq(now[name]) for name in ("cond", "slot", "gate")),
            tag.init.eq(now.init & (image_first | ~layer.reduce[0])),
            tag.emit.eq(now.emit & (pixels.last | ~layer.reduce[0])), self.pixel.eq(pixel),
            self.block.eq(now.block), self.half.eq(now.tile[0]), self.pad_top.eq(now.pad_top),
            self.row_end.eq(now.row_end)]

        reason = Signal(range(len(LANE_COUNTERS)))
        m.d.comb += reason.eq(Mux(now.cond, Activity["gate"], Activity["windows"]))
        with m.If(issue_base | issue_cond):
            m.d.comb += reason.eq(Mux(now.cond, Activity["conditional"], Activity["base"]))
        return running, reason


#: Descriptor fields of its tile that a pass carries.
_OF_TILE = ("tile", "early_words", "out_pixels", "images", "pad_top", "row_end")


def _pass_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A pass that has been chosen: ``list`` is the task list that it fills anew, if it ``clears``
    one, or reads, ``group`` that of the residual operand, if it ``adds`` one."""
    job = table_layout(config, _OF_TILE)
    return data.StructLayout({
        "block": pass_layout(config), "list": 1, "init": 1, "cond": 1, "slot": range(JOBS_ALIVE),
        "gate": 1, "emit": 1, "clears": 1, "adds": 1, "group": 16, **job.members})


def _at(progress, tile, plane):
    """It is this plane of which words are loaded."""
    return ((progress.loaded_tile - tile)[:3] == 0) & (progress.loaded_plane == plane)


def _passed(tile, plane, wanted_tile, wanted_plane):
    """Progress (tile, plane) includes the wanted plane. Of tiles the lowest bits tell: progress is
    at most two tiles ahead of a job, and no job as many ahead of it as a lane has jobs; that of a
    residual operand stays beside the jobs, since in every tile the same channels add one."""
    ahead = (tile - wanted_tile)[:3].as_signed()
    return (ahead > 0) | (ahead == 0) & (plane > wanted_plane)
