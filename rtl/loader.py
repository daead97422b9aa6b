"""Loader: brings the windows of the next tiles into every lane's window memory."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.config import TAPS, AcceleratorConfig
from hwgate.rtl.burst import request_layout
from hwgate.rtl.structs import descriptor_struct, status_layout, window_write_layout

__all__ = ["LOADED_LATENCY", "LOADER_CHUNK", "LOADER_QUEUE", "Loader"]

#: Beats of one read request.
LOADER_CHUNK = 16
#: Beats that have been asked for and not yet written.
LOADER_QUEUE = 64
#: Cycles from writing the last words of a plane to counting the plane as loaded.
LOADED_LATENCY = 2


class Loader(wiring.Component):
    """Reads tile after tile, plane after plane, and broadcasts the words to the lanes.

    Window mode writes ``config.write_words`` pixels per cycle: neighbours never share a bank.
    Bank mode writes one. A tile is asked for when every lane has left the tile two before it.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    start, layer : In
        A layer begins; its descriptor, stable while it runs.
    lanes : In
        How far each lane is, see :func:`status_layout`.
    o : Out(stream)
        Read requests.
    valid, data : In
        A beat of the answers.
    write : Out
        To the window memories, see :func:`window_write_layout`.
    tile, plane : Out
        Loaded tiles, and loaded planes of the next one.
    idle : Out
        Every tile of the layer has been written.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "start": In(1), "layer": In(descriptor_struct()),
            "lanes": In(data.ArrayLayout(status_layout(), config.lanes)),
            "o": Out(stream.Signature(request_layout(config))), "valid": In(1),
            "data": In(config.bus.data_bits), "write": Out(window_write_layout(config)),
            "tile": Out(16), "plane": Out(16), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.beats = beats = fifo.SyncFIFO(width=self.config.bus.data_bits,
                                                   depth=LOADER_QUEUE)
        m.d.comb += [beats.w_en.eq(self.valid), beats.w_data.eq(self.data)]
        self._request(m, beats.r_en & beats.r_rdy)
        self._place(m, beats)
        return m

    def _request(self, m, popped):
        """Ask for tile after tile in chunks for which the queue has room."""
        layer, beat = self.layer, self.config.bus.bytes
        tile, left, reserved = Signal(16), Signal(32), Signal(range(LOADER_QUEUE + 1))
        origin, address = Signal(self.config.bus.address_bits), Signal(self.config.bus.address_bits)
        chunk = Signal(range(LOADER_CHUNK + 1))
        m.d.comb += [
            chunk.eq(Mux(left > LOADER_CHUNK, LOADER_CHUNK, left)),
            self.o.payload.address.eq(address), self.o.payload.beats.eq(chunk)]
        taken = self.o.valid & self.o.ready
        m.d.sync += reserved.eq(reserved + Mux(taken, chunk, 0) - popped)
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.idle.eq(reserved == 0)
                with m.If(self.start):
                    m.d.sync += [tile.eq(0), origin.eq(layer.in_address)]
                    m.next = "Wait"
            with m.State("Wait"):
                m.d.sync += [address.eq(origin), left.eq(layer.tile_beats)]
                with m.If(Cat(lane.absent | (tile < lane.tile + 2) for lane in self.lanes).all()):
                    m.next = "Request"
            with m.State("Request"):
                m.d.comb += self.o.valid.eq(reserved + chunk <= LOADER_QUEUE)
                with m.If(taken):
                    m.d.sync += [address.eq(address + chunk * beat), left.eq(left - chunk)]
                    with m.If(left == chunk):
                        m.d.sync += [tile.eq(tile + 1), origin.eq(origin + layer.in_stride)]
                        m.next = "Wait"
                        with m.If(tile == layer.tiles - 1):
                            m.next = "Idle"

    def _place(self, m, beats):
        """Write words in raster order to the bank and address of their pixel."""
        config, layer = self.config, self.layer
        layout = window_write_layout(config)
        words, width = config.write_words, 8 * config.channels
        part, beat = Signal(range(max(2, config.beat_pixels))), Signal(16)
        group, bank = Signal.like(layer.group_words), Signal(range(TAPS))
        tile, plane = Signal.like(self.tile), Signal.like(self.plane)
        column, xm, ym = Signal(16), Signal(2), Signal(2)
        xq, ya = (Signal(layout.elem_shape["address"].shape, name=name) for name in ("xq", "ya"))
        word = Signal(16)
        bank_mode = layer.bank_mode[0]
        end_part, end_plane = Signal(), Signal()
        m.d.comb += [
            end_part.eq(part + 1 == Mux(bank_mode, config.beat_pixels,
                                        config.beat_pixels // words)),
            end_plane.eq(end_part & (beat == layer.plane_beats - 1)),
            beats.r_en.eq(end_part)]

        # Walk over the pixels of this cycle; beyond the plane there is only padding.
        place = (word, column, xq, xm, ya, ym)
        strobes = []
        for n in range(words):
            here_word, here_column, here_xq, here_xm, here_ya, here_ym = place
            enable = beats.r_rdy & (here_word < layer.plane_words)
            address = (group + here_xq + here_ya)[:len(xq) - 1]
            if n:
                enable = enable & ~bank_mode
            strobes.append((enable, Mux(bank_mode, bank, 3 * here_ym + here_xm),
                            Mux(bank_mode, group + here_word, address)))
            wrap = here_column == layer.in_width - 1
            down = here_ym == 2
            after = (here_word + 1, Mux(wrap, 0, here_column + 1),
                     Mux(wrap, 0, here_xq + (here_xm == 2)),
                     Mux(wrap, layer.pad[:2], Mux(here_xm == 2, 0, here_xm + 1)),
                     Mux(wrap & down, here_ya + layer.row_words, here_ya),
                     Mux(wrap, Mux(down, 0, here_ym + 1), here_ym))
            place = tuple(_named(m, old, new, f"after{n}") for old, new in zip(place, after))
        first = tuple(_named(m, old, new, "first") for old, new in zip(
            place, (word + 1, column, xq, xm, ya, ym)))
        with m.If(beats.r_rdy):
            for now, window, bank_place in zip((word, column, xq, xm, ya, ym), place, first):
                m.d.sync += now.eq(Mux(bank_mode, bank_place, window))
            m.d.sync += part.eq(Mux(end_part, 0, part + 1))
            with m.If(end_part):
                m.d.sync += beat.eq(beat + 1)
            with m.If(end_plane):
                m.d.sync += [beat.eq(0), plane.eq(plane + 1), bank.eq(bank + 1)]
                with m.If(~bank_mode | (bank == TAPS - 1)):
                    m.d.sync += [bank.eq(0), group.eq(group + layer.group_words)]
                with m.If(plane == layer.in_planes - 1):
                    m.d.sync += [plane.eq(0), bank.eq(0), group.eq(0), tile.eq(tile + 1)]
        with m.If(self.start):
            m.d.sync += [tile.eq(0), plane.eq(0)]
        with m.If(self.start | beats.r_rdy & end_plane):
            m.d.sync += [word.eq(0), column.eq(0), xq.eq(0), xm.eq(layer.pad), ya.eq(0),
                         ym.eq(layer.pad)]

        chosen = Signal(words * width)
        with m.If(bank_mode):
            m.d.comb += chosen.eq(beats.r_data.word_select(part, width))
        with m.Else():
            m.d.comb += chosen.eq(beats.r_data.word_select(part, words * width))
        for bank_index in range(TAPS):
            port = self.write[bank_index]
            m.d.sync += port.enable.eq(0)
            for n, (enable, target, address) in enumerate(strobes):
                with m.If(enable & (target == bank_index)):
                    m.d.sync += [port.enable.eq(1), port.data.eq(chosen.word_select(n, width)),
                                 port.address.eq(Cat(address[:len(xq) - 1], tile[0]))]
        m.d.sync += [self.tile.eq(tile), self.plane.eq(plane)]


def _named(m, like, value, name):
    """A signal that follows ``value``, so that chained expressions stay small."""
    o = Signal.like(like, name=f"{like.name}_{name}")
    m.d.comb += o.eq(value)
    return o
