"""Requantizer: from a partial sum to an activation."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import RESIDUAL_SHIFT, AcceleratorConfig, FormatConfig

__all__ = ["REQUANTIZE_LATENCY", "RESIDUAL_LATENCY", "Requantize"]

#: Cycles from a partial sum to its activation: bias, product (two registers), residual, shift,
#: rounding and clamp.
REQUANTIZE_LATENCY = 6
#: Cycles by which the residual operand may come later than the partial sum: its memory and the
#: choice of its byte.
RESIDUAL_LATENCY = 2


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
        low, high = FormatConfig.limits(self.config.formats.activation)
        biased = Signal(signed(max(self.config.formats.accumulator, 32) + 1))
        mult = Signal.like(self.mult)
        m.d.sync += [biased.eq(self.psum + self.bias), mult.eq(self.mult)]

        def later(value, cycles, name):
            for n in range(cycles):
                after = Signal.like(value, name=f"{name}{n}")
                m.d.sync += after.eq(value)
                value = after
            return value

        product = later(biased * mult, 2, "product")
        factor = later(self.mult_residual, RESIDUAL_LATENCY, "mult_residual")
        added = later(self.residual * factor, 3 - RESIDUAL_LATENCY, "added") << RESIDUAL_SHIFT
        first = Mux(later(self.relu_first, 3, "relu_first") & (product < 0), 0, product)
        total = Signal(signed(max(len(product), len(added)) + 1))
        m.d.sync += total.eq(first + added)
        # All but the last place of the shift first, so that the rounding constant is one: a half
        # as large as the largest shift asks for would not fit a narrow product.
        doubled, rounded = Signal.like(total), Signal.like(total)
        m.d.sync += doubled.eq(total >> (later(self.shift, 4, "shift") - 1)[:6])
        m.d.comb += rounded.eq((doubled + 1) >> 1)
        floor = Mux(later(self.relu, 5, "relu"), 0, low)
        m.d.sync += self.o.eq(Mux(rounded < floor, floor, Mux(rounded > high, high, rounded)))
        return m
