"""Bench of TileQueue: a memory and a user of any speed, lanes of any progress."""

import random

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.tiles import (
    REQUEST_CYCLES,
    RUN_CYCLES,
    TILE_CHUNK,
    TILE_QUEUE,
    TURN_CYCLES,
    tile_run_layout,
)
from hwgate.sim.streams import pack, parameters
from support.memory import Lanes, ReadPort, quiet_start, until, watch
from support.shares import repeats
from support.tiles import PLACES, place_of, run_addresses

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
BEAT, LANES = CONFIG.bus.bytes, CONFIG.lanes


class Layer:
    """Tiles whose runs do not follow one another; the memory has other beats between them.

    Runs have ``beats`` beats in a tile at any place, or as many as they have at each place.
    """

    def __init__(self, tiles, runs, beats, round_tiles=None):
        beats = beats if isinstance(beats, dict) else dict.fromkeys(PLACES, beats)
        run_stride = BEAT * (max(beats.values()) + random.randrange(3))
        self.run = {"tiles": tiles, "runs": runs, "run_stride": run_stride,
                    "round_tiles": round_tiles or tiles, "address": BEAT * random.randrange(1000)}
        self.beats = beats
        self.strides = {place: runs * run_stride + BEAT * random.randrange(3) for place in PLACES}

    def place(self, bits):
        """Name of a place as it is at the port."""
        return "last" if bits & 2 else "first" if bits & 1 else "middle"


class Bench:
    """One layer on the queue; a step per cycle checks requests, beats and ``idle``."""

    def __init__(self, dut, layer, absent, take_idle):
        self.dut, self.layer, self.take_idle = dut, layer, take_idle
        tiles = run_addresses(layer.run, BEAT, layer.beats, layer.strides)
        self.sizes = [min(TILE_CHUNK, left) for tile in range(layer.run["tiles"])
                      for _ in range(layer.run["runs"])
                      for left in range(layer.beats[place_of(tile, layer.run["round_tiles"])],
                                        0, -TILE_CHUNK)]
        self.expected = [address for tile in tiles for address in tile]
        self.tile_of = [number for number, tile in enumerate(tiles) for _ in tile]
        self.memory = {address: random.randbytes(BEAT) for address in self.expected}
        self.port = ReadPort(dut, "request", CONFIG, self.memory)
        self.lanes = Lanes(LANES, absent)
        self.taken, self.cycle = 0, 0
        self.request_cycles, self.running = [], False
        self.offer = None

    def step(self):
        dut, port, self.cycle = self.dut, self.port, self.cycle + 1
        place = self.layer.place(int(dut.place.value))
        dut.beats.value, dut.tile_stride.value = self.layer.beats[place], self.layer.strides[place]
        beats = len(port.step())
        if beats:
            number = len(port.asked) - beats
            wanted = port.asked[number:] == self.expected[number:number + beats]
            assert wanted, f"request of beats {number}..{number + beats - 1}"
            assert beats == self.sizes[len(self.request_cycles)], "as long as they can be"
            assert self.tile_of[number] < self.lanes.slowest() + 2, "still in use"
            self.request_cycles.append(self.cycle)
        assert len(port.asked) - self.taken <= TILE_QUEUE, "no request without room"
        offered = int(dut.o__payload.value) if dut.o__valid.value else None
        if offered is not None:
            wanted = self.memory[self.expected[self.taken]]
            assert offered == int.from_bytes(wanted, "little"), f"beat {self.taken}"
        assert self.offer is None or offered == self.offer, "an offer stays until taken"
        self.offer = None if dut.o__ready.value else offered
        assert bool(dut.idle.value) == (not self.running or self.taken == len(self.expected))
        self.taken += offered is not None and bool(dut.o__ready.value)

    async def take(self):
        while True:
            self.dut.o__ready.value = random.random() >= self.take_idle
            await RisingEdge(self.dut.clk)

    async def leave(self, patience):
        """Each lane leaves a tile that has been taken whole, after a while."""
        while True:
            await ClockCycles(self.dut.clk, random.randint(1, patience))
            whole = self.tile_of[self.taken] if self.taken < len(self.expected) else 1 << 16
            lane = self.lanes.choose(whole)
            if lane is not None:
                self.lanes.tiles[lane] += 1
                self.dut.lanes.value = self.lanes.bits()


async def run(dut, layer, *, latency=0, answer_idle=0.0, grant_idle=0.0, take_idle=0.0, patience=1,
              absent=0, meanwhile=None):
    """A layer from start to idle."""
    bench = Bench(dut, layer, absent, take_idle)
    dut.i.value, dut.lanes.value = pack(tile_run_layout(), layer.run), bench.lanes.bits()
    dut.start.value = 0
    tasks = [cocotb.start_soon(task) for task in (
        bench.port.answer(latency, answer_idle), bench.port.grant(grant_idle),
        bench.take())]
    await RisingEdge(dut.clk)
    tasks.append(watch(dut, bench.step))
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value, bench.running, bench.cycle = 0, bool(layer.run["runs"]), 0
    if patience is not None:
        tasks.append(cocotb.start_soon(bench.leave(patience)))
    if meanwhile:
        await meanwhile(bench)
    await until(dut, lambda: bench.taken == len(bench.expected))
    await ClockCycles(dut.clk, 5)
    assert len(bench.port.asked) == len(bench.expected)
    for task in tasks:
        task.cancel()
    return bench


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def every_beat_once_in_order(dut):
    """Runs shorter, as long, and longer than requests and than the queue."""
    await quiet_start(dut)
    for beats in (1, TILE_CHUNK - 1, TILE_CHUNK, TILE_CHUNK + 1, 2 * TILE_CHUNK, TILE_QUEUE + 3):
        for runs, tiles in ((1, 1), (3, 2), (1, 4)):
            await run(dut, Layer(tiles, runs, beats))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def first_and_last_tiles_differ(dut):
    """In beats and strides, in rounds of any length."""
    await quiet_start(dut)
    for rounds, length in ((1, 1), (3, 1), (1, 2), (3, 2), (2, 3), (1, 5), (3, 4)):
        for _ in range(3):
            beats = {place: random.choice((1, 5, TILE_CHUNK, 40)) for place in PLACES}
            layer = Layer(rounds * length, random.randint(1, 3), beats, length)
            await run(dut, layer, patience=random.choice((1, 30)))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def the_third_tile_waits_for_every_lane(dut):
    await quiet_start(dut)
    for absent in (0, LANES - 1):
        for patience in (1, 60):
            await run(dut, Layer(6, 2, 5), patience=patience, absent=absent)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def one_lane_holds_it_back(dut):
    """Whichever lane stays in tile 0: two tiles come, and the third not before it leaves."""
    await quiet_start(dut)
    for slow in range(LANES):
        async def hold(bench, slow=slow):
            lanes, per_tile = bench.lanes, len(bench.expected) // 5
            for tile in range(6):
                # No lane is ahead of what has been asked for.
                lanes.tiles = [min(tile + 1, 5) if tile else 0] * LANES
                lanes.tiles[slow] = tile
                dut.lanes.value = lanes.bits()
                await ClockCycles(dut.clk, 60)
                assert len(bench.port.asked) == min(2 + tile, 5) * per_tile

        await run(dut, Layer(5, 1, 3), patience=None, meanwhile=hold)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def queue_never_overflows(dut):
    """A user that takes nothing for long, in front of a memory that answers whatever was asked."""
    await quiet_start(dut)

    async def wait(bench):
        bench.take_idle, idle = 1.0, bench.take_idle
        await ClockCycles(dut.clk, 400)
        assert len(bench.port.asked) == TILE_QUEUE
        bench.take_idle = idle

    for latency, take_idle in ((0, 0.9), (300, 0.0), (40, 0.5)):
        await run(dut, Layer(2, 3, TILE_QUEUE), latency=latency, take_idle=take_idle,
                  meanwhile=wait)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_speeds(dut):
    await quiet_start(dut)
    for _ in range(repeats(25)):
        layer = Layer(random.randint(1, 4), random.randint(1, 4), random.randint(1, 40))
        await run(dut, layer, latency=random.choice([0, 5, 50]), patience=random.choice([1, 30]),
                  answer_idle=random.choice([0, 0.3, 0.8]), absent=random.randrange(LANES),
                  grant_idle=random.choice([0, 0.3, 0.8]), take_idle=random.choice([0, 0.3, 0.8]))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def without_runs_it_stays_idle(dut):
    """A layer without a residual operand, and the layer after it."""
    await quiet_start(dut)
    for runs in (0, 2, 0, 0, 1):
        await run(dut, Layer(3, runs, 4))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def cycles_of_requests(dut):
    """Without waiting: after the turn of a tile, the begin of a run, and a request."""
    await quiet_start(dut)
    for tiles, runs, beats in ((1, 4, TILE_CHUNK), (2, 1, 2 * TILE_CHUNK), (1, 2, 17)):
        bench = await run(dut, Layer(tiles, runs, beats))
        wanted, grant = [], 0
        for _ in range(tiles):
            begin = grant + 1 + TURN_CYCLES
            for _ in range(runs):
                looks = begin + RUN_CYCLES
                for _ in range(-(-beats // TILE_CHUNK)):
                    grant = looks + REQUEST_CYCLES
                    wanted.append(grant)
                    looks = grant + REQUEST_CYCLES + 1
                begin = grant + 1
        assert bench.request_cycles == wanted
