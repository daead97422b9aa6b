"""Weights of a lane: a queue of blocks, each with the channel group it belongs to."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.rtl.structs import block_layout

__all__ = ["BLOCK_LATENCY", "WeightQueue", "pass_layout"]

#: Cycles from a block at the input to its pass at the output.
BLOCK_LATENCY = 3


def pass_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A pass: address of its windows in the window memory, the place of its block in the kernel
    (row and column, in blocks of three taps), and the last plane it reads."""
    return data.StructLayout({"base": (config.buffers.window_words - 1).bit_length(),
                              "row": 2, "column": 2, "plane": 16})


class WeightQueue(wiring.Component):
    """Blocks in the order of arrival, and in step with them the passes that use them.

    The group of a block is the lowest bit of the bitmap that still lacks blocks; a kernel larger
    than 3x3 has several blocks per group, row by row. A pass is announced :data:`BLOCK_LATENCY`
    cycles after its block arrived; its weights stay at the output until ``swap``. The sender never
    sends more blocks than ``depth`` that are not swapped.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    load, bitmap : In
        Channel groups of the blocks that follow those of the bitmap before, also while these still
        come. Two bitmaps at most have blocks that are not announced yet, and between their blocks
        is a cycle without a push.
    push, block : In
        A block arrives.
    group_words, row_words, in_planes, bank_mode, kernel_blocks : In
        Geometry of the layer; stable.
    o : Out(stream)
        Next pass to start.
    swap : In
        Take the weights at the output.
    weights : Out
        Block of the next pass to reach the multipliers.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "load": In(1), "bitmap": In(config.buffers.passes),
            "push": In(1), "block": In(block_layout(config)),
            "group_words": In((config.buffers.window_words - 1).bit_length() + 1),
            "row_words": In((config.buffers.window_words - 1).bit_length()),
            "in_planes": In(16), "bank_mode": In(1), "kernel_blocks": In(2),
            "o": Out(stream.Signature(pass_layout(config))),
            "swap": In(1), "weights": Out(block_layout(config))})

    def elaborate(self, platform):
        m = Module()
        passes, depth = self.config.buffers.passes, self.config.buffers.weight_blocks
        layout = block_layout(self.config)
        m.submodules.blocks = blocks = fifo.SyncFIFO(width=layout.size, depth=depth)
        m.submodules.passes = queue = fifo.SyncFIFO(width=pass_layout(self.config).size,
                                                    depth=depth)
        m.d.comb += [
            blocks.w_en.eq(self.push), blocks.w_data.eq(self.block),
            blocks.r_en.eq(self.swap), self.weights.eq(blocks.r_data),
            queue.r_en.eq(self.o.ready), self.o.valid.eq(queue.r_rdy),
            self.o.payload.eq(queue.r_data)]

        # Stage 1: lowest free bit. Stage 2: address and plane. Then the queue.
        left, group = Signal(passes), Signal(range(passes))
        for bit in reversed(range(passes)):
            with m.If(left[bit]):
                m.d.comb += group.eq(bit)
        row, column, offset = Signal(2), Signal(2), Signal.like(self.row_words)
        last_column = column + 1 == self.kernel_blocks
        after, waiting, bare = Signal(passes), Signal(), left == 0
        with m.If(self.load & ~bare):
            m.d.sync += [after.eq(self.bitmap), waiting.eq(1)]
        with m.Elif(bare):
            m.d.sync += waiting.eq(0)
        with m.If(bare & (self.load | waiting)):
            m.d.sync += [left.eq(Mux(waiting, after, self.bitmap)), row.eq(0), column.eq(0),
                         offset.eq(0)]
        with m.Elif(self.push):
            m.d.sync += column.eq(column + 1)
            with m.If(last_column):
                m.d.sync += [column.eq(0), row.eq(row + 1), offset.eq(offset + self.row_words)]
            with m.If(last_column & (row + 1 == self.kernel_blocks)):
                m.d.sync += [left.eq(left & (left - 1)), row.eq(0), offset.eq(0)]
        found, found_group = Signal(), Signal.like(group)
        found_row, found_column, found_offset = (Signal.like(row), Signal.like(column),
                                                 Signal.like(offset))
        m.d.sync += [found.eq(self.push), found_group.eq(group), found_row.eq(row),
                     found_column.eq(column), found_offset.eq(offset + column)]
        last_plane = Signal(16)
        m.d.comb += last_plane.eq(TAPS * found_group + TAPS - 1)
        entry, done = Signal(pass_layout(self.config)), Signal()
        m.d.sync += [
            done.eq(found),
            entry.base.eq(found_group * self.group_words + found_offset),
            entry.row.eq(found_row), entry.column.eq(found_column),
            entry.plane.eq(Mux(~self.bank_mode, found_group,
                               Mux(last_plane < self.in_planes, last_plane,
                                   self.in_planes - 1)))]
        m.d.comb += [queue.w_en.eq(done), queue.w_data.eq(entry)]
        return m
