"""Window positions of a tile, in raster order."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.config import AcceleratorConfig
from hwgate.rtl.structs import pixel_layout

__all__ = ["PixelCounter"]


class PixelCounter(wiring.Component):
    """Walks over the windows of a tile, one per cycle at most, without dividing.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    restart : In
        The first window is at the output from the next cycle on; wins over ``next``.
    next : In
        The window after this one is at the output from the next cycle on.
    step_q, step_m, width, row_words, row_step, count : In
        Distance of windows as quotient and remainder by 3, windows of a row, window memory words
        of a row and of ``step_q`` rows, windows of the tile; stable.
    o : Out
        The window, see :func:`pixel_layout`.
    row_end, last : Out
        It is the last one of its row, of the tile.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._layout = pixel_layout(config)
        super().__init__({
            "restart": In(1), "next": In(1), "step_q": In(2), "step_m": In(2), "width": In(16),
            "row_words": In(self._layout["ya"].shape), "row_step": In(self._layout["ya"].shape),
            "count": In(16),
            "o": Out(self._layout), "row_end": Out(1), "last": Out(1)})

    def elaborate(self, platform):
        m = Module()
        o, column = self.o, Signal(16)

        def advance(quotient, remainder):
            """(quotient, remainder) one window further, and whether the remainder wrapped."""
            moved, wraps = Signal(3), Signal()
            m.d.comb += [moved.eq(remainder + self.step_m), wraps.eq(moved >= 3)]
            return quotient + self.step_q + wraps, Mux(wraps, moved - 3, moved), wraps

        m.d.comb += [self.last.eq(o.index == self.count - 1),
                     self.row_end.eq(column == self.width - 1)]
        next_xq, next_xm, _ = advance(o.xq, o.xm)
        next_yq, next_ym, wraps_y = advance(o.yq, o.ym)
        with m.If(self.restart):
            m.d.sync += [o.eq(0), column.eq(0)]
        with m.Elif(self.next):
            m.d.sync += o.index.eq(o.index + 1)
            with m.If(self.row_end):
                m.d.sync += [column.eq(0), o.xq.eq(0), o.xm.eq(0), o.yq.eq(next_yq),
                             o.ym.eq(next_ym),
                             o.ya.eq(o.ya + self.row_step + Mux(wraps_y, self.row_words, 0))]
            with m.Else():
                m.d.sync += [column.eq(column + 1), o.xq.eq(next_xq), o.xm.eq(next_xm)]
        return m
