"""Requantizer: from a partial sum to an activation."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.config import AcceleratorConfig, FormatConfig

__all__ = ["REQUANTIZE_LATENCY", "Requantize"]

#: Cycles from a partial sum to its activation: bias, product (two registers), rounding, shift,
#: clamp.
REQUANTIZE_LATENCY = 6


class Requantize(wiring.Component):
    """``clamp(((psum + bias) * mult + 2**(shift - 1)) >> shift)``, one per cycle.

    Latency is :data:`REQUANTIZE_LATENCY`; there is no back-pressure.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    psum, bias, mult, shift, relu : In
        ``relu`` clamps at zero from below; ``shift`` is at least 1.
    o : Out
        Activation, sign extended to a byte.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        formats = config.formats
        super().__init__({
            "psum": In(signed(formats.accumulator)), "bias": In(signed(32)),
            "mult": In(signed(formats.multiplier)), "shift": In(6), "relu": In(1),
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
        shift = later(self.shift, 3, "shift")
        rounded = Signal(signed(len(product) + 1))
        m.d.sync += rounded.eq(product + (1 << (shift - 1)[:6]))
        shifted = Signal.like(rounded)
        m.d.sync += shifted.eq(rounded >> later(shift, 1, "shift_late"))
        floor = Mux(later(self.relu, 5, "relu"), 0, low)
        m.d.sync += self.o.eq(Mux(shifted < floor, floor, Mux(shifted > high, high, shifted)))
        return m
