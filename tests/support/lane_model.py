"""What stands around a lane: reader, loaders and store, for its bench.

Each takes its time at random, within a :class:`Pace`. Imported inside the simulator.
"""

import random
from collections import Counter, deque
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.machine.layouts import tiles_of
from hwgate.plan.geometry import image_beats
from hwgate.quant.unpack import cut
from hwgate.rtl.structs import residual_write_layout, window_write_layout
from hwgate.sim.streams import pack, parameters

__all__ = ["CONFIG", "Loader", "Operands", "Pace", "Reader", "Store"]

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
HALVES, WRITE, OPERAND = 2, window_write_layout(CONFIG), residual_write_layout(CONFIG)


@dataclass
class Pace:
    """Most cycles that each neighbour of the lane waits before its next step, and the cycle in
    which the store begins."""

    grant: int = 0
    strobe: int = 0
    window: int = 0
    operand: int = 0
    store: int = 0
    begin: int = 0

    def of(self, name):
        return random.randint(0, getattr(self, name))


class Reader:
    """Grants requests one at a time and answers with headers and blocks. A block is longer than a
    beat, so no request's first block comes directly after a header, or the last one of another
    request; a header stays for another cycle."""

    def __init__(self, memory, pace):
        self.memory, self.pace, self.taken = memory, pace, {"base": [], "cond": []}
        self.granted, self.blocks = {"base": [], "cond": []}, {"base": [], "cond": []}  # cycles
        self.strobes, self.at, self.grant_at = deque(), 0, 0
        self.header = 0, 0  # the last one, and until when it stays

    def take(self, now, stream, request, header):
        self.taken[stream].append((request["address"], request["beats"], header))
        self.granted[stream].append(now)
        first = request["address"]
        raw = self.memory[first:first + request["beats"] * CONFIG.bus.bytes].tobytes()
        found, blocks = cut(CONFIG, raw, header)
        self.at = max(self.at + 1, now + 1)
        for name, data in chain([("header", found)] if header else [],
                                ((stream, block) for block in blocks)):
            self.at += 1 + self.pace.of("strobe")
            self.strobes.append((self.at, name, int.from_bytes(data, "little")))
            self.at += name == "header"
            if name == stream:
                self.blocks[stream].append(self.at)
        self.grant_at = now + 1 + self.pace.of("grant")

    def inputs(self, now):
        name, bits, ready = "", random.getrandbits(8 * CONFIG.block_bytes), now >= self.grant_at
        turn = random.choice(("base", "cond"))
        if self.strobes and self.strobes[0][0] == now:
            _, name, bits = self.strobes.popleft()
        if name == "header":
            self.header = bits, now + 1
        header, stays = self.header
        return {"u__header_valid": name == "header", "u__base_valid": name == "base",
                "u__cond_valid": name == "cond", "u__job_header": header if now <= stays else 0,
                "u__block": bits if name != "header" else 0,
                "u__base__ready": ready and turn == "base",
                "u__cond__ready": ready and turn == "cond"}


def image_word(pixels, word):
    """Pixels of a word of a job's output column, of (images, pixels): each image begins one. None
    beyond the last image of a tile."""
    image, word = divmod(word, -(-pixels.shape[1] // CONFIG.beat_pixels))
    first = word * CONFIG.beat_pixels
    return pixels[image:image + 1].reshape(-1)[first:first + CONFIG.beat_pixels]


class Planes:
    """Brings plane after plane of tile after tile, each once its half is free."""

    def __init__(self, tiles, planes, pace, name):
        self.tiles, self.planes, self.pace, self.name = tiles if planes else 0, planes, pace, name
        self.tile = self.plane = self.at = 0
        self.writes = deque(self._plane()) if self.tiles else deque()

    def _plane(self):
        """Writes of the next plane, in order; each is the argument of :meth:`_bits`."""
        raise NotImplementedError

    def _bits(self, *write):
        """Value of the write port."""
        raise NotImplementedError

    def step(self, now, left_tiles):
        """Value of the write port in this cycle, and (tile, plane) that are complete before it;
        ``left_tiles`` is the number of tiles the lane has left."""
        bits, done = None, (self.tile, self.plane)
        if self.tile < min(self.tiles, left_tiles + HALVES) and now >= self.at:
            bits = self._bits(*self.writes.popleft())
            self.at = now + 1 + self.pace.of(self.name)
            if not self.writes:
                self.plane = (self.plane + 1) % self.planes
                self.tile += self.plane == 0
                self.writes = deque(self._plane()) if self.tile < self.tiles else deque()
        return bits, done


class Loader(Planes):
    """Writes the windows of a tile, up to three words a cycle, and tells how many of a plane."""

    def __init__(self, layer, memory, pace):
        self.d, self.memory, self.written = layer, memory, 0
        self.own = tiles_of(layer)
        self.addresses = list(accumulate((tile["in_stride"] for tile in self.own),
                                         initial=layer["in_address"]))
        super().__init__(layer["tiles"], layer["in_planes"], pace, "window")

    def _plane(self):
        """Words (bank, address, data), in runs of distinct banks."""
        d, size, words = self.own[self.tile], CONFIG.channels, CONFIG.buffers.window_words
        planes = (self.addresses[self.tile] % (1 << 32) + self.plane * d["in_run_stride"]
                  + d["in_skip"] * size)
        half, run, self.written = self.tile % HALVES * words, [], 0
        for image, n in np.ndindex(d["images"], d["in_rows"] * d["in_width"]):
            first = planes + image * image_beats(CONFIG, d) * CONFIG.bus.bytes
            y, x = divmod(n, d["in_width"])
            y, x = y + d["pad_top"], x + d["pad"]
            bank, address = 3 * (y % 3) + x % 3, y // 3 * d["row_words"] + x // 3
            group = self.plane
            if d["bank_mode"]:
                group, bank = divmod(self.plane, TAPS)
                address = n
            address += image * d["image_words"]
            data = self.memory[first + n * size:first + (n + 1) * size].tobytes()
            if bank % 3 in (place[0] % 3 for place in run) or len(run) == random.randint(1, 3):
                yield (run,)
                run = []
            run.append((bank, half + group * d["group_words"] + address,
                        int.from_bytes(data, "little")))
        yield (run,)

    def _bits(self, run):
        columns = [{"address": 0, "data": 0}] * 3
        self.written += len(run)
        for bank, address, data in run:
            columns[bank % 3] = {"address": address, "data": data}
        return pack(WRITE, {"enable": sum(1 << bank for bank, _, _ in run), "columns": columns})

    def inputs(self, now, left_tiles):
        skip = self.own[min(self.tile, len(self.own) - 1)]["in_skip"]
        words = self.written and self.written + skip
        bits, (tile, plane) = self.step(now, left_tiles)
        return {"u__write": bits or 0}, {"loaded_tile": tile, "loaded_plane": plane,
                                         "loaded_words": words}


class Operands(Planes):
    """Writes residual operands (tiles, Co, images, pixels) to the places of the outputs in every
    lane's column, by words or by pixels; where nothing will be added, and to other lanes, also
    noise.

    ``added`` marks the channels (Co,) that have an operand.
    """

    def __init__(self, layer, operand, added, lane, pace):
        self.d, self.operand, self.added, self.lane = layer, operand, added, lane
        super().__init__(layer["tiles"], layer["res_planes"], pace, "operand")

    def _plane(self):
        """Writes (word, {lane: (enable, bytes)})."""
        size, pixels, slot = CONFIG.channels, CONFIG.beat_pixels, self.d["slot_words"]
        first = (self.d["res_group"] + self.plane) * size
        channels = range(first, min(first + size, len(self.added)))
        for job in sorted({channel // CONFIG.lanes for channel in channels}):
            for word in range(slot):
                lanes = {channel % CONFIG.lanes: self._word(channel, word) for channel in channels
                         if channel // CONFIG.lanes == job}
                masks = random.choice([[(1 << pixels) - 1], [1 << n for n in range(pixels)]])
                for mask in masks:
                    yield job * slot + word, {lane: (mask, raw) for lane, raw in lanes.items()}

    def _word(self, channel, word):
        pixels = CONFIG.beat_pixels
        known = b""
        if self.added[channel]:
            known = image_word(self.operand[self.tile][channel].astype(np.int8), word).tobytes()
        return known + random.randbytes(pixels - len(known))

    def _bits(self, word, lanes):
        pixels, ports = CONFIG.beat_pixels, OPERAND["lanes"]
        bits = word | self.tile % HALVES << OPERAND["half"].offset
        for lane in range(CONFIG.lanes):
            mask, raw = lanes.get(lane, (0, random.randbytes(pixels)))
            bits |= (mask | int.from_bytes(raw, "little") << pixels) << (
                ports.offset + lane * ports.shape.elem_shape.size)
        return bits

    def inputs(self, now, left_tiles):
        bits, (tile, plane) = self.step(now, left_tiles)
        if bits is None:
            bits, port = random.getrandbits(OPERAND.size), OPERAND["lanes"]
            mine = port.offset + self.lane * port.shape.elem_shape.size
            bits &= ~((1 << CONFIG.beat_pixels) - 1 << mine)
        return {"u__residual_write": bits}, {"residual_tile": tile, "residual_plane": plane}


class Store:
    """Reads every job's words of the output column when the lane says that they are there."""

    def __init__(self, jobs, layer, outputs, pace):
        self.pace, self.stored, self.at, self.reading = pace, 0, pace.begin, None
        self.tiles = layer["tiles"] if jobs else 0
        bits = (CONFIG.buffers.output_words - 1).bit_length()
        self.places, before = deque(), Counter()
        for job in jobs:
            for word in range(layer["slot_words"]):
                part = image_word(outputs[job.tile][job.channel].view(np.uint8), word)
                address = job.tile % HALVES << bits | job.column + word
                self.places.append((job.tile, before[job.tile], address, part))
            before[job.tile] += 1

    def inputs(self, now, status):
        self.reading, address = None, random.randrange(HALVES * CONFIG.buffers.output_words)
        if self.places and now >= self.at:
            tile, job, place, part = self.places[0]
            if (tile, job) < (status["tile"], status["jobs"]):
                self.places.popleft()
                self.reading, address = (place, part), place
                self.at = now + self.pace.of("store")
        return {"u__column_address": address}

    def step(self):
        """To the next cycle; a tile is stored once its last word has been read."""
        self.stored = self.places[0][0] if self.places else self.tiles
