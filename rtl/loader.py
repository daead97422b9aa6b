"""Loader: brings the windows of the next tiles into every lane's window memory."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.burst import request_layout
from hwgate.rtl.chunks import lookup_signature
from hwgate.rtl.countdown import Countdown
from hwgate.rtl.structs import (
    descriptor,
    descriptor_struct,
    of_tile,
    status_layout,
    window_write_layout,
)
from hwgate.rtl.tiles import TileCounter, TileQueue

__all__ = ["LOADED_LATENCY", "TILE_CYCLES", "Loader"]

#: Cycles from choosing the last words of a plane to counting the plane as loaded: their register,
#: that of the banks' ports, and the banks.
LOADED_LATENCY = 3
#: Cycles without a write after a tile, in which the fields of the next one are latched.
TILE_CYCLES = 2

#: What is known of the words of a cycle: how many, whether they count and are written, what ends
#: with them.
_FLAGS = data.StructLayout({
    "step": 2, "counted": 1, "written": 1, "row_end": 1, "image_end": 1, "plane_end": 1,
    "tile_end": 1, "tile_begin": 1, "half": 1})


class Loader(wiring.Component):
    """Reads tile after tile, plane after plane, image after image, and broadcasts the words to the
    lanes.

    Window mode writes ``config.write_words`` pixels of a row per cycle: neighbours never share a
    bank column. Bank mode writes one.

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
        Every tile of the layer has been cut; the last write is on its way.
    table : Out
        Look-ups in the chunk table, see :func:`lookup_signature`; only with
        ``buffers.compressed_chunks``.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        table = {"table": Out(lookup_signature(config))}
        super().__init__((table if config.buffers.compressed_chunks else {}) | {
            "start": In(1), "layer": In(descriptor_struct().size),
            "lanes": In(data.ArrayLayout(status_layout(), config.lanes)),
            "o": Out(stream.Signature(request_layout(config))), "valid": In(1),
            "data": In(config.bus.data_bits), "write": Out(window_write_layout(config)),
            "tile": Out(16), "plane": Out(16), "words": Out(16), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        layer = descriptor(self.layer)
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
        words, flags, above = self._choose(m, queue)
        self._place(m, words, flags, above)
        return m

    def _choose(self, m, queue):
        """Cut the beats into what is written in a cycle, a share of a row. Returns (words, flags)
        of the cycle before, which are never refused, and the rows of padding above."""
        config, layer, pixels = self.config, descriptor(self.layer), self.config.beat_pixels
        bank_mode = layer.bank_mode[0]
        most = Mux(bank_mode, 1, config.write_words)
        m.submodules.counter = counter = TileCounter()
        m.submodules.rows = rows = Countdown()
        m.submodules.images = images = Countdown()
        m.submodules.planes = planes = Countdown()
        flags = Signal(_FLAGS)
        turn, turned = Signal(), Signal()

        # Two beats: the one that is cut, from its word ``offset`` on, and the next one.
        beat, full = Signal(config.bus.data_bits, reset_less=True), Signal()
        offset, end = Signal(range(max(2, pixels))), Signal(2 + pixels.bit_length())
        # What is left of a row, or of the words before the first one, and the share of a cycle,
        # which may empty the beat, or reach into the next one, of which it may leave nothing.
        left, step, share_last = Signal(16), Signal(2), Signal()
        empties, reaches, leaves, skips = Signal(), Signal(), Signal(), Signal()
        go, emptied, image_last, plane_last, tile_last = (Signal() for _ in range(5))
        m.d.comb += [
            go.eq(full & (~reaches | queue.o.valid)),
            image_last.eq(share_last & ~skips & rows.last),
            plane_last.eq(image_last & images.last), tile_last.eq(plane_last & planes.last),
            emptied.eq(go & (empties | image_last)),
            queue.o.ready.eq(~turn & Mux(full, emptied & (~tile_last | reaches), 1))]
        loads = queue.o.valid & queue.o.ready
        with m.If(loads):
            m.d.sync += beat.eq(queue.o.payload)
        with m.If(loads | emptied):
            m.d.sync += full.eq(loads & ~(go & reaches & (image_last | ~leaves)))

        # Latched once a tile; the first write is two cycles later.
        skip, above = Signal.like(layer.in_skip), Signal.like(layer.pad_top)
        width_fits, restart, begins, last = Signal(), Signal(), Signal(), Signal()
        fitting = Signal(2)
        m.d.sync += [turn.eq(self.start | go & tile_last), turned.eq(turn),
                     width_fits.eq(layer.in_width <= most)]
        with m.If(turn):
            m.d.sync += [
                skip.eq(of_tile(layer, "in_skip", counter.place)),
                rows.count.eq(of_tile(layer, "in_rows", counter.place)),
                images.count.eq(of_tile(layer, "images", counter.place)),
                above.eq(of_tile(layer, "pad_top", counter.place))]
        m.d.comb += [
            counter.restart.eq(self.start), counter.next.eq(go & tile_last),
            counter.round_tiles.eq(layer.round_tiles), restart.eq(turned | go & image_last),
            planes.count.eq(layer.in_planes), planes.restart.eq(turned),
            planes.next.eq(go & plane_last), images.restart.eq(turned | go & plane_last),
            images.next.eq(go & image_last), rows.restart.eq(restart),
            rows.next.eq(go & share_last & ~skips), begins.eq(turned | go & share_last)]

        # The share after this one.
        to, share = Signal.like(offset), Signal.like(step)
        with m.If(restart & (skip != 0)):
            m.d.comb += [last.eq(skip <= most), fitting.eq(skip)]
        with m.Elif(begins):
            m.d.comb += [last.eq(width_fits), fitting.eq(layer.in_width)]
        with m.Else():
            m.d.comb += [last.eq(Mux(bank_mode, left <= 2, left <= 2 * config.write_words)),
                         fitting.eq(left - most)]
        m.d.comb += [end.eq(offset + step), share.eq(Mux(last, fitting, most)),
                     to.eq(Mux(restart, 0, end & (pixels - 1)))]
        with m.If(turned | go):
            m.d.sync += [
                share_last.eq(last), step.eq(share), offset.eq(to),
                empties.eq(to + share >= pixels), reaches.eq(to + share > pixels),
                leaves.eq(to + share != 2 * pixels),
                skips.eq(Mux(begins, restart & (skip != 0), skips)), left.eq(Mux(
                    restart & (skip != 0), skip, Mux(begins, layer.in_width, left - most)))]
        m.d.comb += self.idle.eq(queue.idle & ~full)

        words = Signal(8 * config.channels * config.write_words, reset_less=True)
        both = Cat(beat, queue.o.payload)
        m.d.sync += [
            words.eq(both >> (offset << (8 * config.channels - 1).bit_length())),
            flags.step.eq(step), flags.counted.eq(go), flags.written.eq(go & ~skips),
            flags.row_end.eq(go & share_last & ~skips), flags.image_end.eq(go & image_last),
            flags.plane_end.eq(go & plane_last), flags.tile_begin.eq(turned),
            flags.tile_end.eq(go & tile_last), flags.half.eq(counter.tile[0])]
        return words, flags, above

    def _place(self, m, words, flags, above):
        """Walk over the banks: a share of a row begins in bank (ym, xm) at an address."""
        config, layer, write = self.config, descriptor(self.layer), self.write
        word = 8 * config.channels
        bits = (config.buffers.window_words - 1).bit_length()
        bank_mode = layer.bank_mode[0]
        # Addresses of the share, of its row, of its image, and of its plane's first image.
        at, row, image, group = (Signal(bits, name=name, reset_less=True)
                                 for name in ("at", "row", "image", "group"))
        xm, ym, first_xm, first_ym = (Signal(2, name=name, reset_less=True)
                                      for name in ("xm", "ym", "first_xm", "first_ym"))
        first = Signal(bits, reset_less=True)
        # The first pixel is at (pad_top, pad), which may be 3.
        m.d.sync += [
            first_xm.eq(Mux(bank_mode | (layer.pad == 3), 0, layer.pad)),
            first_ym.eq(Mux(bank_mode | (above == 3), 0, above)),
            first.eq(Mux(bank_mode, 0, (layer.pad == 3) + Mux(above == 3, layer.row_words, 0)))]
        wraps, ends = xm == 2, ym == 2

        def begin(address):
            return [at.eq(address), row.eq(address), ym.eq(first_ym)]

        with m.If(flags.tile_begin):
            m.d.sync += [*begin(first), image.eq(first), group.eq(first), xm.eq(first_xm)]
        with m.Elif(flags.plane_end):  # in bank mode nine planes share their addresses
            moved = Mux(bank_mode & ~(wraps & ends), group, group + layer.group_words)
            m.d.sync += [*begin(moved), image.eq(moved), group.eq(moved), xm.eq(first_xm)]
            with m.If(bank_mode):
                m.d.sync += [xm.eq(Mux(wraps, 0, xm + 1)),
                             ym.eq(Mux(wraps, Mux(ends, 0, ym + 1), ym))]
        with m.Elif(flags.image_end):
            below = image + layer.image_words
            m.d.sync += [*begin(below), image.eq(below)]
            with m.If(bank_mode):
                m.d.sync += ym.eq(ym)
        with m.Elif(flags.row_end & ~bank_mode):
            below = Mux(ends, row + layer.row_words, row)
            m.d.sync += [at.eq(below), row.eq(below), ym.eq(Mux(ends, 0, ym + 1))]
        with m.Elif(flags.written):
            m.d.sync += at.eq(at + (wraps | bank_mode if config.write_words == 1 else 1))
        if config.write_words == 1:
            with m.If(flags.written & ~bank_mode):
                m.d.sync += xm.eq(Mux(flags.row_end, first_xm, Mux(wraps, 0, xm + 1)))

        # The word n of a share goes to bank column xm + n.
        m.d.sync += write.enable.eq(0)
        for column in range(3):
            port = write.columns[column]
            with m.Switch(xm):
                for begun in range(3):
                    n = (column - begun) % 3
                    if n < config.write_words:
                        with m.Case(begun):
                            m.d.sync += [
                                port.data.eq(words[n * word:][:word]),
                                port.address.eq(Cat((at + (column < begun))[:bits], flags.half))]
                            for line in range(3):
                                m.d.sync += write.enable[3 * line + column].eq(
                                    flags.written & (flags.step > n) & (ym == line))

        ports = self.tile, self.plane, self.words
        loaded = [Signal(16, name=f"loaded{n}") for n in range(len(ports))]
        tile, plane, count = loaded
        with m.If(flags.counted):
            m.d.sync += count.eq(Mux(flags.image_end, 0, count + flags.step))
        with m.If(flags.plane_end):
            m.d.sync += [plane.eq(Mux(flags.tile_end, 0, plane + 1)),
                         tile.eq(tile + flags.tile_end)]
        m.d.sync += [port.eq(value) for port, value in zip(ports, loaded, strict=True)]
        with m.If(self.start):
            m.d.sync += [signal.eq(0) for signal in (*loaded, *ports)]
