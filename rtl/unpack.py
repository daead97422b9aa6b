"""Weight stream: from bus beats to job headers and weight blocks."""

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.rtl.structs import block_layout, header_struct

__all__ = ["UNPACK_LATENCY", "Unpack", "block_beat"]

#: Cycles from the beat that completes a header or a block to its strobe.
UNPACK_LATENCY = 1


def block_beat(config: AcceleratorConfig, block: int) -> int:
    """Beat, counted from the first block's first one, that completes block number ``block``."""
    return -(-(block + 1) * TAPS // config.beat_pixels) - 1


class Unpack(wiring.Component):
    """Cuts the beats of one request at a time into a header (if it has one) and blocks.

    Blocks follow each other without gaps; what is left at the end of a request is padding. Takes
    a beat in any cycle; strobes come :data:`UNPACK_LATENCY` cycles after the completing beat.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    valid, data, last : In
        A beat; ``last`` ends the request.
    header : In
        The request begins with a header; stable over its beats.
    o_header, header_valid : Out
    o_block, block_valid : Out
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "valid": In(1), "data": In(config.bus.data_bits), "last": In(1), "header": In(1),
            "o_header": Out(header_struct(config)), "header_valid": Out(1),
            "o_block": Out(block_layout(config)), "block_valid": Out(1)})

    def elaborate(self, platform):
        m = Module()
        word, words = 8 * self.config.channels, self.config.beat_pixels
        header_beats = header_struct(self.config).size // self.config.bus.data_bits
        beat = Signal(range(header_beats + 1))
        m.d.sync += [self.header_valid.eq(0), self.block_valid.eq(0)]

        held = [Signal(word, name=f"held{n}") for n in range(TAPS - 1)]
        count = Signal(range(TAPS))
        incoming = [self.data.word_select(n, word) for n in range(words)]
        with m.If(self.valid & self.header & (beat != header_beats)):
            shifted = Cat(self.o_header.as_value(), self.data)[self.config.bus.data_bits:]
            m.d.sync += [self.o_header.as_value().eq(shifted), beat.eq(beat + 1),
                         self.header_valid.eq(beat == header_beats - 1)]
        with m.Elif(self.valid):
            with m.Switch(count):
                for n in range(TAPS):
                    with m.Case(n):
                        self._shift_in(m, held, n, incoming, count)
        with m.If(self.valid & self.last):
            m.d.sync += [beat.eq(0), count.eq(0)]
        return m

    def _shift_in(self, m, held, n, incoming, count):
        """Append a beat to ``n`` words that wait for the rest of their block."""
        queue = held[:n] + incoming
        if len(queue) >= TAPS:
            m.d.sync += [self.block_valid.eq(1), self.o_block.as_value().eq(Cat(queue[:TAPS]))]
            queue = queue[TAPS:]
        m.d.sync += [held[k].eq(value) for k, value in enumerate(queue) if value is not held[k]]
        m.d.sync += count.eq(len(queue))
