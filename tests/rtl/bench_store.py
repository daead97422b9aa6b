"""Bench of Store: lanes that finish in any order, output columns that hold garbage until they do,
and a writer of any speed; what is written must be the pooled feature maps."""

import random
from itertools import accumulate

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.golden import max_pool
from hwgate.quant.loader import feature_map
from hwgate.rtl.burst import request_layout
from hwgate.rtl.store import POOL_LATENCY, STORE_BEAT_LATENCY
from hwgate.rtl.structs import status_layout
from hwgate.rtl.writer import BEAT_QUEUE
from hwgate.sim.streams import pack, parameters, start, unpack
from support.memory import until, watch
from support.shares import repeats
from support.tiles import PLACES, descriptor_bits, tile_places

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
R, BEAT, LANES, PIXELS = CONFIG.channels, CONFIG.bus.bytes, CONFIG.lanes, CONFIG.beat_pixels
HALF = CONFIG.buffers.output_words


class Layer:
    """Random output maps of a layer before pooling: descriptor, columns, and what to store.

    ``last`` are (height, images) of the last tile of a round, if they differ.
    """

    def __init__(self, channels, height, width, *, pool=1, tiles=1, images=1, last=None,
                 round_tiles=None):
        self.tiles, self.channels, self.pool = tiles, channels, pool
        round_tiles = round_tiles or tiles
        kinds = dict.fromkeys(PLACES, (height, images)) | {"last": last or (height, images)}
        kind_of = [kinds[place] for place in tile_places(tiles, round_tiles)]
        low, high = random.choice([(-128, 128), (-128, 0), (100, 128)])  # of any sign, of one
        maps = [np.random.default_rng(random.getrandbits(32)).integers(
            low, high, (count, channels, rows, width), np.int8) for rows, count in kind_of]
        # By tile, group and image, as they are written.
        stored = [np.array([feature_map(x, R, PIXELS) for x in max_pool(tile, pool)]).swapaxes(0, 1)
                  for tile in maps]
        image_words = max(-(-rows * width // PIXELS) for rows, _ in kinds.values())
        self.slot_words = max(count for _, count in kinds.values()) * image_words
        # Pixels of a job in its words of a column, by tile; the other bytes are no pixels.
        self.maps = [tile.reshape(*tile.shape[:2], -1).swapaxes(0, 1) for tile in maps]
        self.image_words = image_words
        self.origin = BEAT * random.randrange(1000)
        self.planes = len(stored[0])
        self.out_beats = [tile[0].size // BEAT for tile in stored]  # of each tile's requests
        run_beats = {place: count * -(-(rows // pool * (width // pool)) // PIXELS)
                     for place, (rows, count) in kinds.items()}
        plane_stride = BEAT * (max(run_beats.values()) + random.randrange(3))  # of bands, more
        stride, after = (self.planes * plane_stride + BEAT * random.randrange(3) for _ in range(2))
        strides = {"first": stride, "middle": stride, "last": after}
        origins = accumulate((strides[place] for place in tile_places(tiles, round_tiles)),
                             initial=self.origin)
        self.requests = [(origin + plane * plane_stride, beats)
                         for origin, beats in zip(origins, self.out_beats, strict=False)
                         for plane in range(self.planes)]
        self.beats = [int.from_bytes(raw.tobytes()[at:at + BEAT], "little")
                      for raw in stored for at in range(0, raw.size, BEAT)]
        reads = pool * pool * CONFIG.slot_reads
        rows, count = kind_of[0]
        self.plane_cycles = reads * (self.out_beats[0] if pool == 1
                                     else count * (rows // pool) * (width // pool))
        self.descriptor = descriptor_bits({
            "tiles": tiles, "round_tiles": round_tiles, "out_width": width,
            "out_channels": channels, "slot_words": self.slot_words, "out_address": self.origin,
            "slot_pixels": image_words * PIXELS, "out_planes": self.planes,
            "out_plane_stride": plane_stride, "store_width": width // pool, "pool": pool,
            "pool_words": pool * width, "last_channels": channels - (self.planes - 1) * R},
            {place: {"images": count, "out_run_beats": run_beats[place],
                     "out_beats": run_beats[place] // count, "out_stride": strides[place],
                     "store_pixels": rows // pool * (width // pool)}
             for place, (rows, count) in kinds.items()})

    def jobs(self, lane):
        return len(range(lane, self.channels, LANES))


class Bench:
    """One layer on the store; a step per cycle checks requests, beats and progress."""

    def __init__(self, dut, layer, drain):
        self.dut, self.layer, self.drain = dut, layer, drain
        self.columns = np.random.default_rng(1).integers(
            -128, 128, (LANES, 2 * HALF, PIXELS), np.int8)
        self.tiles, self.done = [0] * LANES, [0] * LANES
        self.queue = 0                    # beats the writer holds
        self.requests, self.beats = [], []
        self.busy, self.finished = 0, 0

    def status(self):
        layout = status_layout()
        return sum(pack(layout, {"tile": tile, "jobs": jobs, "absent": not self.layer.jobs(lane)})
                   << layout.size * lane
                   for lane, (tile, jobs) in enumerate(zip(self.tiles, self.done, strict=True)))

    def step(self):
        dut = self.dut
        if dut.o__valid.value and dut.o__ready.value:
            assert not dut.halt.value
            request = unpack(request_layout(CONFIG), int(dut.o__payload.value))
            self.requests.append((request["address"], request["beats"]))
            assert self.requests[-1] == self.layer.requests[len(self.requests) - 1]
        if dut.beat__valid.value:
            assert self.queue < BEAT_QUEUE, "no beat without room"
            self.beats.append(int(dut.beat__payload.value))
            number = len(self.beats) - 1
            assert self.beats[-1] == self.layer.beats[number], f"beat {number}"
            asked = sum(beats for _, beats in self.requests)
            assert number < asked, "a request goes before"
            self.queue += 1
        if dut.finished.value:
            assert dut.others_idle.value and len(self.beats) == len(self.layer.beats)
            self.finished += 1
        self.busy += bool(dut.busy.value)
        assert int(dut.stored_tile.value) * self.layer.planes <= len(self.requests)

    async def read_columns(self):
        """What a word of all columns held in one cycle is there in the next."""
        dut = self.dut
        while True:
            await FallingEdge(dut.clk)
            words = self.columns[:, int(dut.address.value)].tobytes()
            await RisingEdge(dut.clk)
            dut.columns.value = int.from_bytes(words, "little")

    async def writer(self):
        """Takes beats from its queue in a share of the cycles; ``room`` counts the rest."""
        dut = self.dut
        while True:
            if self.queue and random.random() < self.drain:
                self.queue -= 1
            dut.room.value = BEAT_QUEUE - self.queue
            await RisingEdge(dut.clk)

    async def grant(self, share):
        while True:
            self.dut.o__ready.value = random.random() < share
            await RisingEdge(self.dut.clk)

    async def lanes(self, patience):
        """Lanes finish jobs in any order, as soon as their half of the columns is free."""
        layer = self.layer
        while True:
            await ClockCycles(self.dut.clk, random.randint(1, patience))
            free = [n for n in range(LANES) if layer.jobs(n) and self.tiles[n] < layer.tiles
                    and self.tiles[n] < int(self.dut.stored_tile.value) + 2]
            if not free:
                continue
            lane = random.choice(free)
            tile, job = self.tiles[lane], self.done[lane]
            words = self.half(lane, tile)
            if job == 0:
                words[:] = np.random.default_rng(tile).integers(-128, 128, words.shape, np.int8)
            for image, pixels in enumerate(layer.maps[tile][lane + job * LANES]):
                first = job * layer.slot_words + image * layer.image_words
                words.reshape(-1)[first * PIXELS:][:pixels.size] = pixels
            self.done[lane] += 1
            if self.done[lane] == layer.jobs(lane):
                self.tiles[lane], self.done[lane] = tile + 1, 0
            self.dut.lanes.value = self.status()

    def half(self, lane, tile):
        return self.columns[lane, tile % 2 * HALF:(tile % 2 + 1) * HALF]


async def run(dut, layer, *, drain=1.0, grant=1.0, patience=3, meanwhile=None):
    """Store a layer from start to ``finished``."""
    bench = Bench(dut, layer, drain)
    dut.layer.value, dut.lanes.value = layer.descriptor, bench.status()
    dut.start.value, dut.halt.value, dut.others_idle.value = 0, 0, 0
    dut.beat__ready.value, dut.room.value = 1, BEAT_QUEUE
    tasks = [cocotb.start_soon(task) for task in (
        bench.read_columns(), bench.writer(), bench.grant(grant))]
    await RisingEdge(dut.clk)
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    tasks += [watch(dut, bench.step), cocotb.start_soon(bench.lanes(patience))]
    if meanwhile:
        await meanwhile(bench)
    await until(dut, lambda: len(bench.beats) == len(layer.beats))
    await ClockCycles(dut.clk, random.randint(1, 9))
    assert not bench.finished and int(dut.stored_tile.value) == layer.tiles
    dut.others_idle.value = 1
    await ClockCycles(dut.clk, 4)
    assert bench.finished == 1
    for task in tasks:
        task.cancel()
    return bench


@cocotb.test(timeout_time=500, timeout_unit="us")
async def maps_without_pooling(dut):
    await start(dut)
    for channels in (1, R - 1, R, R + 1, 2 * R + 1, max(R, LANES) * 2 + 1):
        for height, width in ((1, 1), (3, 5), (4, 4)):
            await run(dut, Layer(channels, height, width))


@cocotb.test(timeout_time=500, timeout_unit="us")
async def maxima_of_squares(dut):
    """Edges 2 and 3 with every remainder of rows and columns, which are dropped."""
    await start(dut)
    for pool in (2, 3):
        for more in range(pool):
            height, width = pool + more, 3 * pool + (more + 1) % pool
            await run(dut, Layer(random.randint(1, 2 * max(R, LANES)), height, width, pool=pool))
            await run(dut, Layer(R + 1, width, height, pool=pool))


@cocotb.test(timeout_time=500, timeout_unit="us")
async def images_of_a_tile(dut):
    """Side by side in one request; each fills its own beats, and pools only its own pixels."""
    await start(dut)
    for images in (2, 3):
        for pool, height, width in ((1, 1, 1), (1, 3, 5), (1, 4, 4), (2, 2, 2), (2, 5, 4),
                                    (3, 4, 7)):
            await run(dut, Layer(LANES + R + 1, height, width, pool=pool, images=images, tiles=2))


@cocotb.test(timeout_time=500, timeout_unit="us")
async def last_tiles_differ(dut):
    """The last band of each image has other rows, the last tile of a batch fewer images."""
    await start(dut)
    for pool in (1, 2, 3):
        for images, length in ((2, 1), (2, 2), (1, 3), (2, 3)):
            for rows in (pool, 2 * pool + 1):
                await run(dut, Layer(R + 1, 4, 6, pool=min(pool, 2), last=(rows, 1),
                                     tiles=images * length, round_tiles=length))
        for tiles in (1, 2, 3):
            await run(dut, Layer(R + 1, 4, 5, pool=pool, images=3, last=(4, random.randint(1, 2)),
                                 tiles=tiles))


@cocotb.test(timeout_time=500, timeout_unit="us")
async def tiles_alternate_between_halves(dut):
    await start(dut)
    for pool, patience in ((1, 1), (2, 1), (1, 40), (2, 9)):
        await run(dut, Layer(LANES + R + 1, 4, 6, pool=pool, tiles=5), patience=patience)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def slow_writer(dut):
    await start(dut)
    for drain, grant in ((0.1, 1), (0.3, 0.2), (0.9, 0.1)):
        for pool in (1, 2):
            await run(dut, Layer(2 * R, 6, 8, pool=pool, tiles=2), drain=drain, grant=grant,
                      patience=1)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def random_layers(dut):
    await start(dut)
    for _ in range(repeats(15)):
        pool = random.choice([1, 1, 2, 3])
        height, width = (random.randint(pool, 9) for _ in range(2))
        images = random.randint(1, 2)
        slots = HALF // (images * -(-height * width // PIXELS))
        layer = Layer(random.randint(1, min(3 * max(R, LANES), slots * LANES)), height, width,
                      pool=pool, tiles=random.randint(1, 3), images=images)
        await run(dut, layer, drain=random.choice([0.2, 0.7, 1]), grant=random.choice([0.3, 1]),
                  patience=random.choice([1, 10, 60]))


@cocotb.test(timeout_time=500, timeout_unit="us")
async def halt_ends_after_the_plane(dut):
    await start(dut)

    async def halt(bench):
        await until(dut, lambda: len(bench.requests) == 2)
        dut.halt.value = 1
        await ClockCycles(dut.clk, 2)
        await until(dut, lambda: not dut.busy.value)
        await ClockCycles(dut.clk, 100)
        assert len(bench.requests) == 2 and len(bench.beats) == 2 * bench.layer.out_beats[0]
        dut.halt.value = 0

    for pool in (1, 2):
        await run(dut, Layer(4 * R, 6, 5, pool=pool), patience=1, meanwhile=halt)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def a_read_every_cycle(dut):
    """With a fast writer a plane takes one cycle per read, and its last beat comes in time."""
    await start(dut)
    for pool in (1, 2, 3):
        async def last_beat(bench):
            await until(dut, lambda: bench.busy == bench.layer.plane_cycles)
            await ClockCycles(dut.clk, STORE_BEAT_LATENCY + (bench.layer.pool > 1) * POOL_LATENCY)
            assert len(bench.beats) == bench.layer.out_beats[0]

        for images in (1, 2):
            layer = Layer(R, 6, 7, pool=pool, images=images)
            bench = await run(dut, layer, patience=1, meanwhile=last_beat)
            assert bench.busy == bench.layer.plane_cycles
