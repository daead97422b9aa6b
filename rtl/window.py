"""Window memory: nine banks that deliver any 3x3 window in one cycle."""

from itertools import pairwise

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.rtl.structs import block_layout, pixel_layout, window_write_layout

__all__ = ["WINDOW_LATENCY", "WindowMemory"]

#: Cycles from a position at the input to its window at the output: row and column, bank
#: address, bank, rotation in y, rotation in x with masking.
WINDOW_LATENCY = 5


class WindowMemory(wiring.Component):
    """Two halves of nine banks; pixel (y, x) lies in bank (y mod 3, x mod 3).

    A 3x3 window at any position touches each bank once, so one window leaves per cycle, in the
    order of the positions, :data:`WINDOW_LATENCY` cycles later. There is no back-pressure. Taps
    outside the map (rows before ``pad_top`` or from ``row_end`` on, columns before ``pad`` or from
    ``col_end`` on) read as zero.
    In bank mode nothing is masked: tap t is bank t at the given address.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    write : In
        Strobes of the nine banks and their words, see :func:`window_write_layout`.
    pixel : In
        Window position, see :func:`pixel_layout`.
    base : In
        Address of the channel group within a half, plus that of the kernel block.
    row, column : In
        Place of the kernel block: three rows and columns each.
    half, pad_top, row_end : In
        Half to read, rows of padding above its map, and those with the rows of the map.
    pad, col_end, row_words, bank_mode : In
        Geometry of the layer; stable while windows are in flight.
    o : Out
        The window: nine taps of R activations.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        self._words = (config.buffers.window_words - 1).bit_length()
        super().__init__({
            "write": In(window_write_layout(config)),
            "pixel": In(pixel_layout(config)),
            "base": In(self._words), "row": In(2), "column": In(2), "half": In(1),
            "pad": In(2), "pad_top": In(2), "row_end": In(16), "col_end": In(16),
            "row_words": In(self._words), "bank_mode": In(1),
            "o": Out(block_layout(config))})

    def elaborate(self, platform):
        m = Module()
        pixel, words = self.pixel, self._words

        # Stage 1: one row address per bank row, one column per bank column.
        rows = [Signal(words, name=f"row{n}") for n in range(3)]
        cols = [Signal(words, name=f"col{n}") for n in range(3)]
        for n in range(3):
            m.d.sync += [
                rows[n].eq(self.base + pixel.ya + Mux(n < pixel.ym, self.row_words, 0)),
                cols[n].eq(pixel.xq + (n < pixel.xm))]
        y, x = Signal(words + 2), Signal(words + 2)
        m.d.sync += [y.eq(3 * (pixel.yq + self.row) + pixel.ym),
                     x.eq(3 * (pixel.xq + self.column) + pixel.xm)]
        above, row_end = Signal.like(self.pad_top), Signal.like(self.row_end)
        m.d.sync += [above.eq(self.pad_top), row_end.eq(self.row_end)]
        half, ym, xm = self.half, pixel.ym, pixel.xm
        stages = [Signal(5, name=f"rotation{stage}") for stage in range(1, WINDOW_LATENCY)]
        m.d.sync += stages[0].eq(Cat(half, ym, xm))
        for before, after in pairwise(stages):
            m.d.sync += after.eq(before)

        # Stage 2: bank addresses and masks. Stage 3: the banks.
        inside_y = [Signal(3, name=f"inside_y{n}") for n in range(3)]  # stages 2, 3, 4
        inside_x = [Signal(3, name=f"inside_x{n}") for n in range(3)]
        m.d.sync += [
            inside_y[0].eq(Cat((y + n >= above) & (y + n < row_end) | self.bank_mode
                               for n in range(3))),
            inside_x[0].eq(Cat((x + n >= self.pad) & (x + n < self.col_end) | self.bank_mode
                               for n in range(3)))]
        for n in range(2):
            m.d.sync += [inside_y[n + 1].eq(inside_y[n]), inside_x[n + 1].eq(inside_x[n])]
        banks = []
        for bank in range(TAPS):
            ram = memory.Memory(shape=unsigned(8 * self.config.channels), init=[],
                                depth=2 * self.config.buffers.window_words)
            m.submodules[f"bank{bank}"] = ram
            write, read = ram.write_port(), ram.read_port()
            address = Signal(words, name=f"address{bank}")
            m.d.sync += address.eq(rows[bank // 3] + cols[bank % 3])
            m.d.comb += [
                read.addr.eq(Cat(address, stages[1][0])), read.en.eq(1),
                write.en.eq(self.write.enable[bank]),
                write.addr.eq(self.write.columns[bank % 3].address),
                write.data.eq(self.write.columns[bank % 3].data)]
            banks.append(read.data)

        # Stages 4 and 5: back into tap order.
        turned = [[Signal(8 * self.config.channels, name=f"turned{i}{b}") for b in range(3)]
                  for i in range(3)]
        for i in range(3):
            for b in range(3):
                m.d.sync += turned[i][b].eq(_rotate(m, f"y{i}{b}", stages[2][1:3], i,
                                                    [banks[3 * r + b] for r in range(3)]))
        for i in range(3):
            for j in range(3):
                tap = _rotate(m, f"x{i}{j}", stages[3][3:5], j, turned[i])
                keep = inside_y[2][i] & inside_x[2][j]
                m.d.sync += self.o[3 * i + j].as_value().eq(Mux(keep, tap, 0))
        return m


def _rotate(m: Module, name: str, turn, offset: int, sources: list) -> Signal:
    """``sources[(turn + offset) mod 3]``."""
    o = Signal.like(sources[0], name=f"rotate_{name}")
    with m.Switch(turn):
        for n in range(3):
            with m.Case(n):
                m.d.comb += o.eq(sources[(n + offset) % 3])
    return o
