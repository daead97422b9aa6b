"""Residual loader: brings the operand of a residual add into the lanes."""

from amaranth import Array, Module, Mux, Signal
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
    residual_write_layout,
    status_layout,
)
from hwgate.rtl.tiles import TileCounter, TileQueue

__all__ = ["ResidualLoader"]


class ResidualLoader(wiring.Component):
    """Puts each channel of the operand where its lane will add it: at the place of the output.

    Takes a beat per cycle, times the reads a group needs if there are fewer lanes than channels in
    a group. An operand that is sampled at even rows and columns takes a cycle per pixel instead.
    Counts a plane as loaded :data:`hwgate.rtl.loader.LOADED_LATENCY` cycles after its last step;
    between tiles pass :data:`hwgate.rtl.loader.TILE_CYCLES`.

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
        To the residual columns, see :func:`residual_write_layout`.
    tile, plane : Out
        Loaded tiles, and loaded planes of the next one, each of all its images.
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
            "start": In(1), "layer": In(descriptor_struct().size),
            "lanes": In(data.ArrayLayout(status_layout(), config.lanes)),
            "o": Out(stream.Signature(request_layout(config))), "valid": In(1),
            "data": In(config.bus.data_bits), "write": Out(residual_write_layout(config)),
            "tile": Out(16), "plane": Out(16), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        config, layer = self.config, descriptor(self.layer)
        m.submodules.queue = queue = TileQueue(config)
        wiring.connect(m, wiring.flipped(self.o), queue.request)
        m.d.comb += [
            queue.start.eq(self.start), queue.lanes.eq(self.lanes), queue.valid.eq(self.valid),
            queue.data.eq(self.data), queue.i.tiles.eq(layer.tiles),
            queue.i.round_tiles.eq(layer.round_tiles), queue.i.address.eq(layer.res_address),
            queue.i.runs.eq(layer.res_runs), queue.i.run_stride.eq(layer.res_run_stride),
            queue.tile_stride.eq(of_tile(layer, "res_stride", queue.place)),
            queue.beats.eq(of_tile(layer, "res_run_beats", queue.place))]
        if config.buffers.compressed_chunks:
            wiring.connect(m, wiring.flipped(self.table), queue.table)
            m.d.comb += [queue.packed.eq(layer.res_packed), queue.first.eq(layer.res_entry)]

        self._place(m, *self._steps(m, queue))
        return m

    def _steps(self, m, queue):
        """Steps of a beat: its pixels, if they are sampled, and the reads of a group.

        Returns (beat, flags) of the cycle before, and whether pixels are sampled.
        """
        config, layer, pixels = self.config, descriptor(self.layer), self.config.beat_pixels
        sampled = Signal()
        m.d.sync += sampled.eq(layer.res_step == 2)
        m.submodules.counter = counter = TileCounter()
        m.submodules.beats = beats = Countdown()
        m.submodules.images = images = Countdown()
        m.submodules.planes = planes = Countdown()
        m.submodules.words = words = Countdown()
        m.submodules.columns = columns = Countdown()
        flags, turn, turned = Signal(_flags_layout(config)), Signal(), Signal()
        beat, full = Signal(config.bus.data_bits, reset_less=True), Signal()
        pixel, read = Signal(range(max(2, pixels))), Signal(range(max(2, config.slot_reads)))
        even_column, even_row, inside = Signal(), Signal(), Signal()
        end_read, end_beat, end_image, end_plane, end_tile = (Signal() for _ in range(5))
        m.d.comb += [
            end_read.eq(full & (read == config.slot_reads - 1)),
            end_beat.eq(end_read & (~sampled | (pixel == pixels - 1))),
            end_image.eq(end_beat & beats.last), end_plane.eq(end_image & images.last),
            end_tile.eq(end_plane & planes.last),
            queue.o.ready.eq((~full | end_beat) & ~end_tile & ~turn),
            self.idle.eq(queue.idle & ~full)]
        loads = queue.o.valid & queue.o.ready
        with m.If(loads):
            m.d.sync += beat.eq(queue.o.payload)
        with m.If(loads | end_beat):
            m.d.sync += full.eq(loads)
        with m.If(full):
            m.d.sync += read.eq(Mux(end_read, 0, read + 1))
        with m.If(end_read):
            m.d.sync += pixel.eq(Mux(end_beat, 0, pixel + 1))

        # Latched once a tile; the first step is two cycles later.
        m.d.sync += [turn.eq(self.start | end_tile), turned.eq(turn)]
        m.d.comb += [
            counter.restart.eq(self.start), counter.next.eq(end_tile),
            counter.round_tiles.eq(layer.round_tiles)]
        with m.If(turn):
            m.d.sync += [
                beats.count.eq(of_tile(layer, "res_beats", counter.place)),
                images.count.eq(of_tile(layer, "images", counter.place)),
                words.count.eq(of_tile(layer, "res_words", counter.place))]
        m.d.comb += [
            planes.count.eq(layer.res_planes), planes.restart.eq(turned), planes.next.eq(end_plane),
            images.restart.eq(turned | end_plane), images.next.eq(end_image),
            beats.restart.eq(turned | end_image), beats.next.eq(end_beat),
            words.restart.eq(turned | end_image), words.next.eq(end_read),
            columns.count.eq(layer.res_width), columns.next.eq(end_read),
            columns.restart.eq(turned | end_image | end_read & columns.last)]
        with m.If(turned | end_image):
            m.d.sync += [even_column.eq(1), even_row.eq(1), inside.eq(1)]
        with m.Elif(end_read):
            m.d.sync += [even_column.eq(columns.last | ~even_column),
                         even_row.eq(even_row ^ columns.last), inside.eq(inside & ~words.last)]

        held = Signal.like(beat, reset_less=True)
        m.d.sync += [
            held.eq(beat), flags.valid.eq(full), flags.read.eq(read), flags.pixel.eq(pixel),
            flags.keep.eq(even_column & even_row & inside), flags.read_end.eq(end_read),
            flags.image_end.eq(end_image), flags.plane_end.eq(end_plane),
            flags.tile_end.eq(end_tile), flags.tile_begin.eq(turned),
            flags.half.eq(counter.tile[0])]
        return held, flags, sampled

    def _place(self, m, beat, flags, sampled):
        """Where a step goes: its output column word, and its pixels, counted as they are kept."""
        config, layer, write = self.config, descriptor(self.layer), self.write
        pixels = config.beat_pixels
        shift = (pixels - 1).bit_length()
        # Words of a channel's first pixel: of this read of the group, and of its first one.
        word, slot = (Signal.like(write.word, name=name, reset_less=True)
                      for name in ("word", "slot"))
        target = Signal(len(word) + shift, reset_less=True)
        part = Signal(range(max(2, config.slot_groups)))
        tiles, planes = Signal.like(self.tile), Signal.like(self.plane)
        moved, below, part_last = Signal.like(target), Signal.like(slot), Signal()
        m.d.comb += [
            moved.eq(target + Mux(sampled, flags.keep, pixels)),
            part_last.eq(part == config.slot_groups - 1),
            below.eq(Mux(part_last, slot + config.slot_reads * layer.slot_words, slot))]
        with m.If(flags.tile_begin):
            m.d.sync += [target.eq(0), word.eq(layer.res_slot), slot.eq(layer.res_slot),
                         part.eq(layer.res_part)]
        with m.Elif(flags.plane_end):
            m.d.sync += [target.eq(0), word.eq(below), slot.eq(below),
                         part.eq(Mux(part_last, 0, part + 1))]
        with m.Elif(flags.read_end):  # an image begins at a whole word
            m.d.sync += [word.eq(slot), target.eq(moved)]
            with m.If(flags.image_end):
                m.d.sync += target.eq((moved + pixels - 1) & ~(pixels - 1))
        with m.Elif(flags.valid):
            m.d.sync += word.eq(word + layer.slot_words)

        enable, sample = Signal(pixels), Signal(8 * config.channels)
        words = data.ArrayLayout(data.ArrayLayout(8, config.channels), pixels)(beat)
        m.d.comb += [
            enable.eq(Mux(sampled, flags.keep << target[:shift], ~0)),
            sample.eq(beat.word_select(flags.pixel, 8 * config.channels))]
        m.d.sync += [write.word.eq(word + (target >> shift)), write.half.eq(flags.half)]
        for lane in range(config.lanes):
            port = write.lanes[lane]
            m.d.sync += port.enable.eq(0)
            with m.If(flags.valid & (part == lane // config.channels % config.slot_groups)):
                m.d.sync += port.enable.eq(enable)
            # Reads of a group go over its channels.
            sources = [(read * config.lanes + lane) % config.channels
                       for read in range(config.slot_reads)]
            for n in range(pixels):
                byte = Array(Mux(sampled, sample.word_select(r, 8), words[n][r]) for r in sources)
                m.d.sync += port.data[n].eq(byte[flags.read])

        with m.If(flags.plane_end):
            m.d.sync += [planes.eq(Mux(flags.tile_end, 0, planes + 1)),
                         tiles.eq(tiles + flags.tile_end)]
        m.d.sync += [self.tile.eq(tiles), self.plane.eq(planes)]
        with m.If(self.start):
            m.d.sync += [value.eq(0) for value in (tiles, planes, self.tile, self.plane)]


def _flags_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What is known of a step: its read and pixel, whether that is kept, what ends with it."""
    return data.StructLayout({
        "valid": 1, "read": range(max(2, config.slot_reads)),
        "pixel": range(max(2, config.beat_pixels)), "keep": 1, "read_end": 1, "image_end": 1,
        "plane_end": 1, "tile_end": 1, "tile_begin": 1, "half": 1})
