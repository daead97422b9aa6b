"""Bench of Lane: layers with real weights, bit for bit against the golden model of a layer.

Small models of reader, loader and store stand around the lane; each takes its time at random.
"""

import random
from collections import Counter, deque
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, RisingEdge

import hwgate
from hwgate.compiler import pack_maps
from hwgate.config import TAPS, AcceleratorConfig
from hwgate.counters import LANE_COUNTERS
from hwgate.quant.fetch import Request, lane_jobs, requests
from hwgate.quant.golden import base_psum, run_layer
from hwgate.quant.network import QuantizedNetwork
from hwgate.quant.random_layers import Limits, random_images, random_network
from hwgate.quant.unpack import cut
from hwgate.rtl.burst import request_layout
from hwgate.rtl.issue import Activity, progress_layout
from hwgate.rtl.lane import decision_latency
from hwgate.rtl.requantize import REQUANTIZE_LATENCY
from hwgate.rtl.structs import descriptor_struct, event_layout, status_layout, window_write_layout
from hwgate.sim.streams import pack, parameters, start, unpack

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
STATUS, PROGRESS, HALVES = status_layout(), progress_layout(), 2
EVENT, REQUEST, WRITE = event_layout(), request_layout(CONFIG), window_write_layout(CONFIG)
# Remembered, because packing is slow.
progress_bits = cache(lambda **values: pack(PROGRESS, values))
status_of = cache(lambda bits: unpack(STATUS, bits))


@dataclass
class Pace:
    """Most cycles that each neighbour of the lane waits before its next step, and the cycle in
    which the store begins."""

    grant: int = 0
    strobe: int = 0
    window: int = 0
    store: int = 0
    begin: int = 0

    def of(self, name):
        return random.randint(0, getattr(self, name))


class Reader:
    """Grants requests one at a time and answers with headers and blocks."""

    def __init__(self, memory, pace):
        self.memory, self.pace, self.taken = memory, pace, {"base": [], "cond": []}
        self.strobes, self.at, self.grant_at = deque(), 0, 0

    def take(self, now, stream, request, header):
        self.taken[stream].append((request["address"], request["beats"], header))
        first = request["address"]
        raw = self.memory[first:first + request["beats"] * CONFIG.bus.bytes].tobytes()
        found, blocks = cut(CONFIG, raw, header)
        self.at = max(self.at, now + 1)
        for name, data in chain([("header", found)] if header else [],
                                ((stream, block) for block in blocks)):
            self.at += 1 + self.pace.of("strobe")
            self.strobes.append((self.at, name, int.from_bytes(data, "little")))
        self.grant_at = now + 1 + self.pace.of("grant")

    def inputs(self, now):
        name, bits, ready = "", random.getrandbits(8 * CONFIG.block_bytes), now >= self.grant_at
        turn = random.choice(("base", "cond"))
        if self.strobes and self.strobes[0][0] == now:
            _, name, bits = self.strobes.popleft()
        return {"u__header_valid": name == "header", "u__base_valid": name == "base",
                "u__cond_valid": name == "cond", "u__job_header": bits if name == "header" else 0,
                "u__block": bits if name != "header" else 0,
                "u__base__ready": ready and turn == "base",
                "u__cond__ready": ready and turn == "cond"}


class Loader:
    """Writes the windows of a tile, up to three words a cycle, once its half is free."""

    def __init__(self, layer, maps, pace):
        self.d, self.maps, self.pace = layer, maps, pace
        self.tile = self.plane = self.at = 0
        self.words = deque(self._plane()) if len(maps) else deque()
        self.planes = maps.shape[1]

    def _plane(self):
        """(bank, address, data) of the words of a plane, in runs of distinct banks."""
        d, words = self.d, CONFIG.buffers.window_words
        half, run = self.tile % HALVES * words, []
        for n in range(d["plane_words"]):
            y, x = (part + d["pad"] for part in divmod(n, d["in_width"]))
            bank, address = 3 * (y % 3) + x % 3, y // 3 * d["row_words"] + x // 3
            group = self.plane
            if d["bank_mode"]:
                group, bank = divmod(self.plane, TAPS)
                address = n
            data = int.from_bytes(self.maps[self.tile, self.plane, n].tobytes(), "little")
            if bank in (place[0] for place in run) or len(run) == random.randint(1, 3):
                yield run
                run = []
            run.append((bank, half + group * d["group_words"] + address, data))
        yield run

    def inputs(self, now, left_tiles):
        """Strobes of this cycle; ``left_tiles`` is the number of tiles the lane has left."""
        write = 0
        progress = {"loaded_tile": self.tile, "loaded_plane": self.plane}
        if self.tile < len(self.maps) and self.tile < left_tiles + HALVES and now >= self.at:
            width, fields = WRITE.elem_shape.size, WRITE.elem_shape
            for bank, address, data in self.words.popleft():
                write |= (1 | address << fields["address"].offset
                          | data << fields["data"].offset) << bank * width
            self.at = now + 1 + self.pace.of("window")
            if not self.words:
                self.plane = (self.plane + 1) % self.planes
                self.tile += self.plane == 0
                self.words = deque(self._plane()) if self.tile < len(self.maps) else deque()
        return {"u__write": write}, progress


class Store:
    """Reads every job's words of the output column when the lane says that they are there."""

    def __init__(self, jobs, layer, outputs, pace):
        self.pace, self.stored, self.at, self.reading = pace, 0, pace.begin, None
        self.tiles = layer["tiles"] if jobs else 0
        bits = (CONFIG.buffers.output_words - 1).bit_length()
        self.places, before = deque(), Counter()
        for job in jobs:
            flat = outputs[job.tile, job.channel].ravel().view(np.uint8)
            for word in range(layer["slot_words"]):
                part = flat[word * CONFIG.beat_pixels:(word + 1) * CONFIG.beat_pixels]
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


async def play(dut, network, images, lane, pace):
    """Run a layer on one lane; what its cycles were spent on, and when things happened."""
    program = hwgate.compile(network, CONFIG)
    binding = program.bind(images)
    plan, d = program.plans[0], binding.descriptors[0]
    golden = run_layer(replace(plan.layer, pool=1), images, CONFIG.formats)
    jobs = lane_jobs(CONFIG, d, lane)
    reader = Reader(binding.memory, pace)
    loader = Loader(d, pack_maps(CONFIG, images), pace)
    store = Store(jobs, d, golden.output, pace)
    events, spent = set(), Counter()
    times = {"base": [], "conditional": [], "event": [], "done": []}
    status, driven, checked, now = {"tile": 0, "jobs": 0, "absent": 0}, {}, None, 0
    pixels = golden.decision[0, 0].size
    dut.u__lane.value = lane
    dut.u__layer.value = pack(descriptor_struct(), d)
    while (store.places or checked or now < 40 + 40 * (not jobs)
           or loader.tile < len(images) and jobs):
        writes, progress = loader.inputs(now, status["tile"] if jobs else len(images))
        inputs = (reader.inputs(now) | writes | store.inputs(now, status)
                  | {"u__start": now == 0,
                     "u__progress": progress_bits(**progress, stored_tile=store.stored)})
        for name, value in inputs.items():
            if driven.get(name) != value:
                getattr(dut, name).value = driven[name] = value
        await FallingEdge(dut.clk)
        name = list(LANE_COUNTERS)[int(dut.u__activity.value).bit_length() - 1]
        assert int(dut.u__activity.value) == 1 << Activity[name]
        spent[name] += 1
        if name in times:
            times[name].append(now)
        for stream in ("base", "cond"):
            if inputs[f"u__{stream}__ready"] and getattr(dut, f"u__{stream}__valid").value:
                request = unpack(REQUEST, int(getattr(dut, f"u__{stream}__payload").value))
                header = stream == "base" and bool(dut.u__header.value)
                reader.take(now, stream, request, header)
        if checked is not None:
            word = int(dut.u__column.value).to_bytes(CONFIG.beat_pixels, "little")
            assert word[:len(checked[1])] == checked[1].tobytes(), f"column word {checked[0]}"
        bits = int(dut.u__event.value)
        if bits & 1:
            times["event"].append(now)
            check_event(unpack(EVENT, bits), golden, pixels, events)
        before, status = status, status_of(int(dut.u__status.value)) if now else status
        if now and (before["tile"], before["jobs"]) != (status["tile"], status["jobs"]):
            times["done"].append(now)
        assert status["absent"] == (not jobs) or now == 0
        checked = store.reading
        store.step()
        await RisingEdge(dut.clk)
        now += 1
        assert now < 30_000
    assert events == {(job.channel, job.tile, n) for job in jobs for n in range(pixels)}
    assert len(times["done"]) == len(jobs)
    check_requests(plan, d, jobs, golden, reader)
    check_windows(plan, d, jobs, golden, spent)
    return spent, times


def check_event(event, golden, pixels, seen):
    """An event says what the golden model says, once."""
    place = event["channel"], event["tile"], event["pixel"]
    assert place not in seen, f"{place} twice"
    seen.add(place)
    at = event["tile"], event["channel"], *divmod(event["pixel"], golden.psum.shape[3])
    assert event["psum"] == golden.psum[at], f"psum of {place}"
    assert event["decision"] == golden.decision[at], f"decision of {place}"


def opens(plan, job, golden):
    """Open pixels of a gated job."""
    return int(golden.decision[job.tile, job.channel].sum()) if plan.layer.gated else 0


def check_requests(plan, d, jobs, golden, reader):
    """Base weights of every job, conditional ones of those that open a gate; no others."""
    base, cond = [], []
    for job in jobs:
        paths = plan.jobs[job.channel]
        base.append(Request(job.address, d["first_beats"], d["first_blocks"], True))
        base += requests(CONFIG, job.address + d["first_beats"] * CONFIG.bus.bytes,
                         len(paths.base) - d["first_blocks"])
        if opens(plan, job, golden):
            cond += requests(CONFIG, job.conditional, len(paths.conditional))
    for stream, wanted in (("base", base), ("cond", cond)):
        assert reader.taken[stream] == [(r.address, r.beats, r.header) for r in wanted]


def check_windows(plan, d, jobs, golden, spent):
    """Windows issued: the MACs of the gated network."""
    paths = [plan.jobs[job.channel] for job in jobs]
    assert spent["base"] == d["out_pixels"] * sum(len(path.base) for path in paths)
    assert spent["conditional"] == sum(len(path.conditional) * opens(plan, job, golden)
                                       for job, path in zip(jobs, paths, strict=True))


def one_layer(seed, tiles=3, closed=0.5, **kind):
    """A random layer and images for it; with mixed gates every channel has a tie, and about the
    share ``closed`` of its gates does not open."""
    rng = np.random.default_rng(seed)
    limits = Limits(size=7, channels=5 * CONFIG.channels)
    network = random_network(rng, CONFIG, layers=1, limits=limits, **kind)
    images = random_images(rng, network, tiles)
    layer = network.layers[0]
    if layer.gated and kind.get("density") == "mixed":
        psums = np.moveaxis(base_psum(layer, images), 1, 0).reshape(len(layer.weight), -1)
        ties = np.sort(psums, axis=1)[:, int(psums.shape[1] * closed)]
        network = QuantizedNetwork(CONFIG, (replace(layer, threshold=ties),))
        assert (psums == ties[:, None]).any(axis=1).all()
    return network, images


def narrow(network, inputs=None):
    """The first output channel of the layer, of its first ``inputs`` input channels or of all."""
    layer = network.layers[0]
    fields = {name: getattr(layer, name)[:1] for name in ("bias", "mult", "shift")}
    fields |= {name: getattr(layer, name)[:1, :inputs] for name in ("weight", "base")}
    if layer.gated:
        fields["threshold"] = layer.threshold[:1]
    shape = fields["weight"].shape[1], *layer.in_shape[1:]
    return QuantizedNetwork(CONFIG, (replace(layer, in_shape=shape, **fields),))


def a_lane(network):
    return random.randrange(min(CONFIG.lanes, len(network.layers[0].weight)))


async def begin(dut):
    for name in ("start", "header_valid", "base_valid", "cond_valid", "write", "base__ready",
                 "cond__ready", "progress"):
        getattr(dut, f"u__{name}").value = 0
    await start(dut)


PACES = {"at_once": Pace(), "any": Pace(10, 4, 2, 5), "slow_weights": Pace(40, 30),
         "slow_windows": Pace(window=30), "slow_store": Pace(begin=4000)}


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def outcomes_of_the_gate(dut):
    """All closed, all open, ties and both, thresholds at the limits; no gate; layer after layer."""
    await begin(dut)
    conditional = Counter()
    for seed, density in enumerate(("closed", "open", "mixed", "extremes", "mixed", None)):
        kind = {"gated": density is not None, "density": density, "reduce": False}
        network, images = one_layer(seed, **kind)
        spent, _ = await play(dut, network, images, a_lane(network), PACES["any"])
        conditional[density] += spent["conditional"]
    assert conditional["closed"] == conditional[None] == 0
    assert conditional["open"] > 0 < conditional["mixed"]


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def conditional_pass_beside_the_gate(dut):
    """Few open pixels, weights at once: the list runs empty before the gate is done."""
    await begin(dut)
    beside = 0
    for seed in range(8):
        network, images = one_layer(seed, tiles=1, closed=0.8, gated=True, density="mixed",
                                    reduce=False)
        spent, times = await play(dut, narrow(network), images, 0, PACES["at_once"])
        last_decision = times["base"][-1] - 1 + decision_latency(CONFIG)
        beside += bool(times["conditional"]) and times["conditional"][0] < last_decision
        assert spent["gate"] > 0
    assert beside > 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def any_neighbour_is_the_slow_one(dut):
    """The same outputs whoever is slow, and the wait has its name."""
    await begin(dut)
    names = {"slow_weights": "weights", "slow_windows": "windows", "slow_store": "output"}
    for name, pace in PACES.items():
        network, images = one_layer(7, gated=True, density="mixed", reduce=False)
        spent, _ = await play(dut, network, images, 0, pace)
        if name in names:
            waits = {reason: spent[reason] for reason in names.values()}
            assert max(waits, key=waits.get) == names[name], (name, spent)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def reduced_layers(dut):
    """Folded average pooling: one output for all pixels, in bank mode."""
    await begin(dut)
    for seed in range(3):
        network, images = one_layer(seed, reduce=True)
        await play(dut, network, images, a_lane(network), PACES["any"])


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def lane_without_a_job(dut):
    """It asks for nothing, waits for nobody, and works again in the next layer."""
    await begin(dut)
    if CONFIG.lanes == 1:
        return
    network, images = one_layer(3, gated=False, reduce=False)
    few = narrow(network)
    spent, _ = await play(dut, few, images, CONFIG.lanes - 1, PACES["any"])
    assert set(spent) == {"idle"}
    await play(dut, few, images, 0, PACES["any"])


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def latencies(dut):
    """From the first window of a job to its output, and to the end of the job."""
    await begin(dut)
    network, images = one_layer(11, tiles=1, gated=False, reduce=False)
    one = narrow(network, inputs=1)
    _, times = await play(dut, one, images[:, :1], 0, PACES["at_once"])
    begun = times["base"][0] - 1  # a pass starts in the cycle before its first window
    assert times["event"][0] == begun + decision_latency(CONFIG)
    assert times["event"] == [time - times["base"][0] + times["event"][0]
                              for time in times["base"]]
    assert times["done"] == [times["event"][-1] + REQUANTIZE_LATENCY + 1]
