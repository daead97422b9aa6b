"""Weight stream: from bus beats to job headers and weight blocks."""

from amaranth import Array, Cat, Module, Mux, Signal
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
        m.d.sync += self.header_valid.eq(0)
        # A beat is turned so that its words stand in front of the places where they are to wait.
        # Those behind a block are one place off, for nine is one more than a multiple of a beat.
        count, place = Signal(range(TAPS)), Signal(range(TAPS), reset_less=True)
        held = [Signal(word, name=f"held{n}", reset_less=True) for n in range(TAPS - 1)]
        turned = [Signal(word, name=f"turned{n}", reset_less=True) for n in range(words)]
        incoming = [self.data.word_select(n, word) for n in range(words)]
        ends, shift, waits = count >= TAPS - words, count[:(words - 1).bit_length()], Signal()
        m.d.sync += [waits.eq(0), self.block_valid.eq(0)]
        with m.If(self.valid & self.header & (beat != header_beats)):
            shifted = Cat(self.o_header.as_value(), self.data)[self.config.bus.data_bits:]
            m.d.sync += [self.o_header.as_value().eq(shifted), beat.eq(beat + 1),
                         self.header_valid.eq(beat == header_beats - 1)]
        with m.Elif(self.valid):
            m.d.sync += [waits.eq(1), self.block_valid.eq(ends), place.eq(count),
                         count.eq(count + words - Mux(ends, TAPS, 0))]
        with m.If(self.valid & self.last):
            m.d.sync += [beat.eq(0), count.eq(0)]
        for n, to in enumerate(turned):
            ways = Array(incoming[(n - k) % words] for k in range(words))
            m.d.sync += to.eq(ways[shift] if words > 1 else incoming[0])

        for n, to in enumerate(held):
            with m.If(waits & (self.block_valid | (place <= n))):
                over = self.block_valid & (n < words - 1)
                m.d.sync += to.eq(Mux(over, turned[(n + 1) % words], turned[n % words]))
        m.d.comb += self.o_block.as_value().eq(Cat(
            *(Mux((place <= n) & (n >= TAPS - words), turned[n % words], to)
              for n, to in enumerate(held)), turned[(TAPS - 1) % words]))
        return m
