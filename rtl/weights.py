"""Weights of a lane: a queue of blocks, each with the channel group it belongs to."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.rtl.structs import block_layout, delay

__all__ = ["BLOCK_LATENCY", "WeightQueue", "pass_layout"]

#: Cycles from a block at the input to its pass at the output.
BLOCK_LATENCY = 5


def pass_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A pass: address of its windows in the window memory, the place of its block in the kernel
    (row and column, in blocks of three taps), and the last plane it reads."""
    return data.StructLayout({"base": (config.buffers.window_words - 1).bit_length(),
                              "row": 2, "column": 2,
                              "plane": (TAPS * config.buffers.passes - 1).bit_length()})


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
        come; a cycle at least between it and its first block. Two bitmaps at most have blocks that
        are not announced yet, and between their blocks is a cycle without a push.
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
        passes = self.config.buffers.passes
        # Lowest bit. Its number. Its product, in two steps, and its last plane. Then the queue.
        left, after, waiting = Signal(passes), Signal(passes, reset_less=True), Signal()
        row, column, offset = Signal(2), Signal(2), Signal.like(self.row_words)
        last_column, last, below = Signal(), Signal(), Signal(passes)
        m.d.comb += [last_column.eq(column + 1 == self.kernel_blocks), below.eq(left - 1),
                     last.eq(last_column & (row + 1 == self.kernel_blocks))]
        with m.If(self.load):
            m.d.sync += [after.eq(self.bitmap), waiting.eq(1)]
        with m.Elif(~left.any()):
            m.d.sync += waiting.eq(0)
        with m.If(~left.any()):
            m.d.sync += [left.eq(Mux(waiting, after, 0)), row.eq(0), column.eq(0), offset.eq(0)]
        with m.Elif(self.push):
            m.d.sync += column.eq(column + 1)
            with m.If(last_column):
                m.d.sync += [column.eq(0), row.eq(row + 1), offset.eq(offset + self.row_words)]
            with m.If(last):
                m.d.sync += [left.eq(left & below), row.eq(0), offset.eq(0)]
        lowest, bits = Signal(passes), (passes - 1).bit_length()
        m.d.sync += lowest.eq(left & ~below)
        group, entry = Signal(bits), Signal(pass_layout(self.config))
        m.d.sync += group.eq(Cat(
            Cat(lowest[n] for n in range(passes) if n >> bit & 1).any() for bit in range(bits)))
        place = data.StructLayout({"row": 2, "column": 2, "offset": len(offset)})
        at = Signal(place)
        m.d.comb += [at.row.eq(row), at.column.eq(column), at.offset.eq(offset + column)]
        at = delay(m, at, 3, name="at")
        products = [Signal.like(entry.base, name=f"product{n}", reset_less=True)
                    for n in range(0, bits, 2)]
        for n, product in enumerate(products):
            pair = group[2 * n:2 * n + 2]
            m.d.sync += product.eq(sum(Mux(bit, self.group_words << 2 * n + k, 0)
                                       for k, bit in enumerate(pair)))
        plane, most, same = Signal.like(entry.plane), Signal.like(self.in_planes), Signal(bits)
        m.d.sync += [
            plane.eq(group + (group + 1 << 3)), most.eq(self.in_planes - 1), same.eq(group),
            entry.base.eq(sum(products) + at.offset), entry.row.eq(at.row),
            entry.column.eq(at.column),
            entry.plane.eq(Mux(~self.bank_mode, same, Mux(plane < most, plane, most)))]
        done = delay(m, self.push, BLOCK_LATENCY - 1, name="push")
        weights, _ = self._queue(m, "blocks", self.block, self.push, self.swap)
        payload, valid = self._queue(m, "passes", entry, done, self.o.ready & self.o.valid)
        m.d.comb += [self.weights.eq(weights), self.o.payload.eq(payload), self.o.valid.eq(valid)]
        return m

    def _queue(self, m, name, value, write, read):
        """The oldest of the values that were written, and whether there is one."""
        depth = self.config.buffers.weight_blocks
        m.submodules[name] = ram = memory.Memory(shape=value.shape(), depth=depth, init=[],
                                                 attrs={"ram_style": "distributed"})
        into, out = ram.write_port(), ram.read_port(domain="comb")
        written, taken = Signal(range(2 * depth)), Signal(range(2 * depth))
        m.d.sync += [written.eq(written + write), taken.eq(taken + read)]
        m.d.comb += [into.en.eq(write), into.addr.eq(written), into.data.eq(value),
                     out.addr.eq(taken)]
        return out.data, written != taken
