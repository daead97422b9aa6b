"""Bench of Loader: memory behind a read port of any speed, lanes of any progress, and window
memories that must hold the golden words whenever a lane may read them."""

import random
from collections import Counter, deque
from dataclasses import dataclass
from itertools import pairwise

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.loader import bank_memory, feature_map
from hwgate.rtl.loader import LOADED_LATENCY
from hwgate.rtl.structs import window_write_layout
from hwgate.rtl.tiles import QUEUE_LATENCY, TILE_QUEUE
from hwgate.sim.streams import parameters, unpack
from support.memory import Lanes, ReadPort, band_memory, quiet_start, until, watch
from support.shares import repeats
from support.tiles import PLACES, descriptor_bits, run_addresses, tile_places

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
R, BEAT, LANES, PIXELS = CONFIG.channels, CONFIG.bus.bytes, CONFIG.lanes, CONFIG.beat_pixels
HALF = CONFIG.buffers.window_words
PORT = window_write_layout(CONFIG)


@dataclass(frozen=True)
class Kind:
    """Tiles at one place: rows of the map, rows of padding above them, images."""

    rows: range
    pad_top: int
    images: int


class Layer:
    """Random input maps of a layer: its descriptor, its memory, its window memories.

    ``rows`` is a range of rows of the input, those of a band, with ``pad_top`` rows of padding
    above; the memory holds the whole maps, those of a tile's images side by side in each plane.
    ``kinds`` are tiles by their place in a round, if they are not all alike.
    """

    def __init__(self, channels, height, width, *, pad=0, pad_top=None, rows=None, tiles=1,
                 images=1, bank_mode=False, kinds=None, round_tiles=None):
        self.tiles, self.bank_mode, self.width = tiles, bank_mode, width
        self.step = 1 if bank_mode else CONFIG.write_words  # pixels written in a cycle
        round_tiles = round_tiles or tiles
        alike = Kind(range(height) if rows is None else rows, pad if pad_top is None else pad_top,
                     images)
        kinds = kinds or dict.fromkeys(PLACES, alike)
        most = max(kind.images for kind in kinds.values())
        places = tile_places(tiles, round_tiles)
        self.kinds = [kinds[place] for place in places]
        maps = np.random.default_rng(random.getrandbits(32)).integers(
            -128, 128, (tiles, most, channels, height, width), np.int8)
        stored = np.array([[feature_map(x, R, PIXELS) for x in tile] for tile in maps])
        self.groups, plane_bytes = stored.shape[2], most * stored[0, 0, 0].size
        whole = {kind.images * len(kind.rows) for kind in kinds.values()} == {most * height}
        if most > 1 and not random.randrange(2):  # planes need not follow one another
            whole, plane_bytes = False, plane_bytes + BEAT * random.randrange(3)
        skips = {place: kind.rows[0] * width % PIXELS for place, kind in kinds.items()}
        beats = {place: -(-(skips[place] + len(kind.rows) * width) // PIXELS)
                 for place, kind in kinds.items()}
        self.skips, self.plane_beats = ([of[place] for place in places] for of in (skips, beats))
        runs = 1 if whole else self.groups
        run_beats = {place: kind.images * beats[place] * (self.groups if whole else 1)
                     for place, kind in kinds.items()}
        size = self.groups * plane_bytes
        strides = {place: size * random.randint(2, 3) + BEAT * random.randrange(3)
                   for place in PLACES}
        address = 3 * size // BEAT * BEAT + BEAT * random.randrange(1000)
        addresses = run_addresses({
            "tiles": tiles, "round_tiles": round_tiles, "address": address, "runs": runs,
            "run_stride": plane_bytes}, BEAT, run_beats, strides)
        memory = {}
        for kind, tile, asked in zip(self.kinds, stored, addresses, strict=True):
            origin = asked[0] - kind.rows[0] * width // PIXELS * BEAT
            for group in range(self.groups):
                raw = tile[:, group].tobytes()
                memory |= {origin + group * plane_bytes + at: raw[at:at + BEAT]
                           for at in range(0, len(raw), BEAT)}
        self.tile_of = [number for number, tile in enumerate(addresses) for _ in tile]
        self.addresses = [at for tile in addresses for at in tile]
        self.memory = {at: memory[at] for at in self.addresses}

        row_words = width if bank_mode else -(-(width + 2 * pad) // 3)
        image_words = max(len(kind.rows) * width if bank_mode
                          else row_words * -(-(kind.pad_top + len(kind.rows)) // 3)
                          for kind in kinds.values())
        self.group_words = most * image_words
        found = [self._words(kind, tile, pad, row_words, image_words)
                 for kind, tile in zip(self.kinds, maps, strict=True)]
        self.words, self.planes = [dict(words) for words, _ in found], [p for _, p in found]
        assert max(address for tile in self.words for _, address in tile) < HALF
        self.descriptor = descriptor_bits({
            "bank_mode": bank_mode, "pad": pad, "tiles": tiles, "round_tiles": round_tiles,
            "in_address": address, "in_width": width, "in_planes": self.groups, "in_runs": runs,
            "in_run_stride": plane_bytes, "row_words": row_words, "image_words": image_words,
            "group_words": self.group_words},
            {place: {"pad_top": kind.pad_top, "in_stride": strides[place],
                     "in_rows": len(kind.rows),
                     "in_skip": skips[place], "in_run_beats": run_beats[place],
                     "images": kind.images} for place, kind in kinds.items()})

    def _words(self, kind, maps, pad, row_words, image_words):
        """Words of a tile by (bank, address), and their places plane after plane, image after
        image, in raster order. An image lies in each group behind the images before it."""
        words, planes = {}, [[] for _ in range(self.groups)]
        rows, size = kind.rows, len(kind.rows) * self.width
        pitch = size if self.bank_mode else row_words * -(-(kind.pad_top + len(rows)) // 3)
        for image, x in enumerate(maps[:kind.images, :, rows[0]:rows[-1] + 1]):
            found = bank_memory(x, R) if self.bank_mode else band_memory(x, R, pad, kind.pad_top)
            for n, ((bank, at), word) in enumerate(found.items()):
                slot, at = divmod(at, pitch)
                place = bank, slot * self.group_words + image * image_words + at
                words[place] = int.from_bytes(word.tobytes(), "little")
                planes[n // size].append(place)
        return words, planes

    def cuts(self, tile):
        """What is written of an image's plane of a tile in each cycle: first and last word, counted
        from those before the first row on."""
        ends = [self.skips[tile]]
        ends += [ends[0] + (row + 1) * self.width for row in range(len(self.kinds[tile].rows))]
        return [(first, min(first + self.step, end)) for begin, end in pairwise([0, *ends])
                for first in range(begin, end, self.step)]


class Progress:
    """What the loader does in each cycle: it cuts the beat that it holds, and what reaches into
    the next one waits for that."""

    def __init__(self, layer):
        self.layer, self.cuts = layer, [layer.cuts(tile) for tile in range(layer.tiles)]
        self.tile = self.plane = self.image = self.words = self.at = 0
        self.queued, self.arriving = 0, deque([0] * (QUEUE_LATENCY - 1))
        self.taken, self.held, self.pause = 0, False, False  # beats of the image's plane
        self.told = deque([(0, 0, 0)] * LOADED_LATENCY, LOADED_LATENCY)
        self.last = set()  # pixels of the last write of a plane

    def step(self, arrives):
        """(tile, plane, words) at the output in this cycle, in which a beat arrives or not."""
        told, layer = self.told[0], self.layer
        tile = min(self.tile, layer.tiles - 1)
        first, end = self.cuts[tile][self.at]
        reaches = end > self.taken * PIXELS
        go = self.held and (self.queued or not reaches)
        last = go and self.at == len(self.cuts[tile]) - 1
        image_last = last and self.image == layer.kinds[tile].images - 1
        tile_last = image_last and self.plane == layer.groups - 1
        spent = go and (last or end >= self.taken * PIXELS)
        take = (self.queued and (spent or not self.held) and not self.pause
                and (reaches or not tile_last))
        self.pause = tile_last
        if go:
            self.at, self.words = self.at + 1, end
        if take:
            self.queued -= 1
        self.taken += take
        left = not (go and reaches and (last or end == self.taken * PIXELS))  # of the beat taken
        self.held = take and left or self.held and not spent
        if last:
            self.last.add(end - first)
            self.at = self.words = 0
            self.taken = int(self.held)
            self.image = (self.image + 1) % layer.kinds[tile].images
            self.plane = (self.plane + image_last) % layer.groups
            self.tile += tile_last
        self.arriving.append(arrives)
        self.queued += self.arriving.popleft()
        self.told.append((self.tile, self.plane, self.words))
        return told


class Bench:
    """One layer on the loader; a step per cycle checks requests, writes and progress."""

    def __init__(self, dut, layer, absent):
        self.dut, self.layer = dut, layer
        self.port = ReadPort(dut, "o", CONFIG, layer.memory)
        self.lanes = Lanes(LANES, absent)
        self.halves = [{}, {}]               # (bank, address) to word
        self.progress, self.loaded = Progress(layer), (0, 0, 0)  # tiles, planes, words
        self.cycle = self.last_write = self.written = 0
        self.idle = False
        self.rising = Counter()              # cycles from a plane's last write to its count

    def step(self):
        self.cycle += 1
        self.check_progress()
        if asked := self.port.step():
            tile = self.layer.tile_of[len(self.port.asked) - len(asked)]
            assert tile < self.lanes.slowest() + 2, "still in use"
        self.write()
        if self.idle:  # since the cycle before
            complete = self.written == sum(map(len, self.layer.words))
            assert complete, "idle, though pixels are missing"
        self.idle = bool(self.dut.idle.value)

    def write(self):
        write = unpack(PORT, int(self.dut.write.value))
        for bank in range(9):
            port = write["columns"][bank % 3]
            if write["enable"] >> bank & 1:
                half, place = self.halves[port["address"] // HALF], (bank, port["address"] % HALF)
                assert place not in half, "written twice, or before every lane has left"
                half[place] = port["data"]
                self.written += 1
                self.last_write = self.cycle

    def check_progress(self):
        """Pixels count as loaded in the very cycle from which on they are there."""
        now = tuple(int(getattr(self.dut, name).value) for name in ("tile", "plane", "words"))
        assert now == self.progress.step(bool(self.dut.valid.value)), f"cycle {self.cycle}: {now}"
        if now == self.loaded:
            return
        tile, plane, _ = self.loaded
        wanted = self.layer.planes[tile][plane]
        if now[:2] != (tile, plane):
            self.rising[self.cycle - self.last_write] += 1
        elif self.layer.kinds[tile].images == 1:
            wanted = wanted[:max(0, now[2] - self.layer.skips[tile])]
        else:  # no pass follows the loader through several images
            wanted = []
        half = self.halves[tile % 2]
        wrong = [place for place in wanted if half.get(place) != self.layer.words[tile][place]]
        assert not wrong, f"{len(wrong)} of {len(wanted)} words, first {wrong[0]}"
        self.loaded = now

    async def leave(self, patience):
        """Each lane leaves a loaded tile after a while; until then it must stay whole."""
        while True:
            await ClockCycles(self.dut.clk, random.randint(1, patience))
            lane = self.lanes.choose(self.loaded[0])
            if lane is not None:
                tile = self.lanes.tiles[lane]
                whole = self.halves[tile % 2] == self.layer.words[tile]
                assert whole, f"tile {tile} has changed while a lane used it"
                self.lanes.tiles[lane] += 1
                if tile < self.lanes.slowest():
                    self.halves[tile % 2].clear()
                self.dut.lanes.value = self.lanes.bits()


async def run(dut, layer, *, latency=0, answer_idle=0.0, grant_idle=0.0, patience=40, absent=0):
    """Load a layer from start to idle."""
    bench = Bench(dut, layer, absent)
    dut.layer.value, dut.lanes.value, dut.start.value = layer.descriptor, bench.lanes.bits(), 0
    tasks = [cocotb.start_soon(task) for task in (
        bench.port.answer(latency, answer_idle), bench.port.grant(grant_idle))]
    await ClockCycles(dut.clk, 2)
    assert dut.idle.value
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    await RisingEdge(dut.clk)
    tasks += [watch(dut, bench.step), cocotb.start_soon(bench.leave(patience))]
    await until(dut, lambda: bench.lanes.slowest() == layer.tiles)
    await until(dut, lambda: dut.idle.value)
    complete = bench.port.asked == layer.addresses
    assert complete, "every beat once, in order"
    for task in tasks:
        task.cancel()
    return bench


def shapes():
    """Channels, height, width and padding at every corner of the walk over the banks."""
    for height, width in [(1, 1), (1, 2), (1, 7), (8, 1), (2, 2), (7, 2), (3, 3), (4, 5), (5, 4),
                          (6, 9), (7, 11)]:
        for pad in range(4):
            yield random.randint(1, 3 * R), height, width, pad


def bands():
    """Heights of a map, and rows of it: the first, some in the middle, one, the last."""
    for first, count, below in ((0, 3, 2), (1, 4, 3), (2, 1, 1), (5, 3, 0), (3, 2, 1)):
        yield first + count + below, range(first, first + count)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def pixels_reach_their_bank(dut):
    await quiet_start(dut)
    for channels, height, width, pad in shapes():
        await run(dut, Layer(channels, height, width, pad=pad), patience=1)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def groups_reach_their_bank(dut):
    await quiet_start(dut)
    for groups, height, width in [(1, 1, 1), (9, 1, 1), (10, 2, 3), (19, 3, 3), (7, 1, 5)]:
        channels = groups * R - random.randrange(R)
        await run(dut, Layer(channels, height, width, bank_mode=True), answer_idle=0.2)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def rows_of_a_band(dut):
    """A run per plane; what shares its first and last beat, of other rows, is left out."""
    await quiet_start(dut)
    for width in range(1, PIXELS + 2):
        for height, rows in bands():
            for pad, pad_top in ((0, 0), (3, 0), (1, 1), (2, 1), (3, 3), (3, 2)):
                await run(dut, Layer(R + 1, height, width, pad=pad, pad_top=pad_top, rows=rows),
                          patience=1)
            await run(dut, Layer(10 * R, height, width, rows=rows, bank_mode=True), patience=1)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def images_of_a_tile(dut):
    """Image after image in each plane; a plane counts when it has all of them."""
    await quiet_start(dut)
    for images in (2, 3, 5):
        for height, width in ((1, 1), (2, 2), (4, 5), (3, 7)):
            for pad in (0, 1, 3):
                await run(dut, Layer(2 * R + 1, height, width, pad=pad, images=images, tiles=2),
                          patience=1)
            await run(dut, Layer(11 * R, min(height, 2), width, images=images, tiles=2,
                                 bank_mode=True), patience=1)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def bands_of_an_image(dut):
    """The first and the last band have rows and padding of their own, image after image."""
    await quiet_start(dut)
    for images, length in ((2, 1), (1, 2), (3, 2), (2, 3), (1, 5), (2, 4)):
        for width, pad in ((3, 1), (PIXELS, 3), (5, 2)):
            for bank_mode in (False, True):
                tops = sorted(random.sample(range(9), 3))
                kinds = {place: Kind(range(top, top + random.randint(1, 4)),
                                     random.randint(0, pad), 1)
                         for place, top in zip(PLACES, tops, strict=True)}
                layer = Layer((10 if bank_mode else 2) * R, 13, width, pad=pad * (not bank_mode),
                              kinds=kinds, tiles=images * length, round_tiles=length,
                              bank_mode=bank_mode)
                await run(dut, layer, patience=random.choice((1, 60)),
                          answer_idle=random.choice((0, 0.4)))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def last_tile_of_fewer_images(dut):
    await quiet_start(dut)
    for images, rest in ((2, 1), (3, 1), (3, 2)):
        for tiles in (1, 2, 4):
            for pad, bank_mode in ((1, False), (3, False), (0, True)):
                full = Kind(range(3), pad, images)
                kinds = dict.fromkeys(PLACES, full) | {"last": Kind(range(3), pad, rest)}
                await run(dut, Layer(11 * R if bank_mode else 3 * R, 3, 4, pad=pad, tiles=tiles,
                                     kinds=kinds, bank_mode=bank_mode), patience=1)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def left_over_pixels(dut):
    """What a plane's beats leave is written before the next plane begins: nothing, one, two pixels
    of them, with every gap before the next beat, and padding of the beat among them."""
    await quiet_start(dut)
    last, step = set(), CONFIG.write_words
    for beats in range(1, 5):
        for missing in range(min(3, PIXELS)):
            for idle in (0, 0.3, 0.8):
                layer = Layer(3 * R, 1, beats * PIXELS - missing, pad=1, tiles=2)
                assert layer.plane_beats == [beats] * 2
                bench = await run(dut, layer, answer_idle=idle, patience=1)
                last |= bench.progress.last
    assert last == set(range(1, step + 1))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def tiles_alternate_between_halves(dut):
    """At most two tiles are on chip, and a third is not asked for before every lane has left."""
    await quiet_start(dut)
    for bank_mode in (False, True):
        for absent in (0, LANES - 1):
            for patience in (2, 150):
                for rows in (None, range(1, 4)):
                    layer = Layer(2 * R + 1, 5, 4, pad=1 - bank_mode, tiles=5, rows=rows,
                                  bank_mode=bank_mode)
                    await run(dut, layer, patience=patience, absent=absent)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def queue_never_overflows(dut):
    """The memory answers whatever was asked for, late, and then faster than words are placed."""
    await quiet_start(dut)
    for latency in (0, 3, 300):
        layer = Layer(8 * R, 9, 16, pad=1)
        bench = await run(dut, layer, latency=latency, patience=1)
        assert len(bench.port.asked) > TILE_QUEUE
        assert bench.cycle >= layer.groups * len(layer.cuts(0))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_layers(dut):
    await quiet_start(dut)
    for _ in range(repeats(20)):
        bank_mode = random.random() < 0.3
        height, width = (random.randint(1, 9) for _ in range(2))
        pad = 0 if bank_mode else random.randint(0, 3)
        first = random.randrange(height)
        rows = random.choice([None, range(first, random.randint(first + 1, height))])
        images = random.randint(1, 2) if rows is None else 1
        layer = Layer(random.randint(1, 4 * R), height, width, pad=pad, rows=rows, images=images,
                      pad_top=random.randint(0, pad), tiles=random.randint(1, 4),
                      bank_mode=bank_mode)
        await run(dut, layer, latency=random.choice([0, 5, 50]),
                  answer_idle=random.choice([0, 0.3, 0.8]), grant_idle=random.choice([0, 0.3, 0.8]),
                  patience=random.choice([1, 30]), absent=random.randrange(LANES))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def counts_a_plane_when_it_can_be_read(dut):
    """Whole beats: the last words of a plane go with its last beat."""
    await quiet_start(dut)
    bench = await run(dut, Layer(3 * R, 2, PIXELS), patience=1)
    assert bench.rising == {LOADED_LATENCY - 2: 3}
