"""Psum memory: partial sums of a tile, added to in place."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.structs import CONTEXTS

__all__ = ["PSUM_LATENCY", "PSUM_LOOKUP", "PsumMemory"]

#: Cycles by which the pixel must arrive before its dot product: bank and output register.
PSUM_LOOKUP = 2
#: Cycles from a dot product at the input to the sum at the output.
PSUM_LATENCY = 1
#: Sums on their way into the memory, which a later access to the same pixel must see.
_IN_FLIGHT = PSUM_LOOKUP + PSUM_LATENCY


class PsumMemory(wiring.Component):
    """Read-modify-write of one partial sum per cycle; the same place may repeat at once. Each
    context has a sum for every pixel of a tile.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    valid, place, init : In
        An access, to a pixel and, in the highest bit, a context; ``init`` starts from zero
        instead of the stored sum.
    dot : In
        Its addend, :data:`PSUM_LOOKUP` cycles later.
    o : Out
        Its sum, :data:`PSUM_LATENCY` cycles after the addend.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "valid": In(1), "place": In((CONTEXTS * config.buffers.pixels - 1).bit_length()),
            "init": In(1),
            "dot": In(signed(config.dot_bits)), "o": Out(signed(config.formats.accumulator))})

    def elaborate(self, platform):
        m = Module()
        shape = signed(self.config.formats.accumulator)
        m.submodules.ram = ram = memory.Memory(shape=shape, init=[],
                                               depth=CONTEXTS * self.config.buffers.pixels)
        read, write = ram.read_port(), ram.write_port()
        m.d.comb += [read.addr.eq(self.place), read.en.eq(1)]

        # Accesses by age: 0 is at the input, 1 and 2 look up, 3 is at the output.
        valid, place, init = [self.valid], [self.place], [self.init]
        for age in range(1, 2 * _IN_FLIGHT):
            for history, name in ((valid, "valid"), (place, "place"), (init, "init")):
                after = Signal.like(history[0], name=f"{name}{age}")
                m.d.sync += after.eq(history[-1])
                history.append(after)

        stored = Signal(shape)
        m.d.sync += stored.eq(read.data)
        sums = [self.o]  # the newest first; not yet readable when the access looked up
        for n in range(1, _IN_FLIGHT):
            older = Signal(shape, name=f"sum{n}")
            m.d.sync += older.eq(sums[-1])
            sums.append(older)
        operand = stored
        for distance in range(_IN_FLIGHT, 0, -1):
            hit = Signal(name=f"hit{distance}")
            m.d.sync += hit.eq(valid[1 + distance] & (place[1] == place[1 + distance]))
            operand = Mux(hit, sums[distance - 1], operand)
        m.d.sync += self.o.eq(Mux(init[PSUM_LOOKUP], 0, operand) + self.dot)
        m.d.comb += [write.en.eq(valid[_IN_FLIGHT]), write.addr.eq(place[_IN_FLIGHT]),
                     write.data.eq(self.o)]
        return m
