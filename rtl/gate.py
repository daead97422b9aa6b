"""Gating comparator: one decision per partial sum of a gate pass."""

from amaranth import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig

__all__ = ["GATE_LATENCY", "Gate"]

#: Cycles from a partial sum to its decision.
GATE_LATENCY = 1


class Gate(wiring.Component):
    """Compares a partial sum with its channel's threshold, strictly (Hua et al., NeurIPS 2019).

    Outside a gate pass every pixel counts as open, so that it takes the open parameters.
    One decision per cycle after :data:`GATE_LATENCY` cycles, no back-pressure.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    gate : In
        The partial sum belongs to a gate pass.
    psum, threshold : In
    o_psum : Out
        The partial sum, beside its decision.
    open : Out
        ``psum > threshold``, or 1 outside a gate pass.
    """

    def __init__(self, config: AcceleratorConfig):
        psum = signed(config.formats.accumulator)
        super().__init__({"gate": In(1), "psum": In(psum), "threshold": In(signed(32)),
                          "o_psum": Out(psum), "open": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.o_psum.eq(self.psum),
                     self.open.eq(Mux(self.gate, self.psum > self.threshold, 1))]
        return m
