"""Store: pools complete output planes and writes them to memory."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.burst import request_layout
from hwgate.rtl.structs import descriptor_struct, of_tile, status_layout
from hwgate.rtl.tiles import TileCounter
from hwgate.rtl.writer import BEAT_QUEUE

__all__ = ["STORE_BEAT_LATENCY", "Store"]

#: Cycles from reading the last word of a beat to the beat at the output.
STORE_BEAT_LATENCY = 2


class Store(wiring.Component):
    """Writes a plane (R channels of a tile's images) as soon as every lane has completed its part.

    Reads one word of every output column per cycle. Without pooling a word holds all pixels of a
    beat; with pooling each read contributes one pixel to a running maximum. With fewer lanes than
    channels in a group, a group takes several reads.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    start, layer : In
        A layer begins; its descriptor, stable while it runs.
    lanes : In
        How far each lane is, see :func:`status_layout`.
    halt : In
        Begin no further plane.
    address, columns : Out, In
        Word of the output columns, and what it held, one cycle later.
    o, beat : Out(stream)
        Write requests and their beats; ``room`` is the number of beats that can be taken.
    others_idle : In
        Everything written has been answered, and every window loaded, needed or not.
    stored_tile : Out
        Tiles that have left the output columns.
    busy : Out
        A plane is being read.
    finished : Out
        Strobe: the layer is in memory.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "start": In(1), "layer": In(descriptor_struct()),
            "lanes": In(data.ArrayLayout(status_layout(), config.lanes)), "halt": In(1),
            "address": Out((2 * config.buffers.output_words - 1).bit_length()),
            "columns": In(data.ArrayLayout(data.ArrayLayout(signed(8), config.beat_pixels),
                                           config.lanes)),
            "o": Out(stream.Signature(request_layout(config))),
            "beat": Out(stream.Signature(config.bus.data_bits)),
            "room": In(range(BEAT_QUEUE + 1)), "others_idle": In(1),
            "stored_tile": Out(16), "busy": Out(1), "finished": Out(1)})

    def _tag_layout(self):
        config = self.config
        byte = {"byte": range(config.beat_pixels)} if config.beat_pixels > 1 else {}
        return data.StructLayout(byte | {
            "valid": 1, "read": range(max(2, config.slot_reads)),
            "part": range(max(2, config.slot_groups)), "plain": 1, "first": 1, "last": 1,
            "position": range(max(2, self.config.beat_pixels)),
            "pixels": range(self.config.beat_pixels + 1),
            "channels": range(self.config.channels + 1), "beat_end": 1})

    def elaborate(self, platform):
        m = Module()
        config, layer = self.config, self.layer
        m.submodules.counter = counter = TileCounter()
        tile, place, plane = counter.tile, counter.place, Signal(16)
        part = Signal(range(max(2, self.config.slot_groups)))
        need, slot, target = Signal(16), Signal(16), Signal(config.bus.address_bits)
        origin = Signal(config.bus.address_bits)
        command, plane_end = Signal(self._tag_layout()), Signal()
        begin = Signal()
        self._walk(m, place, begin, slot, command, plane_end)

        ready = Signal()
        m.d.comb += ready.eq(1)
        for lane in self.lanes:
            with m.If(~lane.absent & ((lane.tile < tile)
                                      | (lane.tile == tile) & (lane.jobs < need))):
                m.d.comb += ready.eq(0)
        last_plane = plane == layer.out_planes - 1
        m.d.comb += [
            counter.restart.eq(self.start), counter.round_tiles.eq(layer.round_tiles),
            self.o.payload.address.eq(target),
            self.o.payload.beats.eq(of_tile(layer, "out_run_beats", place)),
            command.part.eq(part), command.plain.eq(layer.pool == 1),
            command.channels.eq(Mux(last_plane, layer.last_channels, config.channels)),
            self.address[-1].eq(tile[0])]

        def first_plane():
            return [plane.eq(0), part.eq(0), need.eq(self.config.slot_reads), slot.eq(0)]

        with m.FSM():
            with m.State("Idle"):
                with m.If(self.start):
                    m.d.sync += [self.stored_tile.eq(0), *first_plane(),
                                 target.eq(layer.out_address), origin.eq(layer.out_address)]
                    m.next = "Wait"
            with m.State("Wait"):
                m.d.comb += [self.o.valid.eq(ready & ~self.halt),
                             begin.eq(self.o.valid & self.o.ready)]
                with m.If(begin):
                    m.d.sync += target.eq(target + layer.out_plane_stride)
                    m.next = "Read"
            with m.State("Read"):
                m.d.comb += [self.busy.eq(1), command.valid.eq(self.room > STORE_BEAT_LATENCY + 1)]
                with m.If(plane_end):
                    m.d.sync += plane.eq(plane + 1)
                    m.next = "Wait"
                    with m.If(part == self.config.slot_groups - 1):
                        m.d.sync += [part.eq(0), need.eq(need + self.config.slot_reads),
                                     slot.eq(slot + self.config.slot_reads * layer.slot_words)]
                    with m.Else():
                        m.d.sync += part.eq(part + 1)
                    with m.If(last_plane):
                        following = origin + of_tile(layer, "out_stride", place)
                        m.d.comb += counter.next.eq(1)
                        m.d.sync += [*first_plane(), self.stored_tile.eq(tile + 1),
                                     origin.eq(following), target.eq(following)]
                        with m.If(tile == layer.tiles - 1):
                            m.next = "Flush"
            with m.State("Flush"):
                with m.If(self.others_idle):
                    m.d.comb += self.finished.eq(1)
                    m.next = "Idle"

        tag = Signal.like(command)
        m.d.sync += tag.eq(command)
        self._assemble(m, tag)
        m.d.sync += self.beat.valid.eq(tag.valid & tag.beat_end)
        return m

    def _walk(self, m, place, begin, slot, command, plane_end):
        """Reads of a plane of the tile at ``place``: images, units (words, or pooled pixels), taps
        of a pooling window, slots."""
        layer, pixels = self.layer, self.config.beat_pixels
        plain = layer.pool == 1
        left, beats, image, origin = (Signal(16, name=name)
                                      for name in ("left", "beats", "image", "origin"))
        column, position = Signal(16), Signal(range(max(2, pixels)))
        dx, dy, read = Signal(8), Signal(8), Signal.like(command.read)
        row, corner, line, offset = Signal(16), Signal(16), Signal(16), Signal(16)
        source, end_read, end_tap, end_unit = Signal(16), Signal(), Signal(), Signal()
        end_image = Signal()
        shift = (pixels - 1).bit_length()
        m.d.comb += [
            source.eq(line + dx), end_read.eq(read == self.config.slot_reads - 1),
            end_tap.eq(end_read & (dx == layer.pool - 1)),
            end_unit.eq(end_tap & (dy == layer.pool - 1)),
            end_image.eq(end_unit & Mux(plain, beats == 1, left == 1)),
            plane_end.eq(command.valid & end_image
                         & (image == of_tile(layer, "images", place) - 1)),
            self.address[:-1].eq(slot + offset + (source >> shift)),
            command.read.eq(read), command.first.eq((dx == 0) & (dy == 0)),
            command.last.eq((dx == layer.pool - 1) & (dy == layer.pool - 1)),
            command.position.eq(position),
            command.pixels.eq(Mux(left < pixels, left, pixels)),
            command.beat_end.eq(end_unit & (plain | (position == pixels - 1) | (left == 1)))]
        if pixels > 1:
            m.d.comb += command.byte.eq(source[:shift])
        with m.If(command.valid):
            m.d.sync += [read.eq(read + 1), offset.eq(offset + layer.slot_words)]
            with m.If(end_read):
                m.d.sync += [read.eq(0), offset.eq(0), dx.eq(dx + 1)]
            with m.If(end_tap):
                m.d.sync += [dx.eq(0), dy.eq(dy + 1), line.eq(line + layer.out_width)]
            with m.If(end_unit):
                step = Mux(plain, pixels, layer.pool)
                m.d.sync += [
                    dy.eq(0), left.eq(left - Mux(plain, pixels, 1)), beats.eq(beats - 1),
                    position.eq(Mux(position == pixels - 1, 0, position + 1)),
                    column.eq(column + 1), corner.eq(corner + step), line.eq(corner + step)]
                with m.If(~plain & (column == layer.store_width - 1)):
                    below = row + layer.pool_words
                    m.d.sync += [column.eq(0), row.eq(below), corner.eq(below), line.eq(below)]
        following = Signal(16)
        m.d.comb += following.eq(Mux(begin, 0, origin + layer.slot_pixels))
        with m.If(begin):
            m.d.sync += [image.eq(0), dx.eq(0), dy.eq(0), read.eq(0), offset.eq(0)]
        with m.Elif(command.valid & end_image):
            m.d.sync += image.eq(image + 1)
        with m.If(begin | command.valid & end_image):
            m.d.sync += [
                left.eq(of_tile(layer, "store_pixels", place)),
                beats.eq(of_tile(layer, "out_beats", place)), column.eq(0),
                position.eq(0), origin.eq(following), row.eq(following), corner.eq(following),
                line.eq(following)]

    def _assemble(self, m, tag):
        """Put the bytes of one read in their place in the beat."""
        config, pixels = self.config, self.config.beat_pixels
        beat = data.ArrayLayout(data.ArrayLayout(8, config.channels), pixels)(self.beat.payload)
        for r in range(config.channels):
            here = Signal(data.ArrayLayout(signed(8), pixels), name=f"channel{r}")
            with m.Switch(tag.part):
                for part in range(self.config.slot_groups):
                    with m.Case(part):
                        lane = (part * config.channels + r) % config.lanes
                        m.d.comb += here.eq(self.columns[lane])
            keep = r < tag.channels
            best, picked, merged = (Signal(signed(8), name=f"{name}{r}")
                                    for name in ("best", "picked", "merged"))
            m.d.comb += [picked.eq(here[tag.byte] if pixels > 1 else here[0]),
                         merged.eq(Mux(tag.first | (picked > best), picked, best))]
            with m.If(tag.valid & (tag.read == r // config.lanes)):
                m.d.sync += best.eq(merged)
                for j in range(pixels):
                    with m.If(tag.plain):
                        m.d.sync += beat[j][r].eq(Mux(keep & (j < tag.pixels), here[j], 0))
                    with m.Elif(tag.last & (tag.position == j)):
                        m.d.sync += beat[j][r].eq(Mux(keep, merged, 0))
                    with m.Elif(tag.last & (tag.position == 0)):
                        m.d.sync += beat[j][r].eq(0)
