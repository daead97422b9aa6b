"""Bench of Lane: layers with real weights, bit for bit against the golden model of a layer."""

import random
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, RisingEdge

import hwgate
from hwgate.machine.counters import LANE_COUNTERS
from hwgate.machine.layouts import tiles_of
from hwgate.quant.fetch import Request, lane_jobs, requests
from hwgate.quant.golden import base_psum, residual_operand, run_layer
from hwgate.quant.layer import Activations
from hwgate.quant.network import QuantizedNetwork
from hwgate.rtl.burst import request_layout
from hwgate.rtl.issue import Activity, progress_layout
from hwgate.rtl.lane import decision_latency
from hwgate.rtl.requantize import REQUANTIZE_LATENCY
from hwgate.rtl.structs import event_layout, status_layout
from hwgate.rtl.weights import BLOCK_LATENCY
from hwgate.sim.streams import pack, start, unpack
from support.lane_model import CONFIG, Loader, Operands, Pace, Reader, Store
from support.random_layers import Features, Limits, random_images, random_network
from support.shares import repeats
from support.tiles import descriptor_bits

STATUS, PROGRESS = status_layout(), progress_layout()
EVENT, REQUEST, PLAIN = event_layout(), request_layout(CONFIG), Features()
# Remembered, because packing is slow.
progress_bits = cache(lambda **values: pack(PROGRESS, values))
status_of = cache(lambda bits: unpack(STATUS, bits))


async def play(dut, network, images, lane, pace, per_tile=1):
    """Run a layer on one lane; what its cycles were spent on, and when things happened."""
    binding = hwgate.compile(network, CONFIG, images_per_tile=per_tile).bind(images)
    layer = replace(network.layers[0], pool=1)
    residual = None if layer.residual is None else images
    golden = run_layer(layer, images, CONFIG.formats, residual)
    operand = golden.output if residual is None else residual_operand(layer, images)
    base = base_psum(layer, images) if layer.gated else golden.psum
    (plan, tiling, d), = binding.steps

    def tiled(values):
        """Values (N, Co, H, W) of each tile, (Co, images, pixels)."""
        found = []
        for part in tiling.parts():
            rows = slice(None) if layer.reduce else slice(part.first, part.first + part.rows)
            own = values[part.image:part.image + part.images, :, rows].swapaxes(0, 1)
            found.append(own.reshape(*own.shape[:2], -1))
        return found

    found = Activations(*map(tiled, (golden.output, golden.psum, golden.decision)),
                        score=None if layer.gate is None else tiled(golden.score))
    added = [job.operand is not None for job in plan.jobs]
    operands = Operands(d, tiled(operand), added, lane, pace)
    return await play_layer(dut, plan, d, binding.memory, found, tiled(base), operands, lane, pace)


async def play_layer(dut, plan, d, memory, golden, base, operands, lane, pace):
    gate = None if plan.layer.gate is None else plan.layer.gate.tolist()
    jobs = lane_jobs(CONFIG, d, lane, gate)
    channels = [job for job in jobs if not job.score]
    reader, loader = Reader(memory, pace), Loader(d, memory, pace)
    store = Store(channels, d, golden.output, pace)
    events, scored, spent = set(), set(), Counter()
    times = {"base": [], "conditional": [], "event": [], "done": [], "planes": []}
    ends, loaded = {}, (0, 0)  # cycle of each job's last event; progress of the loader
    status, driven, checked, now = {"tile": 0, "jobs": 0, "absent": 0}, {}, None, 0
    early = emitted_early(d, channels, golden, base)
    times["early"] = len(early)
    dut.u__lane.value = lane
    dut.u__layer.value = descriptor_bits(d)
    await RisingEdge(dut.clk)  # it is stable from the cycle before the start on
    while (store.places or checked or now < 40 + 40 * (not jobs)
           or min(loader.tile - loader.tiles, operands.tile - operands.tiles) < 0 and jobs):
        left = status["tile"] if jobs else d["tiles"]
        writes, progress = loader.inputs(now, left)
        if (progress["loaded_tile"], progress["loaded_plane"]) != loaded:
            loaded = progress["loaded_tile"], progress["loaded_plane"]
            times["planes"].append(now)
        added, operand_progress = operands.inputs(now, left)
        inputs = (reader.inputs(now) | writes | added | store.inputs(now, status)
                  | {"u__start": now == 0, "u__progress": progress_bits(
                      **progress, **operand_progress, stored_tile=store.stored)})
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
            event = unpack(EVENT, bits)
            if event["score"]:
                check_score(event, plan.layer, golden, d["slot_pixels"], scored)
            else:
                check_event(event, golden, d["slot_pixels"], events, early)
            ends[event["tile"], event["channel"], bool(event["score"])] = now
        before, status = status, status_of(int(dut.u__status.value)) if now else status
        if now and (before["tile"], before["jobs"]) != (status["tile"], status["jobs"]):
            times["done"].append(now)
        assert status["absent"] == (not jobs) or now == 0
        checked = store.reading
        store.step()
        await RisingEdge(dut.clk)
        now += 1
        assert now < 30_000
    assert not early
    for seen, kind in ((events, False), (scored, True)):
        assert seen == {(job.channel, job.tile, image * d["slot_pixels"] + n) for job in jobs
                        if job.score == kind
                        for image, n in np.ndindex(golden.decision[job.tile].shape[1:])}
    times["ends"] = [ends[job.tile, job.channel, job.score] for job in jobs]
    check_retirement(jobs, times)
    check_requests(plan, d, jobs, golden, reader)
    check_windows(plan, d, jobs, golden, spent)
    times["waited"] = check_runs(plan, d, jobs, golden, reader, times)
    return spent, times


def check_retirement(jobs, times):
    """Jobs retire in order, each in the cycle after its last output or decision, or after the job
    before; scores unseen."""
    retired = []
    for end in times["ends"]:
        retired.append(max([end, *retired[-1:]]) + 1)
    assert times["done"] == [time + REQUANTIZE_LATENCY
                             for job, time in zip(jobs, retired, strict=True) if not job.score]


def check_runs(plan, d, jobs, golden, reader, times):
    """No third job asks for conditional weights while those of a first one come; runs that had to
    wait because those of the job before were still being asked for."""
    asked, ended, waited, windows, requested, came = [], [], 0, 0, 0, 0
    for job in jobs if plan.layer.gated else []:
        paths, decision = plan.job(job.channel, job.score), golden.decision[job.tile][job.channel]
        begun, windows = windows, windows + len(paths.base) * decision.size
        if job.score or not decision.any():
            continue
        if plan.layer.gate is None:
            image = int(decision.any(axis=1).argmax())
            place = image * decision.shape[1] + np.flatnonzero(decision[image])[d["gate_limit"]]
            begun = windows - decision.size + place
        first = times["base"][begun] - 1 + decision_latency(CONFIG)
        waited += bool(asked) and first <= asked[-1]
        assert len(ended) < 2 or first >= ended[-2] + BLOCK_LATENCY
        requested += len(requests(CONFIG, job.conditional, len(paths.conditional)))
        came += len(paths.conditional)
        asked.append(reader.granted["cond"][requested - 1])
        ended.append(reader.blocks["cond"][came - 1])
    return waited


def emitted_early(d, jobs, golden, base):
    """Base psums of the pixels that are emitted as closed before the image has more open gates
    than the limit, or after a score, by (channel, tile, pixel)."""
    early, most = {}, d["gate_limit"] if golden.score is None else CONFIG.buffers.pixels
    for job in jobs:
        decision = golden.decision[job.tile][job.channel]
        order = decision.cumsum(axis=1) * decision
        early |= {(job.channel, job.tile, image * d["slot_pixels"] + n):
                  base[job.tile][job.channel, image, n]
                  for image, n in np.ndindex(order.shape)
                  if 0 < order[image, n] <= most}
    return early


def check_event(event, golden, slot_pixels, seen, early):
    """An event says what the golden model says, once, or before that what was known ``early``;
    each image begins a slot of pixels."""
    place = event["channel"], event["tile"], event["pixel"]
    assert place not in seen, f"{place} twice"
    if place in early:
        assert (event["psum"], event["decision"]) == (early.pop(place), 0), f"early {place}"
        return
    seen.add(place)
    at = event["channel"], *divmod(event["pixel"], slot_pixels)
    assert event["psum"] == golden.psum[event["tile"]][at], f"psum of {place}"
    assert event["decision"] == golden.decision[event["tile"]][at], f"decision of {place}"


def check_score(event, layer, golden, slot_pixels, seen):
    """An event of a score says what the golden model says, once."""
    place = event["channel"], event["tile"], event["pixel"]
    assert place not in seen, f"score {place} twice"
    seen.add(place)
    gate = int(layer.gate[event["channel"]])
    psum = golden.score[event["tile"]][gate, *divmod(event["pixel"], slot_pixels)]
    assert (event["psum"], event["decision"]) == (psum, psum > layer.threshold[gate]), f"{place}"


def opens(plan, job, golden):
    """Open pixels of a gated job; a score's are those of the jobs behind it."""
    if job.score or not plan.layer.gated:
        return 0
    return int(golden.decision[job.tile][job.channel].sum())


def check_requests(plan, d, jobs, golden, reader):
    """Base weights of every job, conditional ones of those that open a gate; no others."""
    base, cond = [], []
    for job in jobs:
        paths = plan.job(job.channel, job.score)
        base.append(Request(job.address, d["first_beats"], d["first_blocks"], True))
        base += requests(CONFIG, job.address + d["first_beats"] * CONFIG.bus.bytes,
                         len(paths.base) - d["first_blocks"])
        if opens(plan, job, golden):
            cond += requests(CONFIG, job.conditional, len(paths.conditional))
    for stream, wanted in (("base", base), ("cond", cond)):
        assert reader.taken[stream] == [(r.address, r.beats, r.header) for r in wanted]


def check_windows(plan, d, jobs, golden, spent):
    """Windows issued: the MACs of the gated network."""
    paths = [plan.job(job.channel, job.score) for job in jobs]
    windows = [tile["images"] * tile["out_pixels"] for tile in tiles_of(d)]
    assert spent["base"] == sum(windows[job.tile] * len(path.base)
                                for job, path in zip(jobs, paths, strict=True))
    assert spent["conditional"] == sum(len(path.conditional) * opens(plan, job, golden)
                                       for job, path in zip(jobs, paths, strict=True))


def one_layer(seed, tiles=3, closed=0.5, wanted=lambda layer: True, bands=1, channels=5, size=7,
              features=PLAIN, **kind):
    """A random layer of ``wanted`` kind in so many bands or more, and images for it.

    With mixed gates every channel has a tie, and about the share ``closed`` of its gates does not
    open. It has at most so many channel groups.
    """
    rng, layer = np.random.default_rng(seed), None
    limits = Limits(size=size, channels=channels * CONFIG.channels)
    while layer is None or not wanted(layer):
        network = random_network(rng, CONFIG, layers=1, limits=limits, features=features, **kind)
        layer = network.layers[0]
    while len(hwgate.compile(network, CONFIG).plans[0].bands) < bands:
        layer = replace(layer, in_shape=(layer.in_shape[0], layer.in_shape[1] + 8,
                                         layer.in_shape[2]))
        network = QuantizedNetwork(CONFIG, (layer,))
    images = random_images(rng, network, tiles)
    if layer.gated and kind.get("density") == "mixed":
        psums = np.moveaxis(base_psum(layer, images), 1, 0).reshape(len(layer.weight), -1)
        ties = np.sort(psums, axis=1)[:, int(psums.shape[1] * closed)]
        network = QuantizedNetwork(CONFIG, (replace(layer, threshold=ties),))
        assert (psums == ties[:, None]).any(axis=1).all()
    return network, images


def narrow(network, outputs=1, inputs=None):
    """The first output channels of the layer, of its first ``inputs`` input channels or of all."""
    layer = network.layers[0]
    fields = {name: getattr(layer, name)[:outputs] for name in ("bias", "mult", "shift")}
    fields |= {name: getattr(layer, name)[:outputs, :inputs] for name in ("weight", "base")}
    if layer.gated:
        fields["threshold"] = layer.threshold[:outputs]
    shape = fields["weight"].shape[1], *layer.in_shape[1:]
    return QuantizedNetwork(CONFIG, (replace(layer, in_shape=shape, **fields),))


def with_gates(network, opens):
    """Gates all open or all closed: those of the n-th job of a tile, of any lane, as ``opens``
    says, and over again."""
    layer = network.layers[0]
    kinds = [opens[n // CONFIG.lanes % len(opens)] for n in range(len(layer.weight))]
    limits = np.iinfo(np.int32)
    threshold = np.array([limits.min if kind else limits.max for kind in kinds], np.int64)
    return QuantizedNetwork(CONFIG, (replace(layer, threshold=threshold),))


def share(network, images, size, opens=(), closed=0.5):
    """Gates shared by so many channels that follow each other in a lane. Their scores, with the
    weights of their first channel, are all open or all closed, in turn as ``opens`` says; without
    it they have a tie, and close about the share ``closed`` of their pixels."""
    layer, lanes = network.layers[0], CONFIG.lanes
    gate = np.array([n // lanes // size * lanes + n % lanes for n in range(len(layer.weight))])
    _, first, gate = np.unique(gate, return_index=True, return_inverse=True)
    base = np.stack([layer.base[gate == n].any(axis=0) for n in range(len(first))])
    score = layer.weight[first] * base[:, :, None, None]
    limits = np.iinfo(np.int32)
    threshold = np.full(len(first), limits.max, np.int64)
    layer = replace(layer, gate=gate, score=score.astype(np.int8), threshold=threshold)
    for n in range(len(first)):
        if opens:
            threshold[n] = limits.min if opens[n // lanes % len(opens)] else limits.max
        else:
            psums = np.sort(run_layer(layer, images, CONFIG.formats, images).score[:, n].ravel())
            threshold[n] = psums[int(psums.size * closed)]
    return QuantizedNetwork(CONFIG, (layer,))


def a_lane(network):
    return random.randrange(min(CONFIG.lanes, len(network.layers[0].weight)))


def adding(seed, lane, **kind):
    """A random layer with a residual that changes outputs of a lane, and otherwise if the first
    product is clamped at zero; and images."""
    def wanted(layer):
        return layer.residual is not None and not layer.relu_first

    while True:
        seed += 100
        network, images = one_layer(seed, wanted=wanted, channels=3, density="mixed", reduce=False,
                                    features=Features(stride=True, residual=True), **kind)
        layer = network.layers[0]
        plain = replace(layer, residual=None, mult_residual=None)
        kinds = {run_layer(one, images, CONFIG.formats, images).output[:, lane::CONFIG.lanes]
                 .tobytes() for one in (layer, replace(layer, relu_first=True), plain)}
        if len(kinds) == 3:
            return network, images


async def begin(dut):
    for name in ("start", "header_valid", "base_valid", "cond_valid", "write", "residual_write",
                 "base__ready", "cond__ready", "progress"):
        getattr(dut, f"u__{name}").value = 0
    await start(dut)


PACES = {"at_once": Pace(), "any": Pace(10, 4, 2, 2, 5), "slow_weights": Pace(40, 30),
         "slow_windows": Pace(window=30), "slow_operands": Pace(operand=200),
         "slow_store": Pace(begin=4000)}


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
    for seed in range(repeats(8)):
        network, images = one_layer(seed, tiles=1, closed=0.8, gated=True, density="mixed",
                                    reduce=False)
        spent, times = await play(dut, narrow(network), images, 0, PACES["at_once"])
        last_decision = times["base"][-1] - 1 + decision_latency(CONFIG)
        beside += bool(times["conditional"]) and times["conditional"][0] < last_decision
        assert spent["gate"] > 0
    assert beside > 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def jobs_that_end_before_others(dut):
    """Closed jobs beside open ones, in tiles of one pixel and of more: a job without conditional
    path overtakes the one before it, and retires after it."""
    await begin(dut)
    overtaken = 0
    for seed, pixels in enumerate((1, 1, 4)):
        network, images = one_layer(
            seed, tiles=3, size=4, gated=True, reduce=False, features=Features(stride=True),
            wanted=lambda layer, pixels=pixels: (np.prod(layer.conv_shape[1:]) == pixels
                                                 and len(layer.weight) > 2 * CONFIG.lanes))
        for opens in product((True, False), repeat=3):
            for pace in ("at_once", "any"):
                _, times = await play(dut, with_gates(network, opens), images, 0, PACES[pace])
                overtaken += sum(after < before for before, after in pairwise(times["ends"]))
    assert overtaken > 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def gates_of_slices(dut):
    """Scores before each channel, two channels, all: each outcome of a score after each, on one
    pixel and on more; ties; a last tile of fewer images."""
    await begin(dut)
    conditional, jumped = Counter(), 0
    for seed, pixels in enumerate((1, 4, None)):
        def wanted(layer, pixels=pixels):
            found = np.prod(layer.conv_shape[1:])
            return (found == pixels or pixels is None and found > 9) and (
                len(layer.weight) > 3 * CONFIG.lanes)
        network, images = one_layer(seed, tiles=3, size=5, gated=True, reduce=False, channels=6,
                                    density="open", features=Features(stride=True), wanted=wanted)
        for size in (1, 2, 100):
            for opens in ((), *product((True, False), repeat=2)):
                one = share(network, images, size, opens)
                for pace, per_tile in (("at_once", 1), ("any", 2)):
                    spent, times = await play(dut, one, images, a_lane(one), PACES[pace], per_tile)
                    conditional[opens] += spent["conditional"]
                    jumped += sum(after < before for before, after in pairwise(times["ends"]))
    assert all(conditional[opens] > 0 for opens in conditional if opens != (False, False))
    assert conditional[False, False] == 0 < jumped


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def slices_of_any_layer(dut):
    """With tau, residual operands, kernels of one, nine and more taps, bands of rows, and slow
    weights."""
    await begin(dut)
    features = Features(stride=True, pointwise=True, kernels=(5,), residual=True)
    for seed, (kernel, adds, bands) in enumerate(((3, True, 1), (1, False, 1), (5, False, 1),
                                                  (3, True, 3))):
        def wanted(layer, kernel=kernel, adds=adds, bands=bands):
            kind = layer.kernel, layer.residual is not None
            same = layer.padding == kernel // 2 and layer.pool == 1 and (
                layer.residual_stride == layer.stride)
            return layer.gated and kind == (kernel, adds) and min(layer.conv_shape[1:]) > 1 and (
                bands == 1 or same)
        network, images = one_layer(seed, tiles=3, channels=12 if kernel == 1 else 3, size=5,
                                    wanted=wanted, features=features, gated=True, bands=bands,
                                    density="open", reduce=False)
        for size in (1, 3):
            one = share(network, images, size, closed=0.7)
            opened = run_layer(one.layers[0], images, CONFIG.formats, images).decision
            few = int(np.median(opened.sum(axis=(2, 3))))
            limited = QuantizedNetwork(CONFIG, (replace(one.layers[0], limit=max(1, few)),))
            for pace in ("at_once", "any", "slow_weights") if bands == 1 else ("any",):
                await play(dut, one, images, a_lane(one), PACES[pace], 2)
                if bands == 1:
                    await play(dut, limited, images, a_lane(one), PACES[pace], 2)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def one_job_a_tile(dut):
    """The lane's jobs alternate between tiles; and a single job."""
    await begin(dut)
    for seed in range(4):
        for tiles in (1, 5):
            network, images = one_layer(seed, tiles=tiles, gated=True, density="mixed",
                                        reduce=False)
            for pace in ("at_once", "any", "slow_store"):
                await play(dut, narrow(network), images, 0, PACES[pace])


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def conditional_weights_in_turn(dut):
    """A job opens its first gate while the weights of the one before are still being asked for:
    more than the queue holds, and grants that come late."""
    await begin(dut)
    waited = 0
    for kernel in (3, 7):
        def wanted(layer, kernel=kernel):
            return layer.kernel == kernel and len(layer.weight) > 2 * CONFIG.lanes
        network, images = one_layer(kernel, tiles=2, size=4, wanted=wanted, gated=True,
                                    reduce=False, density="open",
                                    features=Features(kernels=(7,)))
        for opens in ((True,), (True, True, False)):
            for pace in (PACES["at_once"], Pace(grant=60), PACES["slow_weights"]):
                _, times = await play(dut, with_gates(network, opens), images, 0, pace)
                waited += times["waited"]
    assert waited > 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def base_passes_follow_the_loader(dut):
    """The first rows are computed while the last ones of the plane come, one job or another; not
    so in bank mode, which reads whole planes."""
    await begin(dut)
    for kernel in (3, 5, 1):
        def wanted(layer, kernel=kernel):
            return layer.kernel == kernel and layer.in_shape[1] > kernel
        network, images = one_layer(kernel, tiles=2, channels=12 if kernel == 1 else 3,
                                    wanted=wanted, reduce=False, gated=False,
                                    features=Features(pointwise=True, kernels=(5,)))
        spent, times = await play(dut, network, images, 0, PACES["slow_windows"])
        (plan, _, d), = hwgate.compile(network, CONFIG).bind(images).steps
        reads = plan.jobs[0].base[0]
        whole = times["planes"][reads if kernel > 1 else
                                min(9 * reads + 9, d["in_planes"]) - 1]
        assert spent["windows"] > 0
        assert (times["base"][0] < whole) == (kernel > 1)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def any_neighbour_is_the_slow_one(dut):
    """The same outputs whoever is slow, and the wait has its name."""
    await begin(dut)
    names = {"slow_weights": "weights", "slow_windows": "windows", "slow_operands": "windows",
             "slow_store": "output"}
    network, images = adding(7, 0, gated=True)
    for name, pace in PACES.items():
        spent, _ = await play(dut, network, images, 0, pace)
        if name in names:
            waits = {reason: spent[reason] for reason in names.values()}
            assert max(waits, key=waits.get) == names[name], (name, spent)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def residual_operands(dut):
    """Early and late ones, with ReLU before and after them; gated and not."""
    await begin(dut)
    for seed, gated in enumerate((False, True)):
        lane = CONFIG.lanes - 1
        network, images = adding(seed, lane, gated=gated)
        layer = network.layers[0]
        assert layer.gated == gated
        for relu_first in (False, True):
            one = QuantizedNetwork(CONFIG, (replace(layer, relu_first=relu_first),))
            for pace in ("any", "slow_operands", "slow_weights"):
                await play(dut, one, images, lane, PACES[pace])


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def kernels_and_strides(dut):
    """Kernels of one, nine taps and several blocks, at both strides; base and conditional."""
    await begin(dut)
    features = Features(stride=True, pointwise=True, kernels=(5, 7))
    for kernel in (1, 3, 5, 7):
        for stride in (1, 2):
            def wanted(layer, kernel=kernel, stride=stride):
                kind, pixels = (layer.kernel, layer.stride), layer.conv_shape[1:]
                return layer.gated and kind == (kernel, stride) and min(pixels) > 1
            network, images = one_layer(
                kernel, tiles=2, channels=12 if kernel == 1 else 3, wanted=wanted,
                features=features, gated=True, density="mixed", reduce=False)
            spent, _ = await play(dut, narrow(network, CONFIG.lanes + 1), images, 0, PACES["any"])
            assert spent["conditional"] > 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def bands_of_rows(dut):
    """The first band, one in the middle and the last one have padding of their own."""
    await begin(dut)
    features = Features(stride=True, kernels=(5,), residual=True)
    for residual, kernel in ((True, 3), (False, 5)):
        def wanted(layer, residual=residual, kernel=kernel):
            same = layer.padding == kernel // 2 and layer.pool == 1
            added = layer.residual is not None and layer.residual_stride == layer.stride
            return layer.kernel == kernel and same and added == residual
        network, images = one_layer(kernel, tiles=1 + CONFIG.lanes // 2, wanted=wanted, bands=3,
                                    channels=2, gated=True, density="mixed", reduce=False,
                                    features=features)
        layer, (step,) = network.layers[0], hwgate.compile(network, CONFIG).bind(images).steps
        assert {tile["pad_top"] == layer.padding for tile in tiles_of(step.descriptor)} == {
            True, False}
        await play(dut, network, images, a_lane(network), PACES["any"])


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def images_of_a_tile(dut):
    """They share the weights and the task list, and nothing else; the last tile has fewer."""
    await begin(dut)
    features = Features(stride=True, pointwise=True, residual=True)
    for seed, kernel, adds in ((0, 3, False), (1, 3, True), (2, 1, False)):
        def wanted(layer, kernel=kernel, adds=adds):
            kind = layer.gated, layer.kernel, layer.residual is not None
            return kind == (True, kernel, adds) and min(layer.conv_shape[1:]) > 1
        network, images = one_layer(seed, tiles=5, channels=12 if kernel == 1 else 3, size=5,
                                    wanted=wanted, features=features, gated=True,
                                    density="mixed", reduce=False)
        for per_tile in (2, 5):
            spent, _ = await play(dut, network, images, a_lane(network), PACES["any"], per_tile)
            assert spent["conditional"] > 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def images_with_few_open_gates(dut):
    """With a limit of as many open gates as some channel has on some image: images close again
    beside others of their tile that do not, whole tiles close, and the first pixels of an open
    image are emitted twice; also with a residual, and in tiles of one pixel."""
    await begin(dut)
    early, counts = 0, Counter()
    for seed, kind in enumerate((3, 1, "residual", "pixel")):
        def wanted(layer, kind=kind):
            kernel, pixels = 1 if kind == 1 else 3, np.prod(layer.conv_shape[1:])
            return (layer.kernel, layer.residual is not None, pixels == 1) == (
                kernel, kind == "residual", kind == "pixel") and layer.gated
        network, images = one_layer(
            seed, tiles=5, channels=12 if kind == 1 else 3, size=5, wanted=wanted, gated=True,
            features=Features(stride=True, pointwise=True, residual=True), density="mixed",
            reduce=False)
        lane, layer = a_lane(network), network.layers[0]
        opened = run_layer(layer, images, CONFIG.formats, images).decision.sum(axis=(2, 3))
        for limit in sorted({1, int(np.median(opened)), int(opened.max()) - 1} - {0}):
            one = QuantizedNetwork(CONFIG, (replace(layer, limit=limit),))
            for pace, per_tile in (("any", 1), ("at_once", 2), ("slow_weights", 5)):
                spent, times = await play(dut, one, images, lane, PACES[pace], per_tile)
                early += times["early"]
                counts[kind] += spent["conditional"]
                mine = opened[:per_tile, lane::CONFIG.lanes]
                counts["beside"] += ((mine > limit).any(axis=0) & (
                    (mine > 0) & (mine <= limit)).any(axis=0)).sum()
                counts["closed"] += ((mine > 0).any(axis=0) & (mine <= limit).all(axis=0)).sum()
    assert early > 0 and all(counts[kind] for kind in (3, 1, "residual", "beside", "closed"))


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def reduced_layers(dut):
    """Folded average pooling: one output for all pixels of an image, in bank mode."""
    await begin(dut)
    for seed in range(3):
        network, images = one_layer(seed, reduce=True)
        for per_tile in (1, 2, 3):
            await play(dut, network, images, a_lane(network), PACES["any"], per_tile)


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
    begun = times["base"][0] - 2  # a pass starts two cycles before its first window is told of
    assert times["event"][0] == begun + decision_latency(CONFIG)
    assert times["event"] == [time - times["base"][0] + times["event"][0]
                              for time in times["base"]]
    assert times["done"] == [times["event"][-1] + REQUANTIZE_LATENCY + 1]
