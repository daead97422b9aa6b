"""Tile requests: asks for the feature maps of one tile after another."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import CHUNK_BEATS, AcceleratorConfig
from hwgate.rtl.burst import request_layout
from hwgate.rtl.chunks import lookup_signature, table_entry
from hwgate.rtl.decompress import Decompress
from hwgate.rtl.structs import place_layout, status_layout

__all__ = ["TILE_CHUNK", "TILE_QUEUE", "TileCounter", "TileQueue", "tile_run_layout"]

#: Beats of one read request.
TILE_CHUNK = 16
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
        number = Signal(16)
        m.d.comb += [
            self.place.first.eq(number == 0), self.place.last.eq(number + 1 == self.round_tiles),
            self.following.first.eq(self.place.last),
            self.following.last.eq(Mux(self.place.last, 1, number + 2) == self.round_tiles)]
        with m.If(self.restart):
            m.d.sync += [self.tile.eq(0), number.eq(0)]
        with m.Elif(self.next):
            m.d.sync += [self.tile.eq(self.tile + 1),
                         number.eq(Mux(self.place.last, 0, number + 1))]
        return m


class TileQueue(wiring.Component):
    """Requests and queues the beats of a layer's tiles; one is asked for when every lane has left
    the tile two before it.

    With ``buffers.compressed_chunks``, it also reads compressed maps, and has three members more: a
    request of theirs is a chunk, and takes a cycle to look up how long it is.

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
        tile, run, left = counter.tile, Signal(16), Signal(32)
        m.d.comb += [counter.restart.eq(self.start), counter.round_tiles.eq(i.round_tiles),
                     self.place.eq(counter.place)]
        reserved = Signal(range(TILE_QUEUE + 1))
        origin, first, address = (Signal(bus.address_bits, name=name)
                                  for name in ("origin", "first", "address"))
        chunk = Signal(range(TILE_CHUNK + 1))
        taken = self.request.valid & self.request.ready
        m.d.comb += [
            chunk.eq(Mux(left > TILE_CHUNK, TILE_CHUNK, left)),
            self.request.payload.address.eq(address), self.request.payload.beats.eq(chunk)]
        packed = self._queue(m, address, chunk, taken)
        m.d.sync += reserved.eq(reserved + Mux(taken, chunk, 0) - (self.o.valid & self.o.ready))

        def request():
            m.next = "Request"
            if packed is not None:
                with m.If(packed):
                    m.next = "Look up"

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.idle.eq(reserved == 0)
                with m.If(self.start & (i.runs != 0)):
                    m.d.sync += origin.eq(i.address)
                    m.next = "Wait"
            with m.State("Wait"):
                m.d.sync += [run.eq(0), first.eq(origin), address.eq(origin), left.eq(self.beats)]
                with m.If(Cat(lane.absent | (tile < lane.tile + 2) for lane in self.lanes).all()):
                    request()
            if packed is not None:
                with m.State("Look up"):
                    m.next = "Request"
            with m.State("Request"):
                m.d.comb += self.request.valid.eq(reserved + chunk <= TILE_QUEUE)
                with m.If(taken):
                    request()
                    m.d.sync += [address.eq(address + chunk * bus.bytes), left.eq(left - chunk)]
                    with m.If(left == chunk):
                        m.d.sync += [run.eq(run + 1), first.eq(first + i.run_stride),
                                     address.eq(first + i.run_stride), left.eq(self.beats)]
                        with m.If(run == i.runs - 1):
                            m.d.comb += counter.next.eq(1)
                            m.d.sync += origin.eq(origin + self.tile_stride)
                            m.next = "Wait"
                            with m.If(tile == i.tiles - 1):
                                m.next = "Idle"
        return m

    def _queue(self, m, address, chunk, taken):
        """Queue of the beats; the requests are those of chunks where what it returns is true."""
        config = self.config
        if not config.buffers.compressed_chunks:
            m.submodules.beats = beats = fifo.SyncFIFO(width=config.bus.data_bits, depth=TILE_QUEUE)
            m.d.comb += [
                beats.w_en.eq(self.valid), beats.w_data.eq(self.data), self.o.valid.eq(beats.r_rdy),
                self.o.payload.eq(beats.r_data), beats.r_en.eq(self.o.ready)]
            return None
        m.submodules.beats = beats = Decompress(config, TILE_QUEUE)
        wiring.connect(m, wiring.flipped(self.o), beats.o)
        m.d.comb += [
            beats.packed.eq(self.packed), beats.valid.eq(self.valid), beats.data.eq(self.data),
            beats.asked.eq(taken & self.packed), beats.length.eq(self.table.length),
            self.table.entry.eq(table_entry(config, address, self.first))]
        with m.If(self.packed):
            m.d.comb += [chunk.eq(CHUNK_BEATS),
                         self.request.payload.beats.eq(self.table.length + 1)]
        return self.packed
