"""Loader: brings the windows of the next tiles into every lane's window memory."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.rtl.burst import request_layout
from hwgate.rtl.chunks import lookup_signature
from hwgate.rtl.structs import descriptor_struct, of_tile, status_layout, window_write_layout
from hwgate.rtl.tiles import TileCounter, TileQueue

__all__ = ["LOADED_LATENCY", "Loader"]

#: Cycles from writing the last words of a plane to counting the plane as loaded.
LOADED_LATENCY = 2


class Loader(wiring.Component):
    """Reads tile after tile, plane after plane, image after image, and broadcasts the words to the
    lanes.

    Window mode writes ``config.write_words`` pixels per cycle: neighbours never share a bank. What
    is left of a beat waits for the next one. Bank mode writes one.

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
    tile, plane, words : Out
        Loaded tiles, loaded planes of the next one, each of all its images, and pixels of the next
        plane of an image, those counted that come before a band.
    idle : Out
        Every tile of the layer has been written.
    table : Out
        Look-ups in the chunk table, see :func:`lookup_signature`; only with
        ``buffers.compressed_chunks``.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        table = {"table": Out(lookup_signature(config))}
        super().__init__((table if config.buffers.compressed_chunks else {}) | {
            "start": In(1), "layer": In(descriptor_struct()),
            "lanes": In(data.ArrayLayout(status_layout(), config.lanes)),
            "o": Out(stream.Signature(request_layout(config))), "valid": In(1),
            "data": In(config.bus.data_bits), "write": Out(window_write_layout(config)),
            "tile": Out(16), "plane": Out(16), "words": Out(16), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        layer = self.layer
        m.submodules.queue = queue = TileQueue(self.config)
        wiring.connect(m, wiring.flipped(self.o), queue.request)
        m.d.comb += [
            queue.start.eq(self.start), queue.lanes.eq(self.lanes), queue.valid.eq(self.valid),
            queue.data.eq(self.data), queue.i.tiles.eq(layer.tiles),
            queue.i.round_tiles.eq(layer.round_tiles), queue.i.address.eq(layer.in_address),
            queue.i.runs.eq(layer.in_runs), queue.i.run_stride.eq(layer.in_run_stride),
            queue.tile_stride.eq(of_tile(layer, "in_stride", queue.place)),
            queue.beats.eq(of_tile(layer, "in_run_beats", queue.place))]
        if self.config.buffers.compressed_chunks:
            wiring.connect(m, wiring.flipped(self.table), queue.table)
            m.d.comb += [queue.packed.eq(layer.in_packed), queue.first.eq(layer.in_entry)]
        self._place(m, queue)
        return m

    def _place(self, m, queue):
        """Write words in raster order to the bank and address of their pixel."""
        config, layer = self.config, self.layer
        layout = window_write_layout(config)
        words, width = config.write_words, 8 * config.channels
        beat = Signal(16)
        group, bank = Signal.like(layer.group_words), Signal(range(TAPS))
        image, origin = Signal(16), Signal.like(layer.group_words)
        m.submodules.counter = counter = TileCounter()
        tile, plane = counter.tile, Signal.like(self.plane)
        column, xm, ym = Signal(16), Signal(2), Signal(2)
        xq, ya = (Signal(layout.elem_shape["address"].shape, name=name) for name in ("xq", "ya"))
        word = Signal(16)
        bank_mode = layer.bank_mode[0]
        plane_words, last_beat, skip = (Signal(16, name=name)
                                        for name in ("plane_words", "last_beat", "skip"))
        m.d.comb += [
            plane_words.eq(of_tile(layer, "plane_words", counter.place)),
            last_beat.eq(of_tile(layer, "plane_beats", counter.place) - 1),
            skip.eq(of_tile(layer, "in_skip", counter.place)),
            counter.restart.eq(self.start), counter.round_tiles.eq(layer.round_tiles)]

        # Pixels of beats that were taken and not written: fewer than a cycle writes, or a beat is
        # not needed. The last beat of an image's plane leaves nothing.
        held, left = Signal(width * config.beat_pixels), Signal(range(max(2, config.beat_pixels)))
        step, count, ahead = (Signal(range(2 * config.beat_pixels + 1), name=name)
                              for name in ("step", "count", "ahead"))
        take, go, flush, end_image, end_plane = (Signal(name=name) for name in (
            "take", "go", "flush", "end_image", "end_plane"))
        chosen = Signal(width * (config.beat_pixels + words - 1))
        m.d.comb += [
            step.eq(Mux(bank_mode, 1, words)),
            take.eq(queue.o.valid & ~flush & (left < step)), queue.o.ready.eq(take),
            go.eq(take | (left >= step) | flush),
            count.eq(left + Mux(take, config.beat_pixels, 0)),
            ahead.eq(Mux(count > step, count - step, 0)),
            end_image.eq(go & (ahead == 0) & (flush | take & (beat == last_beat))),
            end_plane.eq(end_image & (image == of_tile(layer, "images", counter.place) - 1)),
            self.idle.eq(queue.idle & (left == 0))]
        m.d.comb += chosen.eq(held)
        with m.Switch(Mux(take, left, words)):
            for n in range(words):
                with m.Case(n):
                    m.d.comb += chosen.eq(held | queue.o.payload << n * width)
        with m.If(go):
            m.d.sync += [left.eq(ahead), held.eq(Mux(bank_mode, chosen >> width,
                                                     chosen >> words * width))]
        with m.If(take):
            m.d.sync += [beat.eq(beat + 1), flush.eq(beat == last_beat)]

        # The first pixel is at (pad_top, pad), which may be 3, of this tile or of the next one.
        first_xq, first_xm, first_ym = Signal(1), Signal(2), Signal(2)
        above, end_tile = Signal(2), Signal()
        m.d.comb += [end_tile.eq(end_plane & (plane == layer.in_planes - 1)),
                     counter.next.eq(end_tile),
                     above.eq(Mux(end_tile, of_tile(layer, "pad_top", counter.following),
                                  of_tile(layer, "pad_top", counter.place))),
                     first_xq.eq(layer.pad == 3), first_xm.eq(Mux(first_xq, 0, layer.pad)),
                     first_ym.eq(Mux(above == 3, 0, above))]

        # Walk over the pixels of this cycle; beyond the plane there is only padding.
        place = (word, column, xq, xm, ya, ym)
        strobes = []
        for n in range(words):
            here_word, here_column, here_xq, here_xm, here_ya, here_ym = place
            inside = here_word >= skip
            enable = go & inside & (here_word - skip < plane_words)
            address = (group + here_xq + here_ya)[:len(xq) - 1]
            if n:
                enable = enable & ~bank_mode
            strobes.append((enable, Mux(bank_mode, bank, 3 * here_ym + here_xm),
                            Mux(bank_mode, group + here_word - skip, address)))
            wrap = inside & (here_column == layer.in_width - 1)
            down = here_ym == 2
            carry = inside & (here_xm == 2)
            after = (here_word + 1, Mux(wrap, 0, here_column + inside),
                     Mux(wrap, first_xq, here_xq + carry),
                     Mux(wrap, first_xm, Mux(carry, 0, here_xm + inside)),
                     Mux(wrap & down, here_ya + layer.row_words, here_ya),
                     Mux(wrap, Mux(down, 0, here_ym + 1), here_ym))
            place = tuple(_named(m, old, new, f"after{n}") for old, new in zip(place, after))
        first = tuple(_named(m, old, new, "first") for old, new in zip(
            place, (word + 1, column, xq, xm, ya, ym)))
        with m.If(go):
            for now, window, bank_place in zip((word, column, xq, xm, ya, ym), place, first):
                m.d.sync += now.eq(Mux(bank_mode, bank_place, window))
        with m.If(end_image):
            m.d.sync += [beat.eq(0), flush.eq(0), image.eq(image + 1),
                         group.eq(group + layer.image_words)]
        with m.If(end_plane):
            m.d.sync += [image.eq(0), plane.eq(plane + 1), bank.eq(bank + 1)]
            with m.If(~bank_mode | (bank == TAPS - 1)):
                m.d.sync += [bank.eq(0), origin.eq(origin + layer.group_words),
                             group.eq(origin + layer.group_words)]
            with m.Else():  # nine planes share their addresses
                m.d.sync += group.eq(origin)
            with m.If(end_tile):
                m.d.sync += [plane.eq(0), bank.eq(0), group.eq(0), origin.eq(0)]
        with m.If(self.start):
            m.d.sync += plane.eq(0)
        with m.If(self.start | end_image):
            m.d.sync += [word.eq(0), column.eq(0), xq.eq(first_xq), xm.eq(first_xm),
                         ya.eq(Mux(above == 3, layer.row_words, 0)), ym.eq(first_ym)]

        for bank_index in range(TAPS):
            port = self.write[bank_index]
            m.d.sync += port.enable.eq(0)
            for n, (enable, target, address) in enumerate(strobes):
                with m.If(enable & (target == bank_index)):
                    m.d.sync += [port.enable.eq(1), port.data.eq(chosen.word_select(n, width)),
                                 port.address.eq(Cat(address[:len(xq) - 1], tile[0]))]
        m.d.sync += [self.tile.eq(tile), self.plane.eq(plane), self.words.eq(word)]


def _named(m, like, value, name):
    """A signal that follows ``value``, so that chained expressions stay small."""
    o = Signal.like(like, name=f"{like.name}_{name}")
    m.d.comb += o.eq(value)
    return o
