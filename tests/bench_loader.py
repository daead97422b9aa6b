"""Bench of Loader: memory behind a read port of any speed, lanes of any progress, and window
memories that must hold the golden words whenever a lane may read them."""

import random
from collections import Counter, deque

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from hwgate.config import AcceleratorConfig
from hwgate.quant.layout import bank_memory, feature_map, window_memory
from hwgate.rtl.burst import request_layout
from hwgate.rtl.loader import LOADED_LATENCY, LOADER_CHUNK, LOADER_QUEUE
from hwgate.rtl.structs import descriptor_struct, status_layout, window_write_layout
from hwgate.sim.streams import pack, parameters, start, unpack
from memory_helpers import until, watch

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
R, BEAT, LANES = CONFIG.channels, CONFIG.bus.bytes, CONFIG.lanes
HALF = CONFIG.buffers.window_words
PORT = window_write_layout(CONFIG).elem_shape


class Layer:
    """Random input maps of a layer: its descriptor, its memory, its window memories."""

    def __init__(self, channels, height, width, *, pad=0, tiles=1, bank_mode=False):
        self.tiles, self.bank_mode = tiles, bank_mode
        maps = [np.random.default_rng(random.getrandbits(32)).integers(
            -128, 128, (channels, height, width), np.int8) for _ in range(tiles)]
        stored = [feature_map(x, R, CONFIG.beat_pixels) for x in maps]
        self.groups = len(stored[0])
        self.plane_beats = stored[0][0].size // BEAT
        self.origin = BEAT * random.randrange(1000)
        self.stride = stored[0].size + BEAT * random.randrange(3)
        self.memory = {self.origin + n * self.stride + at: raw.tobytes()[at:at + BEAT]
                       for n, raw in enumerate(stored) for at in range(0, raw.size, BEAT)}
        self.group_words = (height * width if bank_mode else
                            -(-(width + 2 * pad) // 3) * -(-(height + 2 * pad) // 3))
        words = (lambda x: bank_memory(x, R)) if bank_mode else (
            lambda x: window_memory(x, R, pad))
        self.words = [{place: int.from_bytes(word.tobytes(), "little")
                       for place, word in words(x).items()} for x in maps]
        assert max(address for _, address in self.words[0]) < HALF
        self.descriptor = pack(descriptor_struct(), {
            "bank_mode": bank_mode, "pad": pad, "tiles": tiles, "in_address": self.origin,
            "in_stride": self.stride, "in_width": width, "in_planes": self.groups,
            "plane_words": height * width, "plane_beats": self.plane_beats,
            "tile_beats": self.groups * self.plane_beats, "group_words": self.group_words,
            "row_words": width if bank_mode else -(-(width + 2 * pad) // 3)})

    def tile_of(self, address):
        return (address - self.origin) // self.stride

    def plane_of(self, bank, address):
        group = address // self.group_words
        return 9 * group + bank if self.bank_mode else group


class Bench:
    """One layer on the loader; a step per cycle checks requests, writes and progress."""

    def __init__(self, dut, layer, absent):
        self.dut, self.layer, self.absent = dut, layer, absent
        self.progress = [0] * LANES          # complete tiles of each lane
        self.asked = []                      # addresses of beats, in order of their requests
        self.due = deque()                   # the ones that have not been answered
        self.halves = [{}, {}]               # (bank, address) to word
        self.loaded = (0, 0)                 # tiles, planes of the next
        self.cycle = self.last_write = self.written = 0
        self.rising = Counter()              # cycles from a plane's last write to its count

    def status(self):
        layout = status_layout()
        return sum(pack(layout, {"tile": tile, "jobs": random.getrandbits(16), "absent": gone})
                   << layout.size * n
                   for n, (tile, gone) in enumerate(zip(self.progress, self.absent, strict=True)))

    def step(self):
        self.cycle += 1
        self.check_progress()
        self.request()
        self.write()
        if self.dut.idle.value:
            assert self.written == sum(map(len, self.layer.words))

    def request(self):
        dut, layer = self.dut, self.layer
        if not (dut.o__valid.value and dut.o__ready.value):
            return
        request = unpack(request_layout(CONFIG), int(dut.o__payload.value))
        assert request["beats"] <= LOADER_CHUNK
        tile = layer.tile_of(request["address"])
        assert all(gone or tile < done + 2
                   for done, gone in zip(self.progress, self.absent, strict=True)), "still in use"
        addresses = [request["address"] + BEAT * n for n in range(request["beats"])]
        self.asked += addresses
        self.due.extend(addresses)

    def write(self):
        raw = int(self.dut.write.value)
        for bank in range(9):
            port = unpack(PORT, raw >> bank * PORT.size & (1 << PORT.size) - 1)
            if port["enable"]:
                half, place = self.halves[port["address"] // HALF], (bank, port["address"] % HALF)
                assert place not in half, "written twice, or before every lane has left"
                half[place] = port["data"]
                self.written += 1
                self.last_write = self.cycle

    def check_progress(self):
        """Everything that counts as loaded is there, from the cycle on in which it counts."""
        now = int(self.dut.tile.value), int(self.dut.plane.value)
        if now == self.loaded:
            return
        tile, plane = self.loaded
        following = (tile, plane + 1) if plane + 1 < self.layer.groups else (tile + 1, 0)
        assert now == following, "planes are counted one by one"
        wanted = {place: word for place, word in self.layer.words[tile].items()
                  if self.layer.plane_of(*place) == plane}
        half = self.halves[tile % 2]
        assert {place: half.get(place) for place in wanted} == wanted
        self.rising[self.cycle - self.last_write] += 1
        self.loaded = now

    async def answer(self, latency, idle):
        """Deliver asked beats in order, with gaps; random bits whenever there is none."""
        dut = self.dut
        dut.valid.value = 0
        while True:
            dut.data.value = random.getrandbits(8 * BEAT)
            dut.valid.value = 0
            if self.due:
                await ClockCycles(dut.clk, random.randint(0, latency))
                while self.due:
                    if random.random() < idle:
                        dut.valid.value = 0
                        dut.data.value = random.getrandbits(8 * BEAT)
                    else:
                        raw = self.layer.memory[self.due.popleft()]
                        dut.valid.value = 1
                        dut.data.value = int.from_bytes(raw, "little")
                    await RisingEdge(dut.clk)
            else:
                await RisingEdge(dut.clk)

    async def grant(self, idle):
        while True:
            self.dut.o__ready.value = random.random() >= idle
            await RisingEdge(self.dut.clk)

    async def lanes(self, patience):
        """Each lane leaves a loaded tile after a while; until then it must stay whole."""
        while True:
            await ClockCycles(self.dut.clk, random.randint(1, patience))
            free = [n for n in range(LANES)
                    if not self.absent[n] and self.progress[n] < self.loaded[0]]
            if free:
                lane = random.choice(free)
                tile = self.progress[lane]
                assert self.halves[tile % 2] == self.layer.words[tile]
                self.progress[lane] += 1
                if tile < self.slowest():
                    self.halves[tile % 2].clear()
                self.dut.lanes.value = self.status()

    def slowest(self):
        return min(done for done, gone in zip(self.progress, self.absent, strict=True) if not gone)


async def run(dut, layer, *, latency=0, answer_idle=0.0, grant_idle=0.0, patience=40, absent=0):
    """Load a layer from start to idle."""
    gone = [False] * (LANES - absent) + [True] * absent
    bench = Bench(dut, layer, gone)
    dut.layer.value, dut.lanes.value, dut.start.value = layer.descriptor, bench.status(), 0
    tasks = [cocotb.start_soon(task) for task in (
        bench.answer(latency, answer_idle), bench.grant(grant_idle))]
    await ClockCycles(dut.clk, 2)
    assert dut.idle.value
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    await FallingEdge(dut.clk)
    await RisingEdge(dut.clk)
    watch_task = watch(dut, bench.step)
    tasks += [watch_task, cocotb.start_soon(bench.lanes(patience))]
    await until(dut, lambda: bench.slowest() == layer.tiles)
    await until(dut, lambda: dut.idle.value)
    assert bench.asked == sorted(layer.memory), "every beat once, in order"
    for task in tasks:
        task.cancel()
    return bench


def shapes():
    """Channels, height, width and padding at every corner of the walk over the banks."""
    for height, width in [(1, 1), (1, 7), (8, 1), (2, 2), (3, 3), (4, 5), (5, 4), (6, 9), (7, 11)]:
        for pad in (0, 1, 2):
            yield random.randint(1, 3 * R), height, width, pad


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def pixels_reach_their_bank(dut):
    await start(dut)
    for channels, height, width, pad in shapes():
        await run(dut, Layer(channels, height, width, pad=pad), patience=1)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def groups_reach_their_bank(dut):
    await start(dut)
    for groups, height, width in [(1, 1, 1), (9, 1, 1), (10, 2, 3), (19, 3, 3), (7, 1, 5)]:
        channels = groups * R - random.randrange(R)
        await run(dut, Layer(channels, height, width, bank_mode=True), answer_idle=0.2)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def tiles_alternate_between_halves(dut):
    """At most two tiles are on chip, and a third is not asked for before every lane has left."""
    await start(dut)
    for bank_mode in (False, True):
        for absent in (0, LANES - 1):
            for patience in (2, 150):
                layer = Layer(2 * R + 1, 5, 4, pad=1 - bank_mode, tiles=5, bank_mode=bank_mode)
                await run(dut, layer, patience=patience, absent=absent)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def queue_never_overflows(dut):
    """The memory answers whatever was asked for, late, and then faster than words are placed."""
    await start(dut)
    steps = CONFIG.beat_pixels // CONFIG.write_words
    for latency in (0, 3, 300):
        bench = await run(dut, Layer(8 * R, 9, 16, pad=1), latency=latency, patience=1)
        assert len(bench.asked) > LOADER_QUEUE
        assert bench.cycle >= len(bench.asked) * steps


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_layers(dut):
    await start(dut)
    for _ in range(12):
        bank_mode = random.random() < 0.3
        size = [random.randint(1, 9) for _ in range(2)]
        layer = Layer(random.randint(1, 4 * R), *size, pad=0 if bank_mode else random.randint(0, 2),
                      tiles=random.randint(1, 4), bank_mode=bank_mode)
        await run(dut, layer, latency=random.choice([0, 5, 50]),
                  answer_idle=random.choice([0, 0.3, 0.8]), grant_idle=random.choice([0, 0.3, 0.8]),
                  patience=random.choice([1, 30]), absent=random.randrange(LANES))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def counts_a_plane_when_it_can_be_read(dut):
    """Whole beats: the last words of a plane go with its last beat."""
    await start(dut)
    pixels = CONFIG.beat_pixels
    bench = await run(dut, Layer(3 * R, 2, pixels), patience=1)
    assert bench.rising == {LOADED_LATENCY - 1: 3}
