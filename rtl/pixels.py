"""Window positions of a tile: image after image, each in raster order."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.countdown import Countdown
from hwgate.rtl.structs import pixel_layout

__all__ = ["PixelCounter"]


class PixelCounter(wiring.Component):
    """Walks over the windows of a tile, one per cycle at most, without dividing.

    The windows of an image are numbered from a multiple of ``config.beat_pixels`` on, the next one
    that is free: each image begins at a whole word of the output column.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    restart : In
        The first window is at the output from the next cycle on; wins over ``next``.
    next, image_last : In
        The window after this one is at the output from the next cycle on; this one is the last one
        of its image.
    step_q, step_m, width, row_words, row_step, image_words : In
        Distance of windows as quotient and remainder by 3, windows of a row, window memory words
        of a row and of ``step_q`` rows, window memory words of an image; stable.
    reduce : In
        All windows of an image have the number of its first one; stable.
    o : Out
        The window, see :func:`pixel_layout`.
    row_end : Out
        It is the last one of its row.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._layout = pixel_layout(config)
        super().__init__({
            "restart": In(1), "next": In(1), "image_last": In(1), "step_q": In(2),
            "step_m": In(2), "width": In(16), "row_words": In(self._layout["ya"].shape),
            "row_step": In(self._layout["ya"].shape), "image_words": In(self._layout["ya"].shape),
            "reduce": In(1), "o": Out(self._layout), "row_end": Out(1)})

    def elaborate(self, platform):
        m = Module()
        o, origin = self.o, Signal.like(self.o.ya)
        m.submodules.columns = columns = Countdown()
        m.d.comb += [
            columns.count.eq(self.width), columns.next.eq(self.next), self.row_end.eq(columns.last),
            columns.restart.eq(self.restart | self.next & (self.row_end | self.image_last))]

        def advance(quotient, remainder):
            """(quotient, remainder) one window further, and whether the remainder wrapped."""
            moved, wraps = Signal(3), Signal()
            m.d.comb += [moved.eq(remainder + self.step_m), wraps.eq(moved >= 3)]
            return quotient + self.step_q + wraps, Mux(wraps, moved - 3, moved), wraps

        next_xq, next_xm, _ = advance(o.xq, o.xm)
        next_yq, next_ym, wraps_y = advance(o.yq, o.ym)
        with m.If(self.restart):
            m.d.sync += [o.eq(0), origin.eq(0)]
        with m.Elif(self.next & self.image_last):
            below = origin + self.image_words
            m.d.sync += [
                origin.eq(below), o.ya.eq(below),
                o.yq.eq(0), o.ym.eq(0), o.xq.eq(0), o.xm.eq(0),
                o.index.eq((o.index | self.config.beat_pixels - 1) + 1)]
        with m.Elif(self.next):
            m.d.sync += o.index.eq(o.index + ~self.reduce)
            with m.If(self.row_end):
                m.d.sync += [o.xq.eq(0), o.xm.eq(0), o.yq.eq(next_yq),
                             o.ym.eq(next_ym),
                             o.ya.eq(o.ya + self.row_step + Mux(wraps_y, self.row_words, 0))]
            with m.Else():
                m.d.sync += [o.xq.eq(next_xq), o.xm.eq(next_xm)]
        return m
