"""Residual loader: brings the operand of a residual add into the lanes."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.burst import request_layout
from hwgate.rtl.chunks import lookup_signature
from hwgate.rtl.structs import descriptor_struct, of_tile, residual_write_layout, status_layout
from hwgate.rtl.tiles import TileCounter, TileQueue

__all__ = ["ResidualLoader"]


class ResidualLoader(wiring.Component):
    """Puts each channel of the operand where its lane will add it: at the place of the output.

    Takes a beat per cycle, times the reads a group needs if there are fewer lanes than channels in
    a group. An operand that is sampled at even rows and columns takes a cycle per pixel instead.
    Counts a plane as loaded :data:`hwgate.rtl.loader.LOADED_LATENCY` cycles after its last write
    began.

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
            "start": In(1), "layer": In(descriptor_struct()),
            "lanes": In(data.ArrayLayout(status_layout(), config.lanes)),
            "o": Out(stream.Signature(request_layout(config))), "valid": In(1),
            "data": In(config.bus.data_bits), "write": Out(residual_write_layout(config)),
            "tile": Out(16), "plane": Out(16), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        config, layer = self.config, self.layer
        m.submodules.queue = queue = TileQueue(config)
        wiring.connect(m, wiring.flipped(self.o), queue.request)
        m.d.comb += [
            queue.start.eq(self.start), queue.lanes.eq(self.lanes), queue.valid.eq(self.valid),
            queue.data.eq(self.data), self.idle.eq(queue.idle), queue.i.tiles.eq(layer.tiles),
            queue.i.round_tiles.eq(layer.round_tiles), queue.i.address.eq(layer.res_address),
            queue.i.runs.eq(layer.res_runs), queue.i.run_stride.eq(layer.res_run_stride),
            queue.tile_stride.eq(of_tile(layer, "res_stride", queue.place)),
            queue.beats.eq(of_tile(layer, "res_run_beats", queue.place))]
        if config.buffers.compressed_chunks:
            wiring.connect(m, wiring.flipped(self.table), queue.table)
            m.d.comb += [queue.packed.eq(layer.res_packed), queue.first.eq(layer.res_entry)]

        # Steps of a beat: its pixels, if they are sampled, and the reads of a group.
        pixels, sampled, go = config.beat_pixels, layer.res_step == 2, queue.o.valid
        pixel, read = Signal(range(max(2, pixels))), Signal(range(max(2, config.slot_reads)))
        m.submodules.counter = counter = TileCounter()
        beat, image, tile, plane = Signal(16), Signal(16), counter.tile, Signal(16)
        end_tile = Signal()
        end_read, end_beat, end_image, end_plane = (Signal(), Signal(), Signal(), Signal())
        m.d.comb += [
            end_read.eq(read == config.slot_reads - 1),
            end_beat.eq(end_read & (~sampled | (pixel == pixels - 1))),
            counter.restart.eq(self.start), counter.round_tiles.eq(layer.round_tiles),
            counter.next.eq(go & end_tile),
            end_image.eq(end_beat & (beat == of_tile(layer, "res_beats", counter.place) - 1)),
            end_plane.eq(end_image & (image == of_tile(layer, "images", counter.place) - 1)),
            end_tile.eq(end_plane & (plane == layer.res_planes - 1)), queue.o.ready.eq(end_beat)]
        # Where the step goes: pixels are counted as they are kept.
        word, column, odd_row, target = Signal(16), Signal(16), Signal(), Signal(16)
        part, slot, offset = Signal(range(max(2, config.slot_groups))), Signal(16), Signal(16)
        keep, moved = Signal(), Signal(16)
        m.d.comb += [keep.eq(~column[0] & ~odd_row
                             & (word < of_tile(layer, "res_words", counter.place))),
                     moved.eq(target + Mux(sampled, keep, pixels))]
        with m.If(go):
            m.d.sync += [read.eq(read + 1), offset.eq(offset + layer.slot_words)]
            with m.If(end_read):
                m.d.sync += [read.eq(0), offset.eq(0), pixel.eq(pixel + 1), target.eq(moved)]
                with m.If(sampled):
                    m.d.sync += [word.eq(word + 1), column.eq(column + 1)]
                    with m.If(column == layer.res_width - 1):
                        m.d.sync += [column.eq(0), odd_row.eq(~odd_row)]
            with m.If(end_beat):
                m.d.sync += [pixel.eq(0), beat.eq(beat + 1)]
            with m.If(end_image):  # the next one begins at a whole word
                m.d.sync += [beat.eq(0), image.eq(image + 1),
                             target.eq((moved + pixels - 1) & ~(pixels - 1))]
            with m.If(end_plane):
                m.d.sync += [image.eq(0), target.eq(0), plane.eq(plane + 1), part.eq(part + 1)]
                with m.If(part == config.slot_groups - 1):
                    m.d.sync += [part.eq(0),
                                 slot.eq(slot + config.slot_reads * layer.slot_words)]
                with m.If(end_tile):
                    m.d.sync += [plane.eq(0), part.eq(layer.res_part), slot.eq(layer.res_slot)]
        with m.If(self.start):
            m.d.sync += [plane.eq(0), target.eq(0), part.eq(layer.res_part),
                         slot.eq(layer.res_slot)]
        with m.If(self.start | go & end_image):
            m.d.sync += [word.eq(0), column.eq(0), odd_row.eq(0)]

        shift = (pixels - 1).bit_length()
        enable = Signal(pixels)
        with m.If(sampled):
            m.d.comb += enable.eq(keep << target[:shift])
        with m.Else():
            m.d.comb += enable.eq(~0)
        words = data.ArrayLayout(data.ArrayLayout(8, config.channels), pixels)(queue.o.payload)
        m.d.sync += [self.write.word.eq(slot + offset + (target >> shift)),
                     self.write.half.eq(tile[0]),
                     self.tile.eq(tile), self.plane.eq(plane)]
        for lane in range(config.lanes):
            port = self.write.lanes[lane]
            m.d.sync += port.enable.eq(0)
            with m.If(go & (part == lane // config.channels % config.slot_groups)):
                m.d.sync += port.enable.eq(enable)
            channel = Signal(range(max(2, config.channels)), name=f"channel{lane}")
            m.d.comb += channel.eq((read * config.lanes + lane) % config.channels)
            for n in range(pixels):
                m.d.sync += port.data[n].eq(words[Mux(sampled, pixel, n)][channel])
        return m
