"""Store: pools complete output planes and writes them to memory."""

from functools import reduce
from operator import or_

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.burst import request_layout
from hwgate.rtl.countdown import Countdown
from hwgate.rtl.structs import delay, descriptor, descriptor_struct, of_tile, status_layout
from hwgate.rtl.tiles import TileCounter
from hwgate.rtl.writer import BEAT_QUEUE

__all__ = ["POOL_LATENCY", "STORE_BEAT_LATENCY", "STORE_READY_LATENCY", "STORE_TILE_CYCLES",
           "Store"]

#: Cycles from choosing the last word of a beat to the beat at the output: address, memory, its
#: register, and the beat.
STORE_BEAT_LATENCY = 4
#: Cycles by which a pooled beat comes later: the maximum.
POOL_LATENCY = 1
#: Cycles from the last job of a plane to its request, if it is waited for.
STORE_READY_LATENCY = 1
#: Cycles before each tile, in which its place and its own fields are latched.
STORE_TILE_CYCLES = 2


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
        Word of the output columns, and what it held, one cycle later; both of a register.
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
            "start": In(1), "layer": In(descriptor_struct().size),
            "lanes": In(data.ArrayLayout(status_layout(), config.lanes)), "halt": In(1),
            "address": Out((2 * config.buffers.output_words - 1).bit_length()),
            "columns": In(data.ArrayLayout(data.ArrayLayout(signed(8), config.beat_pixels),
                                           config.lanes)),
            "o": Out(stream.Signature(request_layout(config))),
            "beat": Out(stream.Signature(config.bus.data_bits)),
            "room": In(range(BEAT_QUEUE + 1)), "others_idle": In(1),
            "stored_tile": Out(16), "busy": Out(1), "finished": Out(1)})

    def _tag_layout(self):
        """What belongs to a read: lanes and pixels that count, pixels of the beat that are made
        (``clear``: all others are zero), whether it ends the beat."""
        config = self.config
        return data.StructLayout({
            "lanes": config.lanes, "pixels": config.beat_pixels,
            "read": range(max(2, config.slot_reads)), "valid": 1, "first": 1,
            "made": config.beat_pixels, "clear": 1, "beat_end": 1})

    def elaborate(self, platform):
        m = Module()
        config, layer = self.config, descriptor(self.layer)
        m.submodules.counter = counter = TileCounter()
        tile, place, own = counter.tile, delay(m, counter.place, 1, name="place"), {}
        for name in ("images", "out_beats", "out_run_beats", "out_stride", "store_pixels"):
            own[name] = Signal.like(layer[name], name=name, reset_less=True)
            m.d.sync += own[name].eq(of_tile(layer, name, place))
        target, origin = (Signal(config.bus.address_bits, name=name, reset_less=True)
                          for name in ("target", "origin"))
        slot = Signal(range(config.buffers.output_words))
        part, idle, begin = Signal(range(max(2, config.slot_groups))), Signal(), Signal()
        go, plane_end = Signal(), Signal()
        last_plane = _countdown(m, "planes", layer.out_planes, idle, plane_end)
        last_tile = _countdown(m, "tiles", layer.tiles, idle, counter.next)

        # Lanes are at the tile that is waited for, or one or two beyond it. What is waited for
        # changes as the plane before begins, so nobody sees the register before it follows.
        need, awaited, ready = Signal(range(config.buffers.output_words + 1)), Signal(2), Signal()
        m.d.sync += [
            go.eq(self.room > STORE_BEAT_LATENCY + 1),
            ready.eq(Cat(lane.absent | (lane.tile[:2] != awaited) | (lane.jobs >= need)
                         for lane in self.lanes).all())]
        with m.If(idle):
            m.d.sync += [awaited.eq(0), need.eq(config.slot_reads)]
        with m.Elif(begin & last_plane):
            m.d.sync += [awaited.eq(awaited + 1), need.eq(config.slot_reads)]
        with m.Elif(begin & (part == config.slot_groups - 1)):
            m.d.sync += need.eq(need + config.slot_reads)
        m.d.comb += [
            counter.restart.eq(self.start), counter.round_tiles.eq(layer.round_tiles),
            self.o.payload.address.eq(target), self.o.payload.beats.eq(own["out_run_beats"])]

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += idle.eq(1)
                m.d.sync += [part.eq(0), slot.eq(0)]
                with m.If(self.start):
                    m.d.sync += [self.stored_tile.eq(0), target.eq(layer.out_address),
                                 origin.eq(layer.out_address)]
                    m.next = "Tile"
            with m.State("Tile"):
                m.next = "Latch"
            with m.State("Latch"):
                m.next = "Wait"
            with m.State("Wait"):
                m.d.comb += [self.o.valid.eq(ready & ~self.halt),
                             begin.eq(self.o.valid & self.o.ready)]
                with m.If(begin):
                    m.d.sync += target.eq(target + layer.out_plane_stride)
                    m.next = "Read"
            with m.State("Read"):
                m.d.comb += self.busy.eq(1)
                with m.If(plane_end):
                    m.next = "Wait"
                    with m.If(part == config.slot_groups - 1):
                        m.d.sync += [part.eq(0),
                                     slot.eq(slot + config.slot_reads * layer.slot_words)]
                    with m.Else():
                        m.d.sync += part.eq(part + 1)
                    with m.If(last_plane):
                        following = origin + own["out_stride"]
                        m.d.comb += counter.next.eq(1)
                        m.d.sync += [part.eq(0), slot.eq(0), self.stored_tile.eq(tile + 1),
                                     origin.eq(following), target.eq(following)]
                        m.next = "Tile"
                        with m.If(last_tile):
                            m.next = "Flush"
            with m.State("Flush"):
                with m.If(self.others_idle):
                    m.d.comb += self.finished.eq(1)
                    m.next = "Idle"

        tag = self._walk(m, own, ~self.busy, go & self.busy, slot, plane_end)
        m.d.comb += tag.lanes.eq(self._kept(m, part, tag.read, last_plane))
        m.d.sync += self.address[-1].eq(tile[0])
        self._assemble(m, delay(m, tag, 2, name="tag"))
        return m

    def _walk(self, m, own, restart, step, slot, plane_end):
        """Reads of a plane of a tile: images, units (words, or pooled pixels), taps of a pooling
        window, slots. Returns the tag of the read at hand, less its lanes."""
        layer, config, pixels = descriptor(self.layer), self.config, self.config.beat_pixels
        shift = (pixels - 1).bit_length()
        place = range(config.buffers.output_words * pixels)
        plain, units = Signal(), Signal(range(place.stop + 1))
        m.d.sync += plain.eq(layer.pool == 1)
        m.d.comb += units.eq(Mux(plain, own["out_beats"], own["store_pixels"]))

        read, word = Signal(range(max(2, config.slot_reads))), Signal.like(slot)
        # Whether a read ends a slot, a tap, a row of taps, a unit, an image; a row of windows.
        tap = read == config.slot_reads - 1
        dx = _countdown(m, "taps_x", layer.pool, restart, step & tap)
        line_ends = tap & dx
        dy = _countdown(m, "taps_y", layer.pool, restart, step & line_ends)
        unit_ends = line_ends & dy
        unit = _countdown(m, "units", units, restart, step & unit_ends)
        image_ends = unit_ends & unit
        image = _countdown(m, "images", own["images"], restart, step & image_ends)
        column = _countdown(m, "columns", layer.store_width, restart | step & image_ends,
                            step & unit_ends)
        row_ends = unit_ends & column & ~plain
        m.d.comb += plane_end.eq(step & image_ends & image)
        with m.If(restart | step & tap):
            m.d.sync += [read.eq(0), word.eq(slot)]
        with m.Elif(step):
            m.d.sync += [read.eq(read + 1), word.eq(word + layer.slot_words)]

        # The pixel to read, and where its row of a window, its window, the first one of the row of
        # windows and the image begin: what ends tells where the next one is counted from.
        source, line, corner, row, origin = marks = [
            Signal(place, name=name) for name in ("source", "line", "corner", "row", "origin")]
        start, distance, following = Signal(place), Signal(place), Signal(place)
        m.d.comb += following.eq(start + distance)
        with m.If(image_ends):
            m.d.comb += [start.eq(origin), distance.eq(layer.slot_pixels)]
        with m.Elif(row_ends):
            m.d.comb += [start.eq(row), distance.eq(layer.pool_words)]
        with m.Elif(unit_ends):
            m.d.comb += [start.eq(corner), distance.eq(Mux(plain, pixels, layer.pool))]
        with m.Elif(line_ends):
            m.d.comb += [start.eq(line), distance.eq(layer.out_width)]
        with m.Else():
            m.d.comb += [start.eq(source), distance.eq(1)]
        for mark, moves in zip(marks, (tap, line_ends, unit_ends, image_ends | row_ends,
                                       image_ends), strict=True):
            with m.If(restart):
                m.d.sync += mark.eq(0)
            with m.Elif(step & moves):
                m.d.sync += mark.eq(following)

        tag, first = Signal(self._tag_layout()), Signal()
        begins, position = Signal(), Signal(pixels, init=1)
        with m.If(restart | step & unit_ends):
            m.d.sync += first.eq(1)
        with m.Elif(step & tap):
            m.d.sync += first.eq(0)
        with m.If(restart | step & image_ends):
            m.d.sync += position.eq(1)
        with m.Elif(step & unit_ends):
            m.d.sync += position.eq(position.rotate_left(1))
        rest = own["store_pixels"][:shift]
        m.d.comb += [
            begins.eq(dx & dy), tag.read.eq(read), tag.valid.eq(step), tag.first.eq(first),
            tag.beat_end.eq(step & unit_ends & (plain | position[-1] | unit))]
        with m.If(plain):
            m.d.comb += [
                tag.made.eq(step.replicate(pixels)),
                tag.pixels.eq(Mux(unit & (rest != 0), (1 << rest) - 1, ~0))]
        with m.Else():
            m.d.comb += [
                tag.made.eq(Mux(step & begins, position, 0)),
                tag.clear.eq(step & begins & position[0]), tag.pixels.eq(1 << source[:shift])]
        m.d.sync += self.address[:-1].eq(word + (source >> shift))
        return tag

    def _kept(self, m, part, read, last_plane):
        """Lanes whose word, in this read, is of a channel of the layer and of the plane."""
        config, kept = self.config, Signal(self.config.channels)
        last = descriptor(self.layer).last_channels
        m.d.comb += kept.eq(~0)
        with m.If(last_plane):
            m.d.comb += kept.eq(Cat(n < last for n in range(config.channels)))
        lanes = range(config.lanes)
        if config.slot_groups > 1:
            return Cat(kept[n % config.channels] & (part == n // config.channels) for n in lanes)
        return kept.word_select(read, config.lanes)

    def _assemble(self, m, tag):
        """Put the bytes of one read in their place in the beat: a pixel of several, pooled, or all
        of them. Bytes that do not count are cleared as they come, so that it is a sum."""
        config, pixels = self.config, self.config.beat_pixels
        here = [[Signal(8, name=f"here{n}_{j}", reset_less=True) for j in range(pixels)]
                for n in range(config.lanes)]
        for n, (column, word) in enumerate(zip(self.columns, here, strict=True)):
            for j, byte in enumerate(word):
                m.d.sync += byte.eq(Mux(tag.lanes[n] & tag.pixels[j], column[j], 0))
        tag, plain = delay(m, tag, 1, name="tag_here"), Signal()
        done = delay(m, tag, POOL_LATENCY, name="tag_best")
        done = done.shape()(Mux(plain, tag, done))
        m.d.sync += [plain.eq(descriptor(self.layer).pool == 1), self.beat.valid.eq(done.beat_end)]
        beat = data.ArrayLayout(data.ArrayLayout(8, config.channels), pixels)(self.beat.payload)
        for r in range(config.channels):
            best, picked = (Signal(signed(8), name=f"{name}{r}", reset_less=True)
                            for name in ("best", "picked"))
            words = [here[n] for n in range(r % config.lanes, config.lanes, config.channels)]
            word = [reduce(or_, (word[j] for word in words)) for j in range(pixels)]
            m.d.comb += picked.eq(reduce(or_, word))
            with m.If((tag.read == r // config.lanes) & tag.valid):
                m.d.sync += best.eq(Mux(tag.first | (picked > best), picked, best))
            with m.If(done.read == r // config.lanes):
                for j in range(pixels):
                    with m.If(done.clear if j else 0):
                        m.d.sync += beat[j][r].eq(0)
                    with m.Elif(done.made[j]):
                        m.d.sync += beat[j][r].eq(Mux(plain, word[j], best))


def _countdown(m, name, count, restart, step):
    """Whether this is the last of ``count`` steps; begins again after it, or at ``restart``."""
    m.submodules[name] = steps = Countdown(len(count))
    m.d.comb += [steps.count.eq(count), steps.next.eq(step),
                 steps.restart.eq(restart | step & steps.last)]
    return steps.last
