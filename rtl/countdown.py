"""Countdown: knows the last step of a run from a register."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Countdown"]


class Countdown(wiring.Component):
    """Counts ``count`` steps, at least one; ``last`` comes from a register, so that no comparison
    stands before what ends with the step.

    Parameters
    ----------
    bits : int

    Members
    -------
    count : In
        Steps of the run that begins with ``restart``.
    restart, next : In
        From the next cycle on: the first step, or the next one; ``restart`` wins.
    last : Out
        This step is the last one.
    """

    def __init__(self, bits: int = 16):
        super().__init__({"count": In(bits), "restart": In(1), "next": In(1), "last": Out(1)})

    def elaborate(self, platform):
        m = Module()
        left = Signal.like(self.count, reset_less=True)  # steps after this one
        with m.If(self.restart | self.next):
            m.d.sync += [left.eq(Mux(self.restart, self.count, left) - 1),
                         self.last.eq(Mux(self.restart, self.count == 1, left == 1))]
        return m
