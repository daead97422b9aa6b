"""Bench of TileQueue on compressed maps: requests as long as the table says, beats as they were."""

import random
from collections import deque

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from hwgate.machine.config import CHUNK_BEATS, AcceleratorConfig
from hwgate.quant.compress import compress
from hwgate.rtl.burst import request_layout
from hwgate.rtl.chunks import LOOKUP_CYCLES
from hwgate.rtl.structs import place_layout
from hwgate.rtl.tiles import (
    REQUEST_CYCLES,
    RUN_CYCLES,
    TILE_CHUNK,
    TILE_QUEUE,
    TURN_CYCLES,
    tile_run_layout,
)
from hwgate.sim.streams import pack, parameters, unpack
from support.compress_cases import random_chunk
from support.memory import Lanes, quiet_start, until, watch
from support.shares import repeats
from support.tiles import PLACES, tile_places

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
BEAT, CHUNK, ENTRIES = CONFIG.bus.bytes, CONFIG.chunk_bytes, CONFIG.buffers.compressed_chunks


class Bench:
    """A layer whose map has a chunk for every entry of the table; a step per cycle."""

    def __init__(self, dut, rng, layer, packed, first):
        self.dut, self.packed, self.first, self.layer = dut, packed, first, layer
        self.cycle = 0
        # By entry; a map of as many chunks as the table holds.
        self.chunks = [random_chunk(rng, BEAT) for _ in range(ENTRIES)]
        self.stored = [compress(chunk) for chunk in self.chunks]
        self.expected = [self.beat(address) for address in self.addresses(layer)]
        self.asked = self.taken = 0
        self.due, self.request_cycles = deque(), []
        self.wanted = [(start, min(self.unit, left)) for start, left in self.requests(layer)]

    @property
    def unit(self):
        return CHUNK_BEATS if self.packed else TILE_CHUNK

    def entry(self, address):
        return (address // CHUNK + self.first) % ENTRIES

    def beat(self, address):
        return bytes(self.chunks[self.entry(address)][address % CHUNK // BEAT])

    def runs(self, layer):
        """(address, beats) of each run; those of the last tile of a round are other ones."""
        found, origin = [], layer["address"]
        for place in tile_places(layer["tiles"], layer["round_tiles"]):
            found += [(origin + n * layer["run_stride"], layer["beats"][place])
                      for n in range(layer["runs"])]
            origin += layer["strides"][place]
        return found

    def addresses(self, layer):
        return [start + n * BEAT for start, beats in self.runs(layer) for n in range(beats)]

    def requests(self, layer):
        return [(start + n * BEAT, beats - n) for start, beats in self.runs(layer)
                for n in range(0, beats, self.unit)]

    def step(self):
        dut, self.cycle = self.dut, self.cycle + 1
        place = unpack(place_layout(), int(dut.place.value))
        name = "last" if place["last"] else "first" if place["first"] else "middle"
        dut.beats.value = self.layer["beats"][name]
        dut.tile_stride.value = self.layer["strides"][name]
        assert bool(dut.idle.value) == (self.taken == len(self.expected) or self.cycle == 1)
        if dut.request__valid.value and dut.request__ready.value:
            request = unpack(request_layout(CONFIG), int(dut.request__payload.value))
            address, beats = self.wanted[len(self.request_cycles)]
            self.request_cycles.append(self.cycle)
            self.asked += beats
            stored = [self.beat(address + n * BEAT) for n in range(beats)]
            if self.packed:
                stored = [bytes(beat) for beat in self.stored[self.entry(address)]]
            assert (request["address"], request["beats"]) == (address, len(stored))
            self.due.extend(stored)
        if dut.o__valid.value and dut.o__ready.value:
            assert int(dut.o__payload.value).to_bytes(BEAT, "little") == self.expected[self.taken]
            self.taken += 1
        assert self.asked - self.taken <= TILE_QUEUE, "no request without room"


async def run(dut, rng, layer, *, packed, grant_idle=0.0, answer_idle=0.0, take_idle=0.0):
    """A layer from start to idle."""
    first = random.randrange(1 << 16)
    bench = Bench(dut, rng, layer, packed, first)
    dut.packed.value, dut.first.value = packed, first
    dut.i.value = pack(tile_run_layout(), {
        name: value for name, value in layer.items() if name not in ("beats", "strides")})
    dut.lanes.value = Lanes(CONFIG.lanes, CONFIG.lanes).bits()  # nobody to wait for

    async def answer():
        while True:
            ready = bench.due and random.random() >= answer_idle
            beat = bench.due.popleft() if ready else random.randbytes(BEAT)
            dut.valid.value, dut.data.value = bool(ready), int.from_bytes(beat, "little")
            dut.request__ready.value = random.random() >= grant_idle
            dut.o__ready.value = random.random() >= take_idle
            await RisingEdge(dut.clk)

    looked_up = deque([0] * (LOOKUP_CYCLES - 1))

    async def look_up():
        while True:
            await RisingEdge(dut.clk)
            dut.table__length.value = len(bench.stored[looked_up.popleft()]) - 1

    await RisingEdge(dut.clk)
    tasks = [watch(dut, lambda: looked_up.append(int(dut.table__entry.value))),
             watch(dut, bench.step), *map(cocotb.start_soon, (answer(), look_up()))]
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    await until(dut, lambda: bench.taken == len(bench.expected))
    await ClockCycles(dut.clk, 4)
    assert len(bench.request_cycles) == len(bench.wanted)
    for task in tasks:
        task.cancel()
    return bench


def layer_of(tiles, runs, chunks, same=False):
    """Tiles of whole chunks; the memory has others between its runs."""
    stride = CHUNK * (chunks + random.randrange(3))
    return {"tiles": tiles, "round_tiles": tiles, "runs": runs, "run_stride": stride,
            "address": CHUNK * random.randrange(1000),
            "beats": {place: CHUNK_BEATS * (chunks if same else random.randint(1, chunks))
                      for place in PLACES},
            "strides": {place: runs * stride + CHUNK * random.randrange(3) for place in PLACES}}


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def reads_compressed_and_other_maps(dut):
    await quiet_start(dut)
    rng = np.random.default_rng(random.getrandbits(32))
    for n in range(repeats(40)):
        layer = layer_of(*(random.randint(1, most) for most in (4, 4, 9)))
        await run(dut, rng, layer, packed=n % 3 != 2, grant_idle=random.choice([0, 0.3, 0.8]),
                  answer_idle=random.choice([0, 0.3, 0.8]), take_idle=random.choice([0, 0.3, 0.8]))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def cycles_of_requests(dut):
    """Looking a chunk up costs none: those of the states between requests, runs and tiles."""
    await quiet_start(dut)
    rng = np.random.default_rng(1)
    request, run_begins = REQUEST_CYCLES + 1 + REQUEST_CYCLES, 1 + RUN_CYCLES + REQUEST_CYCLES
    for tiles, runs, chunks in ((1, 2, 2), (2, 1, 3), (1, 1, 6)):
        bench = await run(dut, rng, layer_of(tiles, runs, chunks, same=True), packed=True)
        each = runs * chunks
        assert np.diff(bench.request_cycles).tolist() == [
            run_begins + TURN_CYCLES if n % each == 0 else run_begins if n % chunks == 0
            else request for n in range(1, tiles * each)]
