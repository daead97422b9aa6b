"""Bench of ResidualLoader: memory behind a read port of any speed, lanes of any progress, and
residual columns that must hold the operand whenever a lane may add it."""

import random

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.loader import feature_map
from hwgate.rtl.loader import LOADED_LATENCY
from hwgate.rtl.structs import residual_write_layout
from hwgate.rtl.tiles import TILE_QUEUE
from hwgate.sim.streams import parameters, unpack
from support.memory import Lanes, ReadPort, quiet_start, until, watch
from support.shares import repeats
from support.tiles import PLACES, descriptor_bits, run_addresses, tile_places

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
R, BEAT, LANES, PIXELS = CONFIG.channels, CONFIG.bus.bytes, CONFIG.lanes, CONFIG.beat_pixels
WORDS = CONFIG.buffers.output_words


def column_bytes(operand, channel, slot_words):
    """Where lanes look for an operand (C, H, W) whose channel 0 is added to output ``channel``.

    Output channel c is job ``c div lanes`` of lane ``c mod lanes``; its pixels lie in raster order
    in the ``slot_words`` words of that job.

    Returns
    -------
    dict of (lane, word, byte) to int
    """
    places = {}
    for c, plane in enumerate(operand, channel):
        for pixel, value in enumerate(plane.ravel()):
            word = c // LANES * slot_words + pixel // PIXELS
            places[c % LANES, word, pixel % PIXELS] = int(value)
    return places


class Layer:
    """Random operands of a layer: descriptor, memory, and the columns of every tile.

    ``rows`` is a range of rows of the operand, those of a band; it begins at a whole beat. The
    images of a tile lie side by side in each plane. ``last`` are (rows, images) of the last tile
    of a round, if they differ.
    """

    def __init__(self, channels, height, width, *, step=1, group=0, tiles=1, images=1, rows=None,
                 last=None, round_tiles=None):
        self.tiles, self.step = tiles, step
        round_tiles = round_tiles or tiles
        plain = range(height) if rows is None else rows, images
        kinds = dict.fromkeys(PLACES, plain) | {"last": last or plain}
        places = tile_places(tiles, round_tiles)
        most = max(count for _, count in kinds.values())
        maps = np.random.default_rng(random.getrandbits(32)).integers(
            -128, 128, (tiles, most, channels, height, width), np.int8)
        stored = np.array([[feature_map(x, R, PIXELS) for x in tile] for tile in maps])
        self.groups, plane_bytes = stored.shape[2], most * stored[0, 0, 0].size
        whole = {len(rows) * count for rows, count in kinds.values()} == {height * most}
        if most > 1 and not random.randrange(2):  # planes need not follow one another
            whole, plane_bytes = False, plane_bytes + BEAT * random.randrange(3)
        for rows, _ in kinds.values():
            assert rows[0] * width % PIXELS == 0 and rows[0] % step == 0
        beats = {place: -(-len(rows) * width // PIXELS) for place, (rows, _) in kinds.items()}
        runs = 1 if whole else self.groups
        run_beats = {place: count * beats[place] * (self.groups if whole else 1)
                     for place, (_, count) in kinds.items()}
        size = self.groups * plane_bytes
        stride, after = (2 * size + BEAT * random.randrange(3) for _ in range(2))
        strides = {"first": stride, "middle": stride, "last": after}
        address = size + BEAT * random.randrange(1000)
        tiles_of = run_addresses({
            "tiles": tiles, "round_tiles": round_tiles, "address": address, "runs": runs,
            "run_stride": plane_bytes}, BEAT, run_beats, strides)
        memory = {}
        for place, tile, asked in zip(places, stored, tiles_of, strict=True):
            origin = asked[0] - kinds[place][0][0] * width // PIXELS * BEAT
            for plane in range(self.groups):
                raw = tile[:, plane].tobytes()
                memory |= {origin + plane * plane_bytes + at: raw[at:at + BEAT]
                           for at in range(0, len(raw), BEAT)}
        self.tile_of = [number for number, tile in enumerate(tiles_of) for _ in tile]
        self.addresses = [at for tile in tiles_of for at in tile]
        self.memory = {at: memory[at] for at in self.addresses}

        # Channels and pixels that only fill up groups and beats may be written as well.
        sampled = [x[:kinds[place][1], :, kinds[place][0][0]:kinds[place][0][-1] + 1:step, ::step]
                   for place, x in zip(places, maps, strict=True)]
        image_words = [-(-tile[0, 0].size // PIXELS) for tile in sampled]
        slot_words = max(len(tile) * words for tile, words in zip(sampled, image_words,
                                                                  strict=True))
        self.columns = [{
            (lane, word + n * words, byte): value for n, x in enumerate(tile)
            for (lane, word, byte), value in column_bytes(x, group * R, slot_words).items()}
            for tile, words in zip(sampled, image_words, strict=True)]
        slots = -(-(group + self.groups) * R // LANES)
        assert slots * slot_words <= WORDS, "the test's own layer does not fit"
        self.plane_of = {(c % LANES, c // LANES * slot_words + word): c // R - group
                         for c in range(group * R, (group + self.groups) * R)
                         for word in range(slot_words)}
        self.beats = beats["last"]
        self.steps = images * CONFIG.slot_reads * self.beats * (PIXELS if step == 2 else 1)
        self.descriptor = descriptor_bits({
            "tiles": tiles, "round_tiles": round_tiles, "slot_words": slot_words,
            "res_planes": self.groups, "res_address": address, "res_runs": runs,
            "res_run_stride": plane_bytes, "res_width": width, "res_step": step,
            "res_part": group % CONFIG.slot_groups, "res_group": group,
            "res_slot": group // CONFIG.slot_groups * CONFIG.slot_reads * slot_words},
            {place: {"images": count, "res_words": len(rows) * width, "res_beats": beats[place],
                     "res_stride": strides[place], "res_run_beats": run_beats[place]}
             for place, (rows, count) in kinds.items()})


class Bench:
    """One layer on the loader; a step per cycle checks requests, writes and progress."""

    def __init__(self, dut, layer, absent):
        self.dut, self.layer = dut, layer
        self.port = ReadPort(dut, "o", CONFIG, layer.memory)
        self.lanes = Lanes(LANES, absent)
        self.halves = [{}, {}]               # (lane, word, byte) to value
        self.loaded = (0, 0)                 # tiles, planes of the next
        self.cycle, self.first_write, self.counted = 0, None, []
        self.layout = residual_write_layout(CONFIG)

    def step(self):
        self.cycle += 1
        self.check_progress()
        if asked := self.port.step():
            tile = self.layer.tile_of[len(self.port.asked) - len(asked)]
            assert tile < self.lanes.slowest() + 2, "still in use"
        self.write()
        if self.dut.idle.value and self.port.asked:
            assert self.port.answered == len(self.layer.addresses)

    def write(self):
        write = unpack(self.layout, int(self.dut.write.value))
        tile, plane = int(self.dut.tile.value), int(self.dut.plane.value)
        for lane, port in enumerate(write["lanes"]):
            for byte in range(PIXELS):
                if port["enable"] >> byte & 1:
                    place = lane, write["word"], byte
                    assert write["half"] == tile % 2 and self.layer.plane_of[place[:2]] == plane
                    assert place not in self.halves[tile % 2], "twice, or before it was left"
                    self.halves[tile % 2][place] = int(np.int8(np.uint8(port["data"][byte])))
                    self.first_write = self.first_write or self.cycle

    def check_progress(self):
        """Everything that counts as loaded is there, from the cycle on in which it counts."""
        now = int(self.dut.tile.value), int(self.dut.plane.value)
        if now == self.loaded:
            return
        tile, plane = self.loaded
        following = (tile, plane + 1) if plane + 1 < self.layer.groups else (tile + 1, 0)
        assert now == following, "planes are counted one by one"
        self.check_half(tile, plane)
        self.counted.append(self.cycle)
        self.loaded = now

    def check_half(self, tile, plane=None):
        """The half holds the operand; of one plane, if that is given."""
        half = self.halves[tile % 2]
        wanted = {place: value for place, value in self.layer.columns[tile].items()
                  if plane is None or self.layer.plane_of[place[:2]] == plane}
        wrong = [place for place, value in wanted.items() if half.get(place) != value]
        assert not wrong, f"{len(wrong)} of {len(wanted)} bytes, first {wrong[0]}"

    async def leave(self, patience):
        """Each lane leaves a loaded tile after a while; until then it must stay whole."""
        while True:
            await ClockCycles(self.dut.clk, random.randint(1, patience))
            lane = self.lanes.choose(self.loaded[0])
            if lane is not None:
                tile = self.lanes.tiles[lane]
                self.check_half(tile)
                self.lanes.tiles[lane] += 1
                if tile < self.lanes.slowest():
                    self.halves[tile % 2].clear()
                self.dut.lanes.value = self.lanes.bits()


async def run(dut, layer, *, latency=0, answer_idle=0.0, grant_idle=0.0, patience=20, absent=0):
    """Load a layer from start to idle."""
    bench = Bench(dut, layer, absent)
    dut.layer.value, dut.lanes.value, dut.start.value = layer.descriptor, bench.lanes.bits(), 0
    tasks = [cocotb.start_soon(task) for task in (
        bench.port.answer(latency, answer_idle), bench.port.grant(grant_idle))]
    await ClockCycles(dut.clk, 2)
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    await RisingEdge(dut.clk)
    tasks += [watch(dut, bench.step), cocotb.start_soon(bench.leave(patience))]
    await until(dut, lambda: bench.lanes.slowest() == layer.tiles)
    await ClockCycles(dut.clk, 5)
    complete = bench.port.asked == layer.addresses
    assert dut.idle.value and complete, "every beat once, in order"
    for task in tasks:
        task.cancel()
    return bench


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def every_channel_reaches_its_output(dut):
    """Groups before, in and after a slot's; maps that fill beats and that do not."""
    await quiet_start(dut)
    for channels in (1, R, R + 1, 2 * max(R, LANES) + 1):
        for height, width in ((1, 1), (3, 5), (4, 4)):
            await run(dut, Layer(channels, height, width))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def every_group_offset(dut):
    await quiet_start(dut)
    for group in range(2 * CONFIG.slot_groups + 2):
        for step in (1, 2):
            await run(dut, Layer(2 * R, 3, 5, step=step, group=group, tiles=2))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def even_rows_and_columns(dut):
    """Sampled operands of odd and even height and width, in groups of both kinds."""
    await quiet_start(dut)
    for height, width in ((1, 1), (1, 6), (6, 1), (2, 2), (5, 7), (7, 4), (4, 7), (6, 8), (9, 3)):
        await run(dut, Layer(random.randint(1, 3 * R), height, width, step=2, tiles=2))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def rows_of_a_band(dut):
    """A run per plane; the first row is even, and begins at a whole beat."""
    await quiet_start(dut)
    for step in (1, 2):
        for rows, width in ((range(2), PIXELS + 3), (range(2 * PIXELS, 2 * PIXELS + 3), 5),
                            (range(2, 5), PIXELS), (range(4, 5), 2 * PIXELS)):
            height = rows[-1] + random.randint(1, 3)
            await run(dut, Layer(3 * R, height, width, step=step, group=1, rows=rows, tiles=2))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def images_of_a_tile(dut):
    """Each begins at a whole word, of sampled operands too."""
    await quiet_start(dut)
    for images in (2, 3):
        for step in (1, 2):
            for height, width in ((1, 1), (2, 2), (3, 3), (4, 2)):
                await run(dut, Layer(R + 1, height, width, step=step, group=1, images=images,
                                     tiles=3))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def last_tiles_differ(dut):
    """The last band of each image has other rows, the last tile of a batch fewer images."""
    await quiet_start(dut)
    for step in (1, 2):
        for images, length in ((2, 1), (2, 2), (1, 3), (2, 4)):
            for first, rows in ((2 * PIXELS, 1), (2 * PIXELS, 4)):
                await run(dut, Layer(R + 1, first + 4, 3, step=step, group=1, rows=range(2),
                                     last=(range(first, first + rows), 1),
                                     tiles=images * length, round_tiles=length))
        for tiles in (1, 2, 3):
            await run(dut, Layer(2 * R, 2, 3, step=step, group=1, images=3,
                                 last=(range(2), random.randint(1, 2)), tiles=tiles))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def tiles_alternate_between_halves(dut):
    """A tile is not asked for before every lane has left the one two before it."""
    await quiet_start(dut)
    for step in (1, 2):
        for absent in (0, LANES - 1):
            for patience in (1, 150):
                layer = Layer(R + 1, 3, 6, step=step, group=1, tiles=5)
                await run(dut, layer, patience=patience, absent=absent)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_operands(dut):
    await quiet_start(dut)
    for _ in range(repeats(20)):
        step, group, height = random.choice([1, 2]), random.randrange(4), random.randint(1, 9)
        width = random.randint(1, 9 if CONFIG.slot_reads == 1 else 3)
        images = random.randint(1, 2 if height * width <= 10 else 1)
        rows, columns = -(-height // step), -(-width // step)
        slots = WORDS // (images * -(-rows * columns // PIXELS))  # channels of each lane that fit
        most = min(3 * R, slots * LANES // R * R - group * R)
        if most < 1:
            continue
        layer = Layer(random.randint(1, most), height, width, step=step, group=group,
                      tiles=random.randint(1, 4), images=images)
        await run(dut, layer, latency=random.choice([0, 5, 50]),
                  answer_idle=random.choice([0, 0.3, 0.8]), grant_idle=random.choice([0, 0.3]),
                  patience=random.choice([1, 30]), absent=random.randrange(LANES))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def without_an_operand_it_stays_idle(dut):
    """A layer that adds nothing asks for nothing, and leaves nothing to the next one."""
    await quiet_start(dut)
    await run(dut, Layer(R + 1, 4, 4, tiles=2))
    dut.layer.value, dut.start.value = descriptor_bits({"tiles": 3}), 1
    for _ in range(repeats(50)):
        await RisingEdge(dut.clk)
        dut.start.value = 0
        assert dut.idle.value and not dut.o__valid.value and not int(dut.plane.value)
    await run(dut, Layer(2 * R, 5, 5, step=2, group=1, tiles=2))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def cycles_of_a_plane(dut):
    """A step per cycle: reads of a group for each beat, or for each of its pixels."""
    await quiet_start(dut)
    for step, images in ((1, 1), (2, 1), (1, 2), (2, 2)):
        layer = Layer(3 * R, 4, 5 if images == 1 else 2, step=step, images=images)
        assert 3 * images * layer.beats <= TILE_QUEUE
        bench = await run(dut, layer, patience=1)
        ends = [bench.first_write + n * layer.steps + LOADED_LATENCY - 3 for n in (1, 2, 3)]
        assert bench.counted == ends
