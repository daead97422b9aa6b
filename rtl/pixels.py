"""Window positions of a tile: image after image, each in raster order."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
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
    next : In
        The window after this one is at the output from the next cycle on.
    step_q, step_m, width, row_words, row_step, count, image_words, images : In
        Distance of windows as quotient and remainder by 3, windows of a row, window memory words
        of a row and of ``step_q`` rows, windows of an image, window memory words of an image,
        images of the tile; stable.
    reduce : In
        All windows of an image have the number of its first one; stable.
    o : Out
        The window, see :func:`pixel_layout`.
    row_end, image_first, image_last, last : Out
        It is the last one of its row, the first or last one of its image, the tile's last one.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._layout = pixel_layout(config)
        super().__init__({
            "restart": In(1), "next": In(1), "step_q": In(2), "step_m": In(2), "width": In(16),
            "row_words": In(self._layout["ya"].shape), "row_step": In(self._layout["ya"].shape),
            "count": In(16), "image_words": In(self._layout["ya"].shape), "images": In(16),
            "reduce": In(1), "o": Out(self._layout), "row_end": Out(1), "image_first": Out(1),
            "image_last": Out(1), "last": Out(1)})

    def elaborate(self, platform):
        m = Module()
        o, column, number, image = self.o, Signal(16), Signal(16), Signal(16)
        origin = Signal.like(o.ya)

        def advance(quotient, remainder):
            """(quotient, remainder) one window further, and whether the remainder wrapped."""
            moved, wraps = Signal(3), Signal()
            m.d.comb += [moved.eq(remainder + self.step_m), wraps.eq(moved >= 3)]
            return quotient + self.step_q + wraps, Mux(wraps, moved - 3, moved), wraps

        m.d.comb += [
            self.row_end.eq(column == self.width - 1), self.image_first.eq(number == 0),
            self.image_last.eq(number == self.count - 1),
            self.last.eq(self.image_last & (image == self.images - 1))]
        next_xq, next_xm, _ = advance(o.xq, o.xm)
        next_yq, next_ym, wraps_y = advance(o.yq, o.ym)
        with m.If(self.restart):
            m.d.sync += [o.eq(0), column.eq(0), number.eq(0), image.eq(0), origin.eq(0)]
        with m.Elif(self.next & self.image_last):
            below = origin + self.image_words
            m.d.sync += [
                column.eq(0), number.eq(0), image.eq(image + 1), origin.eq(below), o.ya.eq(below),
                o.yq.eq(0), o.ym.eq(0), o.xq.eq(0), o.xm.eq(0),
                o.index.eq((o.index | self.config.beat_pixels - 1) + 1)]
        with m.Elif(self.next):
            m.d.sync += [number.eq(number + 1), o.index.eq(o.index + ~self.reduce)]
            with m.If(self.row_end):
                m.d.sync += [column.eq(0), o.xq.eq(0), o.xm.eq(0), o.yq.eq(next_yq),
                             o.ym.eq(next_ym),
                             o.ya.eq(o.ya + self.row_step + Mux(wraps_y, self.row_words, 0))]
            with m.Else():
                m.d.sync += [column.eq(column + 1), o.xq.eq(next_xq), o.xm.eq(next_xm)]
        return m
