"""Requantizer: from a partial sum to an activation."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import RESIDUAL_SHIFT, AcceleratorConfig, FormatConfig

__all__ = ["REQUANTIZE_LATENCY", "RESIDUAL_LATENCY", "Requantize"]

#: Cycles from a partial sum to its activation: bias, partial products, product (four registers, as
#: the residual comes late and takes long), residual, shift (two registers), rounding and clamp.
REQUANTIZE_LATENCY = 10
#: Cycles by which the residual operand may come later than the partial sum: its memory and the
#: choice of its byte.
RESIDUAL_LATENCY = 2

#: Low bits of a biased sum that one multiplier takes, as many as fit unsigned; another the rest.
_LOW_BITS = 17


class Requantize(wiring.Component):
    """``clamp(((psum + bias) * mult + r * mult_residual + 2**(shift - 1)) >> shift)``.

    One per cycle; latency is :data:`REQUANTIZE_LATENCY`; there is no back-pressure.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    psum, bias, mult, mult_residual, shift : In
        ``mult_residual`` counts in units of ``2**RESIDUAL_SHIFT``; ``shift`` is at least 1.
    residual : In
        The operand r, :data:`RESIDUAL_LATENCY` cycles later.
    relu, relu_first : In
        Clamp the output, or the first product, at zero from below.
    o : Out
        Activation, sign extended to a byte.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        formats = config.formats
        super().__init__({
            "psum": In(signed(formats.accumulator)), "bias": In(signed(32)),
            "mult": In(signed(formats.multiplier)),
            "mult_residual": In(signed(formats.multiplier)), "shift": In(6),
            "residual": In(signed(8)), "relu": In(1), "relu_first": In(1),
            "o": Out(signed(8))})

    def elaborate(self, platform):
        m = Module()

        def later(value, cycles=1):
            for _ in range(cycles):
                after = Signal(value.shape(), reset_less=True)
                m.d.sync += after.eq(value)
                value = after
            return value

        # A product and what is added to it are of one width: the product has half of its range.
        biased, mult = later(self.psum + self.bias), later(self.mult)
        low, high = later(biased[:_LOW_BITS] * mult), later(biased[_LOW_BITS:].as_signed() * mult)
        negative = later(later(self.relu_first) & (biased[-1] ^ mult[-1]))
        product = later(Mux(negative, 0, Cat(low[:_LOW_BITS], high + (low >> _LOW_BITS))))
        added = self._added(later, self.residual, later(self.mult_residual, RESIDUAL_LATENCY))
        total = later((later(product, 3).as_signed() + (added << RESIDUAL_SHIFT))[:len(product)])

        # All but the last place of the shift first, so that the rounding constant is one: a half
        # as large as the largest shift asks for would not fit a narrow product.
        places = later((self.shift - 1)[:6], 7)
        doubled, over = self._shift(later, total.as_signed(), places)
        lowest, highest = FormatConfig.limits(self.config.formats.activation)
        most = doubled == 2 * highest + 1  # it would round to one more than the highest
        rounded = (doubled >> 1) + (doubled[0] & ~most)
        clamped = Mux(over, Mux(doubled[-1], lowest, highest), rounded)
        m.d.comb += self.o.eq(later(Mux(later(self.relu, 9) & doubled[-1], 0, clamped)))
        return m

    @staticmethod
    def _added(later, residual, factor):
        """Their product, four cycles later: the factor once for every bit of the residual."""
        *rows, last = (later(Mux(bit, factor, 0)) for bit in residual)
        pairs = [low + (high << 1) for low, high in zip(rows[::2], [*rows[1::2], 0], strict=True)]
        pairs[-1] -= last << 1  # the sign
        low, high = (later(later(low) + (later(high) << 2))
                     for low, high in (pairs[:2], pairs[2:]))
        return later(low + (high << 4))

    def _shift(self, later, value, places):
        """``value >> places`` two cycles later: its sign and one bit more than an activation has,
        and whether the bits between them differ from the sign."""
        sign, width = value[-1], self.config.formats.activation

        def matter(bits):
            return bits != sign.replicate(len(bits))

        left = width + 15
        over = ~places[5] & (matter(value[left + 16:-1])
                             | ~places[4] & matter(value[left:left + 16]))
        value = Mux(places[5], value >> 32, Mux(places[4], value >> 16, value))[:left]
        value, sign, over, places = (later(bits) for bits in (value, sign, over, places))
        for n in reversed(range(4)):
            left = width + (1 << n) - 1
            over |= ~places[n] & matter(value[left:])
            value = Mux(places[n], value >> (1 << n), value)[:left]
        return later(Cat(value, sign)).as_signed(), later(over)
