"""Compress: leaves out the zero bytes of feature maps on their way to memory."""

from functools import reduce
from operator import or_

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import CHUNK_BEATS, AcceleratorConfig
from hwgate.rtl.burst import request_layout
from hwgate.rtl.decompress import length_shape
from hwgate.rtl.writer import BEAT_QUEUE

__all__ = ["COMPRESSED_BEAT_LATENCY", "COMPRESS_BEATS", "COMPRESS_LATENCY", "COMPRESS_REQUESTS",
           "Compress", "chunk_layout"]

#: Cycles from the last beat of a chunk to its write request, if the writer is ready.
COMPRESS_LATENCY = 3
#: Cycles from a write request to its first beat.
COMPRESSED_BEAT_LATENCY = 2
#: Bits of a beat's place in its chunk.
_PLACE_BITS = (CHUNK_BEATS - 1).bit_length()
#: Chunks that arrive, or wait, or are on their way to the writer.
_SLOTS = 4
#: Their beats.
COMPRESS_BEATS = _SLOTS * CHUNK_BEATS
#: Write requests that have been taken and lack a chunk.
COMPRESS_REQUESTS = 2


def chunk_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A chunk that is stored: its first byte, and its stored beats, less one."""
    return data.StructLayout({"valid": 1, "address": config.bus.address_bits,
                              "length": length_shape()})


class Compress(wiring.Component):
    """Takes write requests of whole chunks and asks for one write per chunk, of fewer beats if it
    has zeros enough; see :mod:`hwgate.quant.compress` for what is written.

    Takes a beat per cycle. While the writer takes what it is given, so does this: a request goes
    out ``COMPRESS_LATENCY`` after the last beat of its chunk.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    packed : In
        Leave out zeros; else everything passes as it is, at once. Changes only while idle.
    i, beat : In(stream)
        Write requests and their beats, each after its request; ``room`` is the number of beats
        that can be taken. Addresses and lengths are multiples of a chunk.
    o, o_beat : Out(stream)
        Write requests and their beats, the first one ``COMPRESSED_BEAT_LATENCY`` after the request
        at the earliest; ``o_room`` is the number of beats that can be taken.
    chunk : Out
        The chunk whose write request is taken in this cycle, see :func:`chunk_layout`.
    idle : Out
        Every chunk of every request has left.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        request = stream.Signature(request_layout(config))
        beat, room = stream.Signature(config.bus.data_bits), range(BEAT_QUEUE + 1)
        super().__init__({
            "packed": In(1), "i": In(request), "beat": In(beat), "room": Out(room),
            "o": Out(request), "o_beat": Out(beat), "o_room": In(room),
            "chunk": Out(chunk_layout(config)), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        bits, depth = self.config.bus.data_bits, COMPRESS_BEATS
        m.submodules.raw = raw = memory.Memory(shape=bits, depth=depth, init=[])
        m.submodules.packed = packed = memory.Memory(shape=bits, depth=depth, init=[])
        m.submodules.masks = masks = memory.Memory(shape=bits, depth=_SLOTS, init=[])
        m.submodules.lengths = lengths = fifo.SyncFIFO(width=_PLACE_BITS, depth=_SLOTS)
        self._collect(m, raw.write_port(), packed.write_port(), masks.write_port(), lengths)
        sent = self._send(m, raw.read_port(), packed.read_port(), masks.read_port(), lengths)

        occupied = Signal(range(depth + 1))
        m.d.sync += occupied.eq(occupied + (self.beat.valid & self.packed)
                                - Mux(sent, CHUNK_BEATS, 0))
        m.d.comb += [self.beat.ready.eq(1),
                     self.room.eq(Mux(depth - occupied > BEAT_QUEUE, BEAT_QUEUE, depth - occupied))]
        with m.If(~self.packed):
            m.d.comb += [
                self.room.eq(self.o_room), self.beat.ready.eq(self.o_beat.ready),
                self.i.ready.eq(self.o.ready), self.o.valid.eq(self.i.valid),
                self.o.payload.eq(self.i.payload), self.o_beat.valid.eq(self.beat.valid),
                self.o_beat.payload.eq(self.beat.payload)]
        return m

    def _collect(self, m, raw, packed, masks, lengths):
        """Keep each beat as it is, and packed; the shorter of both is sent."""
        size, at = self.config.bus.bytes, Signal(range(COMPRESS_BEATS))
        m.d.comb += [raw.en.eq(self.beat.valid & self.packed), raw.addr.eq(at),
                     raw.data.eq(self.beat.payload)]
        m.d.sync += at.eq(at + raw.en)

        # A cycle to find the zeros.
        valid, place, mask = Signal(), Signal.like(at), Signal(size)
        beat = Signal(data.ArrayLayout(8, size))
        m.d.sync += [valid.eq(raw.en), place.eq(at), beat.eq(self.beat.payload)]
        m.d.sync += [mask[n].eq(self.beat.payload.word_select(n, 8) != 0) for n in range(size)]
        seen = Signal(size * CHUNK_BEATS)
        m.d.comb += [masks.en.eq(valid), masks.data.eq(Cat(seen, mask)[size:]),
                     masks.addr.eq(place[_PLACE_BITS:])]
        with m.If(valid):
            m.d.sync += seen.eq(masks.data)

        # A cycle to close the gaps of a beat.
        count = [Const(0), *(Signal(range(n + 1), name=f"count{n}") for n in range(1, size + 1))]
        closed = Signal(data.ArrayLayout(8, size))
        for n in range(size):
            m.d.comb += [count[n + 1].eq(count[n] + mask[n]), closed[n].eq(reduce(or_, (
                Mux(mask[k] & (count[k] == n), beat[k], 0) for k in range(n, size))))]
        later = Signal(data.StructLayout({"valid": 1, "place": place.shape(),
                                          "count": range(size + 1), "data": 8 * size}))
        m.d.sync += [later.valid.eq(valid), later.place.eq(place), later.count.eq(count[size]),
                     later.data.eq(closed)]
        self._append(m, later, packed, lengths)

    def _append(self, m, i, packed, lengths):
        """Bytes wait until there are more than fill a beat, or the chunk ends. What is then left
        over follows a cycle later, when the first beat of the next chunk cannot be too much."""
        size = self.config.bus.bytes
        held, fill, rest = Signal(8 * size), Signal(range(size + 1)), Signal()
        joined, total = Signal(16 * size), Signal(range(2 * size + 1))
        number, last = Signal(range(CHUNK_BEATS)), Signal()
        chunk, chunk_before = i.place[_PLACE_BITS:], Signal(range(_SLOTS))
        number_before = Signal.like(number)
        m.d.comb += [
            last.eq(i.place[:_PLACE_BITS] == CHUNK_BEATS - 1), total.eq(fill + i.count),
            joined.eq(Mux(rest, 0, held) | i.data << (fill << 3)),
            packed.en.eq(rest | i.valid & (last | (total > size))),
            packed.data.eq(Mux(rest, held, joined)),
            packed.addr.eq(Mux(rest, Cat(number_before, chunk_before), Cat(number, chunk)))]
        m.d.sync += rest.eq(0)
        with m.If(rest):
            m.d.sync += held.eq(0)
        with m.If(i.valid):
            m.d.sync += [held.eq(joined), fill.eq(total), chunk_before.eq(chunk)]
            with m.If(total > size):
                m.d.sync += [held.eq(joined >> 8 * size), fill.eq(total - size),
                             number.eq(number + 1), number_before.eq(number + 1)]
            with m.If(last):
                m.d.sync += [rest.eq(total > size), fill.eq(0), number.eq(0)]
                with m.If(total <= size):
                    m.d.sync += held.eq(0)

        # Beats besides the mask, and whether they are too many.
        beats = Signal(range(CHUNK_BEATS + 1))
        m.d.comb += [
            beats.eq(number + (total != 0) + (total > size)),
            lengths.w_en.eq(i.valid & last),
            lengths.w_data.eq(Mux(beats < CHUNK_BEATS, beats, CHUNK_BEATS - 1))]

    def _send(self, m, raw, packed, masks, lengths):
        """A request per chunk, and its beats; true in the cycle that reads the last of them."""
        m.submodules.requests = requests = fifo.SyncFIFO(
            width=request_layout(self.config).size, depth=COMPRESS_REQUESTS)
        head = Signal(request_layout(self.config))
        done, chunk = Signal.like(head.beats), Signal(range(_SLOTS))
        sending, place, length = Signal(), Signal(length_shape()), Signal(length_shape())
        read, end, taken, pushed = Signal(), Signal(), Signal(), Signal()
        shift = (self.config.bus.bytes * CHUNK_BEATS - 1).bit_length()
        m.d.comb += [
            requests.w_en.eq(self.i.valid & self.packed), requests.w_data.eq(self.i.payload),
            self.i.ready.eq(requests.w_rdy), head.eq(requests.r_data),
            read.eq(sending & (self.o_room > COMPRESSED_BEAT_LATENCY)),
            end.eq(read & (place == length)),
            self.o.valid.eq(lengths.r_rdy & requests.r_rdy & (~sending | end)),
            self.o.payload.address.eq(head.address + (done << shift)),
            self.o.payload.beats.eq(lengths.r_data + 1),
            taken.eq(self.packed & self.o.valid & self.o.ready), lengths.r_en.eq(taken),
            requests.r_en.eq(taken & ((done + 1) << _PLACE_BITS == head.beats)),
            self.chunk.valid.eq(taken), self.chunk.address.eq(self.o.payload.address),
            self.chunk.length.eq(lengths.r_data)]
        with m.If(read):
            m.d.sync += place.eq(place + 1)
        with m.If(end):
            m.d.sync += [sending.eq(0), chunk.eq(chunk + 1)]
        with m.If(taken):
            m.d.sync += [sending.eq(1), place.eq(0), length.eq(lengths.r_data),
                         done.eq(Mux(requests.r_en, 0, done + 1))]

        as_it_is, mask = Signal(), Signal()
        m.d.comb += [
            raw.addr.eq(Cat(place, chunk)), packed.addr.eq(Cat((place - 1)[:_PLACE_BITS], chunk)),
            masks.addr.eq(chunk), *(port.en.eq(read) for port in (raw, packed, masks)),
            self.o_beat.payload.eq(Mux(as_it_is, raw.data, Mux(mask, masks.data, packed.data))),
            self.o_beat.valid.eq(pushed), self.idle.eq(~requests.r_rdy & ~sending & ~pushed)]
        m.d.sync += [pushed.eq(read), as_it_is.eq(length == CHUNK_BEATS - 1),
                     mask.eq(place == 0)]
        return end
