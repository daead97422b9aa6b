"""Dot product of a window and a weight block."""

from amaranth import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.structs import block_layout

__all__ = ["PRODUCT_STAGES", "DotProduct", "dot_latency"]

#: Registers behind each multiplier, so that synthesis can move them into it.
PRODUCT_STAGES = 2


def dot_latency(config: AcceleratorConfig) -> int:
    """Cycles from operands to sum: the products and one register per adder level."""
    return PRODUCT_STAGES + (config.block_bytes - 1).bit_length()


class DotProduct(wiring.Component):
    """9·R multipliers and a pipelined adder tree; one dot product per cycle, no back-pressure.

    Latency is :func:`dot_latency`.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    window, weights : In
        Nine taps of R signed values each, see :func:`block_layout`.
    o : Out
        The exact sum of the 9·R products.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({"window": In(block_layout(config)), "weights": In(block_layout(config)),
                          "o": Out(signed(config.dot_bits))})

    def elaborate(self, platform):
        m = Module()
        formats = self.config.formats
        level = []
        for tap, (xs, ws) in enumerate(zip(self.window, self.weights)):
            for n, (x, w) in enumerate(zip(xs, ws)):
                product = x[:formats.activation].as_signed() * w[:formats.weight].as_signed()
                for stage in range(PRODUCT_STAGES):
                    after = Signal(signed(self.config.product_bits),
                                   name=f"product{tap}_{n}_{stage}")
                    m.d.sync += after.eq(product)
                    product = after
                level.append(product)
        depth = 0
        while len(level) > 1:
            sums = []
            for n in range(0, len(level), 2):
                pair = level[n:n + 2]
                total = pair[0] + pair[1] if len(pair) == 2 else pair[0]
                after = Signal(signed(self.config.product_bits + depth + 1),
                               name=f"sum{depth}_{n // 2}")
                m.d.sync += after.eq(total)
                sums.append(after)
            level, depth = sums, depth + 1
        m.d.comb += self.o.eq(level[0])
        return m
