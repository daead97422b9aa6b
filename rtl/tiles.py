"""Tile requests: asks for the feature maps of one tile after another."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import CHUNK_BEATS, AcceleratorConfig
from hwgate.rtl.burst import request_layout
from hwgate.rtl.chunks import lookup_signature, table_entry
from hwgate.rtl.countdown import Countdown
from hwgate.rtl.decompress import Decompress, length_shape
from hwgate.rtl.structs import place_layout, status_layout

__all__ = ["QUEUE_LATENCY", "REQUEST_CYCLES", "RUN_CYCLES", "TILE_CHUNK", "TILE_QUEUE",
           "TURN_CYCLES", "TileCounter", "TileQueue", "tile_run_layout"]

#: Beats of one read request.
TILE_CHUNK = 16
#: Cycles from the turn of a tile until the lanes' progress is looked at, and from that progress to
#: the begin of a run.
TURN_CYCLES = 2
#: Cycles from the begin of a run to its first request that waits for room.
RUN_CYCLES = 2
#: Cycles from having room to the request, and from its grant until the next one looks for room.
REQUEST_CYCLES = 1
#: Cycles from a beat at the input to the same beat at the output.
QUEUE_LATENCY = 2
#: Beats that have been asked for, before their zero bytes were left out, and not yet taken.
TILE_QUEUE = 64


def tile_run_layout() -> data.StructLayout:
    """Where a layer's tiles are: each is ``runs`` runs of beats, ``run_stride`` bytes apart."""
    return data.StructLayout({"tiles": 16, "round_tiles": 16, "address": 32, "runs": 16,
                              "run_stride": 32})


class TileCounter(wiring.Component):
    """Counts the tiles of a layer, and knows the place of each in its round.

    Members
    -------
    restart, next : In
        From the next cycle on: tile 0, or the next tile; ``restart`` wins.
    round_tiles : In
        Tiles of a round; stable.
    tile, place : Out
        Number, and place in its round.
    following : Out
        Place of the tile after this one.
    """

    def __init__(self):
        super().__init__({
            "restart": In(1), "next": In(1), "round_tiles": In(16), "tile": Out(16),
            "place": Out(place_layout()), "following": Out(place_layout())})

    def elaborate(self, platform):
        m = Module()
        place, single, left = self.place, Signal(), Signal(16)  # tiles of the round after this one
        m.d.comb += [
            single.eq(self.round_tiles == 1), self.following.first.eq(place.last),
            self.following.last.eq(Mux(place.last, single, left == 1))]
        with m.If(self.restart):
            m.d.sync += [self.tile.eq(0), left.eq(self.round_tiles - 1), place.first.eq(1),
                         place.last.eq(single)]
        with m.Elif(self.next):
            m.d.sync += [self.tile.eq(self.tile + 1), place.eq(self.following),
                         left.eq(Mux(place.last, self.round_tiles, left) - 1)]
        return m


class TileQueue(wiring.Component):
    """Requests and queues the beats of a layer's tiles; one is asked for when every lane has left
    the tile two before it.

    With ``buffers.compressed_chunks``, it also reads compressed maps, and has three members more: a
    request of theirs is a chunk, whose length it looks up.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    start, i : In
        A layer begins; its tiles, stable while it runs. Without runs nothing is asked for.
    place : Out
        Place of the tile that is asked for next.
    beats, tile_stride : In
        Beats of its runs, and bytes from its address to that of the tile after it.
    lanes : In
        How far each lane is, see :func:`status_layout`.
    request : Out(stream)
        Read requests.
    valid, data : In
        A beat of the answers.
    o : Out(stream)
        The beats, in order.
    idle : Out
        Every beat of the layer has been taken.
    packed, first : In
        The map is compressed, and the entry of address 0 in the chunk table.
    table : Out
        Look-ups in the chunk table, see :func:`lookup_signature`.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        members = {"packed": In(1), "first": In(16), "table": Out(lookup_signature(config))}
        super().__init__((members if config.buffers.compressed_chunks else {}) | {
            "start": In(1), "i": In(tile_run_layout()), "place": Out(place_layout()),
            "beats": In(32), "tile_stride": In(32),
            "lanes": In(data.ArrayLayout(status_layout(), config.lanes)),
            "request": Out(stream.Signature(request_layout(config))), "valid": In(1),
            "data": In(config.bus.data_bits), "o": Out(stream.Signature(config.bus.data_bits)),
            "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        i, bus = self.i, self.config.bus

        m.submodules.counter = counter = TileCounter()
        m.submodules.tiles = tiles = Countdown()
        m.submodules.runs = runs = Countdown()
        left, beats, stride = (Signal.like(like, name=name, reset_less=True) for like, name in (
            (self.beats, "left"), (self.beats, "run_beats"), (self.tile_stride, "stride")))
        m.d.comb += [
            counter.restart.eq(self.start), counter.round_tiles.eq(i.round_tiles),
            self.place.eq(counter.place), tiles.restart.eq(self.start), tiles.count.eq(i.tiles),
            tiles.next.eq(counter.next), runs.count.eq(i.runs)]
        room, free, last = Signal(range(TILE_QUEUE + 1), init=TILE_QUEUE), Signal(), Signal()
        origin, first = (Signal(bus.address_bits, name=name, reset_less=True)
                         for name in ("origin", "first"))
        request = self.request.payload
        chunk, taken = Signal(range(TILE_CHUNK + 1)), Signal()
        packed = self._queue(m, request, chunk, taken)
        # No lane is ahead of the loader, nor more than two tiles behind it.
        m.d.sync += [
            free.eq(Cat(lane.absent | ((counter.tile - lane.tile)[:2] != 2)
                        for lane in self.lanes).all()),
            room.eq(room - Mux(taken, chunk, 0) + (self.o.valid & self.o.ready))]

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.idle.eq(room == TILE_QUEUE)
                with m.If(self.start & (i.runs != 0)):
                    m.d.sync += origin.eq(i.address)
                    m.next = "Turn"
            with m.State("Turn"):
                m.d.comb += runs.restart.eq(1)
                m.d.sync += [beats.eq(self.beats), stride.eq(self.tile_stride), first.eq(origin)]
                m.next = "Wait"
            with m.State("Wait"):
                with m.If(free):
                    m.next = "Run"
            with m.State("Run"):
                m.d.sync += [request.address.eq(first), first.eq(first + i.run_stride),
                             left.eq(beats)]
                m.next = "Chunk"
            with m.State("Chunk"):
                more = left[TILE_CHUNK.bit_length() - 1:] != 0  # as many as a request has, or more
                m.d.sync += [chunk.eq(Mux(packed, CHUNK_BEATS, Mux(more, TILE_CHUNK, left))),
                             last.eq(left <= Mux(packed, CHUNK_BEATS, TILE_CHUNK))]
                m.next = "Room"
            with m.State("Room"):
                with m.If(chunk <= room):
                    m.next = "Request"
            with m.State("Request"):
                m.d.comb += [self.request.valid.eq(1), taken.eq(self.request.ready)]
                with m.If(taken):
                    m.d.sync += [request.address.eq(request.address + chunk * bus.bytes),
                                 left.eq(left - chunk)]
                    m.next = "Chunk"
                    with m.If(last):
                        m.d.comb += runs.next.eq(1)
                        m.next = "Run"
                        with m.If(runs.last):
                            m.d.comb += counter.next.eq(1)
                            m.d.sync += origin.eq(origin + stride)
                            m.next = "Turn"
                            with m.If(tiles.last):
                                m.next = "Idle"
        return m

    def _queue(self, m, request, chunk, taken):
        """Queue of the beats, and how many of them are asked for; the requests are those of chunks
        where what it returns is true."""
        config = self.config
        if not config.buffers.compressed_chunks:
            m.submodules.beats = beats = fifo.SyncFIFOBuffered(width=config.bus.data_bits,
                                                               depth=TILE_QUEUE)
            m.d.comb += [
                beats.w_en.eq(self.valid), beats.w_data.eq(self.data), self.o.valid.eq(beats.r_rdy),
                self.o.payload.eq(beats.r_data), beats.r_en.eq(self.o.ready),
                request.beats.eq(chunk)]
            return Const(0)
        m.submodules.beats = beats = Decompress(config, TILE_QUEUE)
        wiring.connect(m, wiring.flipped(self.o), beats.o)
        m.d.comb += [
            beats.packed.eq(self.packed), beats.valid.eq(self.valid), beats.data.eq(self.data),
            beats.asked.eq(taken & self.packed),
            self.table.entry.eq(table_entry(config, request.address, self.first))]
        # The table answers before there is a request.
        stored = Signal(length_shape())
        m.d.sync += stored.eq(self.table.length)
        m.d.comb += [beats.length.eq(stored),
                     request.beats.eq(Mux(self.packed, stored + 1, chunk))]
        return self.packed
