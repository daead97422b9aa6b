"""Schedule of the store and the writer on a shared bus, which makes them wait."""

from bisect import bisect_left
from collections.abc import Generator

from hwgate.machine.bursts import split_bursts
from hwgate.machine.config import CHUNK_BEATS, WRITE_BUFFER, WRITE_PART
from hwgate.rtl.burst import FIRST_BURST_CYCLES, IDLE_CYCLES
from hwgate.rtl.compress import (
    COMPRESS_BEATS,
    COMPRESS_LATENCY,
    COMPRESS_REQUESTS,
    COMPRESSED_BEAT_LATENCY,
)
from hwgate.rtl.store import STORE_BEAT_LATENCY, STORE_TILE_CYCLES
from hwgate.rtl.writer import BEAT_QUEUE, BURST_QUEUE, WRITE_BEAT_LATENCY
from hwgate.schedule.state import Block, LayerState, Times
from hwgate.schedule.store import beat_latency, complete, store_cycles

__all__ = ["waiting_store"]

#: Places that the store leaves free, and cycles by which it sees them late.
_STORE_WAITS = STORE_BEAT_LATENCY + 1, 1
#: Part of a block that ends with a cycle.
_Cycle = Generator[Times, None, int]


def waiting_store(layer: LayerState) -> list[Block]:
    """The store of a map off chip, what compresses it, and the writer."""
    writer = _Writer(layer)
    if "out" not in layer.stored_maps:
        return [_store(layer, writer), writer.write()]
    compress = _Compress(layer, writer)
    return [_store(layer, compress), compress.send(), writer.write()]


class _Queue:
    """Beats on their way from a block to one that has so many places for them.

    The block takes further cycles over its beats only while more than ``spare`` places were free
    so many cycles before.
    """

    def __init__(self, layer: LayerState, places: int, spare: int, before: int = 0):
        self._most, self._before = places - spare - 1, before
        #: Cycles in which each beat comes, and its place is left.
        self.come, self.gone = layer.times(), layer.times()

    def send(self, at: int, cycles: int, latency: int) -> _Cycle:
        """Next beat: it takes so many cycles after cycle ``at``, and comes ``latency`` after the
        last one, with which this ends."""
        come, gone, before = self.come, self.gone, self._before
        while cycles:
            at += 1
            while (full := bisect_left(come, at - before) - self._most) > 0:
                while len(gone) < full:
                    yield gone
                if gone[full - 1] < at - before:
                    break
                at = gone[full - 1] + 1 + before
            cycles -= 1
            if not come or come[-1] < at - before:  # all have come, so that none can be too many
                at, cycles = at + cycles, 0
        come.add(at + latency)
        return at


class _Writer:
    """The writer: requests, and beats that wait for the memory."""

    def __init__(self, layer: LayerState):
        self.layer = layer
        self.queue = _Queue(layer, BEAT_QUEUE, *(
            (COMPRESSED_BEAT_LATENCY,) if "out" in layer.stored_maps else _STORE_WAITS))
        #: Beats of each burst, and the cycle of its last one.
        self.bursts, self.sent = layer.times(), layer.times()
        self._addresses = 0  # bursts whose address has been sent
        self._address = -IDLE_CYCLES  # cycle of the last one

    def request(self, at: int, address: int, beats: int) -> _Cycle:
        """A request that waits from cycle ``at`` on; ends with the cycle in which it is taken."""
        while self._addresses < len(self.bursts):
            self._address += 1
            full = self._addresses - BURST_QUEUE
            if full >= 0:
                while len(self.sent) <= full:
                    yield self.sent
                self._address = max(self._address, self.sent[full] + 1)
            self._addresses += 1
        taken = max(at, self._address + IDLE_CYCLES)
        self._address = taken + FIRST_BURST_CYCLES - 1
        layer = self.layer
        layer.bytes["output"] = (layer.bytes.get("output", 0)
                                 + beats * layer.config.bus.bytes)
        self.bursts += (beats for _, beats in split_bursts(layer.config, address, beats))
        self.bursts.wake()
        return taken

    def write(self) -> Block:
        """Beats, as the memory takes them."""
        moved, queue, at, number, part = self.layer.moved, self.queue, 0, 0, 0
        while True:
            while len(self.bursts) <= len(self.sent):
                yield self.bursts
            for left in reversed(range(self.bursts[len(self.sent)])):
                while len(queue.come) <= number:
                    yield queue.come
                at = max(at + 1, queue.come[number] + WRITE_BEAT_LATENCY)
                if number >= WRITE_BUFFER:
                    while len(moved) <= number - WRITE_BUFFER:
                        yield moved
                    at = max(at, moved[number - WRITE_BUFFER] + 1)
                queue.gone.add(at)
                number, part = number + 1, part + 1
                if part == WRITE_PART or not left:
                    self.layer.writes.append((at, part))
                    part = 0
            self.sent.add(at)

    def answered(self) -> _Cycle:
        """Ends with the cycle of the last answer to the requests so far."""
        moved, beats, answer = self.layer.moved, 0, 0
        for burst in self.bursts:
            beats += burst
            while len(moved) < beats:
                yield moved
            answer = max(answer + 1, moved[beats - 1] + self.layer.timing.write_latency)
        return answer


class _Compress:
    """Requests of whole chunks, each of which becomes a request to the writer."""

    def __init__(self, layer: LayerState, writer: _Writer):
        self.layer, self.writer = layer, writer
        self.queue = _Queue(layer, COMPRESS_BEATS, *_STORE_WAITS)
        self._requests, self._last = layer.times(), layer.times()

    def request(self, at: int, address: int, beats: int) -> _Cycle:
        """As :meth:`_Writer.request`."""
        full = len(self._requests) - COMPRESS_REQUESTS
        if full >= 0:
            while len(self._last) <= full:
                yield self._last
            at = max(at, self._last[full] + 1)
        self._requests.add((address, beats // CHUNK_BEATS))
        return at

    def send(self) -> Block:
        """Chunks, as they are complete and the writer has room."""
        layer, queue, end, number = self.layer, self.queue, 0, 0
        size, stored = layer.config.chunk_bytes, layer.stored_maps["out"]
        while True:
            while len(self._requests) <= len(self._last):
                yield self._requests
            address, chunks = self._requests[len(self._last)]
            for chunk in range(address, address + chunks * size, size):
                number += CHUNK_BEATS
                while len(queue.come) < number:
                    yield queue.come
                length = stored.chunk(chunk)[0]
                end = yield from self.writer.request(
                    max(end, queue.come[number - 1] + COMPRESS_LATENCY), chunk, length)
                if chunk == address + (chunks - 1) * size:
                    self._last.add(end)
                for _ in range(length):
                    end = yield from self.writer.queue.send(end, 1, COMPRESSED_BEAT_LATENCY - 1)
                queue.gone += [end] * CHUNK_BEATS
                queue.gone.wake()

    def answered(self) -> _Cycle:
        """As :meth:`_Writer.answered`."""
        while len(self._last) < len(self._requests):
            yield self._last
        return (yield from self.writer.answered())


def _store(layer: LayerState, to: _Writer | _Compress) -> Block:
    """The store, which reads a word per cycle while there is room for its beats."""
    d, at, first = layer.d, 1, layer.d["out_address"]
    for tile, own in enumerate(layer.tiles):
        units, per_beat, taps = store_cycles(layer, tile)
        cycles = [min(per_beat, units - n) * taps for n in range(0, units, per_beat)]
        address, at = first, at + STORE_TILE_CYCLES
        for plane in range(d["out_planes"]):
            at = yield from complete(layer, tile, plane, at)
            at = yield from to.request(at, address, own["out_run_beats"])
            for beat in cycles * own["images"]:
                at = yield from to.queue.send(at, beat, beat_latency(layer))
            at += 1
            address += d["out_plane_stride"]
        layer.stored.add(at)
        first = (first + own["out_stride"]) % (1 << 32)
    answered = yield from to.answered()
    while len(layer.map_ends) < 2:
        yield layer.map_ends
    layer.end = max(at, answered + 1, *layer.map_ends)
