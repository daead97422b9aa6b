"""Task lists: the open pixels of the jobs of a lane."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.structs import CONTEXTS, pixel_layout

__all__ = ["TASK_LATENCY", "TaskList"]

#: Cycles from appending a pixel to the first cycle in which it can be at the output.
TASK_LATENCY = 2


class TaskList(wiring.Component):
    """Open pixels in the order of their decisions, read once per conditional pass; two lists, since
    a lane decides on the next job, or slice, before the conditional passes of this one.

    A pixel may be read while others are still appended. One append and one read per cycle.

    Pixels of an image count once more than ``limit`` of them have been appended, and leave the
    list again if the image ends before.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    clear, clear_list : In
        Empty a list; not together with an ``append`` to it.
    append, append_list, pixel : In
        Put a pixel at the end of a list.
    limit : In
        Stable.
    image_last : In
        The image that is appended to ends with this cycle.
    counted : Out
        The pixel that is appended in this cycle counts, and so do those of its image before it.
    dropped : Out
        Pixels that leave the list, the one appended in this cycle among them.
    count, some : Out
        Pixels in each list that count, without one appended in this cycle, and whether there are
        any.
    rewind, list : In
        The first pixel of this list comes next; wins over ``next``.
    next : In
        Take the pixel at the output.
    valid, o : Out
        Next pixel of this pass, :data:`TASK_LATENCY` cycles after its append at the earliest,
        one cycle after ``rewind`` or the previous ``next``.
    last : Out
        None of those that counted in the cycle before follow the one at the output.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        index = (config.buffers.pixels - 1).bit_length() + 1
        super().__init__({
            "clear": In(1), "clear_list": In(range(CONTEXTS)),
            "append": In(1), "append_list": In(range(CONTEXTS)),
            "pixel": In(pixel_layout(config)), "limit": In(16), "image_last": In(1),
            "counted": Out(1), "dropped": Out(index),
            "count": Out(data.ArrayLayout(index, CONTEXTS)), "some": Out(CONTEXTS),
            "rewind": In(1), "list": In(range(CONTEXTS)), "next": In(1), "valid": Out(1),
            "o": Out(pixel_layout(config)), "last": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = memory.Memory(shape=pixel_layout(self.config), init=[],
                                               depth=CONTEXTS * self.config.buffers.pixels)
        write, read = ram.write_port(), ram.read_port()
        # The image that is appended to: its pixels that do not count yet, and whether more of them
        # than the limit have come.
        held, listed, enough = Signal.like(self.dropped), Signal.like(self.dropped), Signal()
        count, bits = self.count[self.append_list], len(self.dropped) - 1
        end = (count + held)[:bits]
        m.d.comb += [write.en.eq(self.append), write.data.eq(self.pixel),
                     write.addr.eq(Cat(end, self.append_list)),
                     listed.eq(held + self.append),
                     self.counted.eq(self.append & (enough | (held == self.limit))),
                     self.dropped.eq(Mux(self.image_last & ~self.counted, listed, 0))]
        m.d.sync += [held.eq(Mux(self.counted | self.image_last, 0, listed)),
                     enough.eq((enough | self.counted) & ~self.image_last)]
        with m.If(self.counted):
            m.d.sync += [count.eq(count + listed),
                         self.some.bit_select(self.append_list, 1).eq(1)]
        with m.If(self.clear):
            m.d.sync += [self.count[self.clear_list].eq(0),
                         self.some.bit_select(self.clear_list, 1).eq(0)]

        position, ahead = Signal.like(self.dropped), Signal.like(self.dropped)
        reading, place = Signal(1), Signal(1)
        m.d.comb += [
            ahead.eq(Mux(self.rewind, 0, position + self.next)),
            reading.eq(Mux(self.rewind, self.list, place)),
            read.addr.eq(Cat(ahead[:bits], reading)), read.en.eq(1), self.o.eq(read.data)]
        m.d.sync += [
            place.eq(reading), position.eq(ahead), self.last.eq(ahead + 1 == self.count[reading]),
            self.valid.eq((ahead < self.count[reading])
                          & ~(self.clear & (self.clear_list == reading)))]
        return m
