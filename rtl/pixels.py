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
    step, width, row_words, count : In
        Distance of windows in pixels (1..3), windows of a row, window memory words of a row and
        windows of the tile; stable.
    o : Out
        The window, see :func:`pixel_layout`.
    last : Out
        It is the tile's last one.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._layout = pixel_layout(config)
        super().__init__({
            "restart": In(1), "next": In(1), "step": In(2), "width": In(16),
            "row_words": In(self._layout["ya"].shape), "count": In(16),
            "o": Out(self._layout), "last": Out(1)})

    def elaborate(self, platform):
        m = Module()
        o, column = self.o, Signal(16)

        def advance(quotient, remainder):
            """(quotient, remainder) after ``step`` pixels."""
            moved = Signal(3)
            m.d.comb += moved.eq(remainder + self.step)
            return Mux(moved >= 3, quotient + 1, quotient), Mux(moved >= 3, moved - 3, moved)

        m.d.comb += self.last.eq(o.index == self.count - 1)
        next_xq, next_xm = advance(o.xq, o.xm)
        next_yq, next_ym = advance(o.yq, o.ym)
        with m.If(self.restart):
            m.d.sync += [o.eq(0), column.eq(0)]
        with m.Elif(self.next):
            m.d.sync += o.index.eq(o.index + 1)
            with m.If(column == self.width - 1):
                m.d.sync += [column.eq(0), o.xq.eq(0), o.xm.eq(0), o.yq.eq(next_yq),
                             o.ym.eq(next_ym)]
                with m.If(o.ym + self.step >= 3):
                    m.d.sync += o.ya.eq(o.ya + self.row_words)
            with m.Else():
                m.d.sync += [column.eq(column + 1), o.xq.eq(next_xq), o.xm.eq(next_xm)]
        return m
