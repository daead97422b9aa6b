"""Task list: the open pixels of a job."""

from amaranth import Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hwgate.config import AcceleratorConfig
from hwgate.rtl.structs import pixel_layout

__all__ = ["TASK_LATENCY", "TaskList"]

#: Cycles from appending a pixel to the first cycle in which it can be at the output.
TASK_LATENCY = 2


class TaskList(wiring.Component):
    """Open pixels in the order of their decisions, read once per conditional pass.

    A pixel may be read while others are still appended. One append and one read per cycle.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    clear : In
        Empty the list; not together with ``append``.
    append, pixel : In
        Put a pixel at the end.
    count : Out
        Pixels in the list, without one appended in this cycle.
    rewind : In
        The first pixel comes next; wins over ``next``.
    next : In
        Take the pixel at the output.
    valid, o : Out
        Next pixel of this pass, :data:`TASK_LATENCY` cycles after its append at the earliest,
        one cycle after ``rewind`` or the previous ``next``.
    position : Out
        Pixels taken in this pass.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        index = (config.buffers.pixels - 1).bit_length() + 1
        super().__init__({
            "clear": In(1), "append": In(1), "pixel": In(pixel_layout(config)),
            "count": Out(index), "rewind": In(1), "next": In(1), "valid": Out(1),
            "o": Out(pixel_layout(config)), "position": Out(index)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = memory.Memory(shape=pixel_layout(self.config), init=[],
                                               depth=self.config.buffers.pixels)
        write, read = ram.write_port(), ram.read_port()
        m.d.comb += [write.en.eq(self.append), write.addr.eq(self.count),
                     write.data.eq(self.pixel)]
        with m.If(self.clear):
            m.d.sync += self.count.eq(0)
        with m.Elif(self.append):
            m.d.sync += self.count.eq(self.count + 1)

        ahead = Signal.like(self.position)
        m.d.comb += [
            ahead.eq(Mux(self.rewind, 0, self.position + self.next)),
            read.addr.eq(ahead), read.en.eq(1), self.o.eq(read.data)]
        m.d.sync += [self.position.eq(ahead), self.valid.eq((ahead < self.count) & ~self.clear)]
        return m
