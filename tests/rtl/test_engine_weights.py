"""The whole accelerator with weights that stay on chip while tiles stream: bits, cycles, bytes."""

from dataclasses import replace

import numpy as np
import pytest

import hwgate
from hwgate.machine.config import MemoryTiming
from hwgate.machine.layouts import descriptor_layout, header_layout
from hwgate.machine.regs import ErrorCause
from hwgate.quant.layer import QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.comparison import compare
from hwgate.sim.engine import run_engine
from hwgate.sim.records import Start
from support.engine_cases import TIMINGS
from support.random_layers import random_images
from support.residency_cases import PLAIN, SMALL, banded_network, many_layers
from support.shares import rest_slow


def assert_equal(program, images, timing=MemoryTiming()):
    """RTL, golden and cost model; returns what the RTL did."""
    result = hwgate.simulate(program, images, timing)
    comparison = compare(result, hwgate.estimate(program, images, timing))
    assert comparison.equal, comparison.describe()
    return result


def descriptor(program, images, index):
    return program.bind(images).steps[index].descriptor


def weight_bytes(config, program, images, index, opened):
    """(base, conditional) bytes on the bus of a layer, counted channel by channel.

    ``opened`` (tiles, Co): in which tiles a gate of a channel opens.
    """
    plan, beat, block = program.plans[index], config.bus.bytes, config.block_bytes
    kept, totals = descriptor(program, images, index)["kept_channels"], [0, 0]
    for channel, job in enumerate(plan.jobs):
        first = plan.fields["first_blocks"]
        parts = [first * block + header_layout(config).size_bytes]
        for run, path in (((len(job.base) - first), parts), (len(job.conditional), rest := [])):
            path += [min(config.request_blocks, run - at) * block
                     for at in range(0, run, config.request_blocks)]
        times = len(opened), opened[:, channel].sum()
        for n, (path, count) in enumerate(zip((parts, rest), times, strict=True)):
            size = sum(-(-part // beat) * beat for part in path)
            totals[n] += size * (min(count, 1) if channel < kept else count)
    return tuple(totals)


def tiles_opened(program, images, index, decision):
    """(tiles, Co) of a layer."""
    return np.array([
        decision[part.image:part.image + part.images, :,
                 part.first:part.first + part.rows].any(axis=(0, 2, 3))
        for part in program.bind(images).steps[index].tiling.parts()])


def assert_bytes(program, images, result):
    """Each weight beat that has a place on chip crossed the bus once, whatever the tiles."""
    for index, layer in enumerate(result.layers):
        decision = layer.activations.decision
        opened = (tiles_opened(program, images, index, decision) if layer.gated else
                  np.zeros((descriptor(program, images, index)["tiles"], decision.shape[1]), bool))
        assert (layer.bytes["base"], layer.bytes["conditional"]) == weight_bytes(
            program.config, program, images, index, opened), layer.name


@pytest.mark.parametrize("timing", rest_slow({str(t): t for t in TIMINGS}, quick=2))
def test_random_networks_match(timing):
    seen = set()
    for seed in (1, 4, 5, 11):
        network = many_layers(seed, SMALL)
        images = random_images(np.random.default_rng(seed), network, 1 + 2 * (seed % 3))
        program = hwgate.compile(network, images_per_tile=1 if seed % 2 else None)
        result = assert_equal(program, images, timing)
        assert_bytes(program, images, result)
        for index, plan in enumerate(program.plans):
            d = descriptor(program, images, index)
            share = d["kept_channels"] / d["out_channels"]
            seen.add((plan.layer.gated, "none" if not share else "all" if share == 1 else "some"))
    assert {(True, "all"), (True, "some"), (False, "none")} <= seen


@pytest.mark.parametrize("count", [1, 3])
def test_bands_of_rows_read_weights_once(count):
    network = banded_network(SMALL)
    images = random_images(np.random.default_rng(1), network, count)
    program, timing = hwgate.compile(network), MemoryTiming(beat_interval=16)
    result = assert_equal(program, images, timing)
    assert_bytes(program, images, result)
    assert all(0 < layer.density < 1 for layer in result.layers)
    plain = hwgate.estimate(hwgate.compile(replace(network, config=PLAIN)), images, timing)
    for index, (layer, before) in enumerate(zip(result.layers, plain.layers, strict=True)):
        fields = descriptor(program, images, index)
        tiles = fields["tiles"]
        assert tiles == 4 * count and fields["kept_channels"] == 8
        assert layer.bytes["base"] * tiles == before.bytes["base"]
        assert layer.bytes["conditional"] < before.bytes["conditional"]
        assert layer.cycles < before.cycles


def steps_network(config, channels=8):
    """One gated layer of ones; channel c opens exactly where the base pixel is above 10 c."""
    base = np.zeros((channels, channels), bool)
    base[:, :config.channels] = True
    weight = np.zeros((channels, channels, 3, 3), np.int8)
    weight[:, 0, 1, 1] = 1
    weight[:, config.channels, 1, 1] = np.arange(channels) - 3
    layer = QuantizedLayer(
        "steps", weight, base, 10 * np.arange(channels), np.zeros((channels, 2), np.int64),
        np.full((channels, 2), 1 << 9), np.full(channels, 9), in_shape=(channels, 6, 6), padding=1)
    return QuantizedNetwork(config, (layer,))


@pytest.mark.parametrize("timing", rest_slow({str(t): t for t in (
    MemoryTiming(), MemoryTiming(read_latency=2),
    MemoryTiming(read_latency=100, beat_interval=3))}))
@pytest.mark.parametrize("channels", [8, 20])
def test_conditional_weights_come_with_the_first_tile_that_asks(channels, timing):
    """Image after image, more and fewer channels open; each channel's weights come once. Of 20
    channels not all are kept, and the last ones never open."""
    network, levels = steps_network(SMALL, channels), (5, 0, 35, 15, 0, 75, 79, 2)
    images = np.zeros((len(levels), channels, 6, 6), np.int8)
    for image, level in zip(images, levels, strict=True):
        image[0, 3, 2] = level  # one pixel asks
        image[4:] = 3
    program = hwgate.compile(network, images_per_tile=1)
    result = assert_equal(program, images, timing)
    opened = tiles_opened(program, images, 0, result.layers[0].activations.decision)
    assert opened.tolist() == [[level > 10 * c for c in range(channels)] for level in levels]
    assert_bytes(program, images, result)
    if channels == 8:
        one = program.plans[0].chunks(1, SMALL)[0][1] * SMALL.bus.bytes
        assert result.layers[0].bytes["conditional"] == 8 * one < opened.sum() * one


def starts_of(program, images):
    binding = program.bind(images)
    return binding, Start(program_address=binding.program_address, memory=binding.memory)


def test_a_run_meets_weights_of_another():
    """Two programs of one layout with different weights take turns; one stops in mid-layer."""
    networks = [banded_network(SMALL, seed=seed) for seed in range(2)]
    images = random_images(np.random.default_rng(1), networks[0], 2)
    pairs = [starts_of(hwgate.compile(network), images) for network in networks]
    (first, one), (second, two) = pairs
    assert first.steps[0].descriptor["weights_address"] == (
        second.steps[0].descriptor["weights_address"])
    layout, size, rng = descriptor_layout(), first.memory.size, np.random.default_rng(5)
    starts = [one, two]
    for _ in range(20):
        # Weights end at a random beat of a layer.
        step = int(rng.integers(len(first.steps)))
        plan, _, fields = first.steps[step]
        beat = SMALL.bus.bytes
        left = beat * int(rng.integers((len(plan.stream) - fields["job_stride"]) // beat + 1))
        memory = np.concatenate([first.memory, np.zeros(size, np.uint8)])
        memory[2 * size - left:] = np.frombuffer(plan.stream[:left], np.uint8)
        raw = layout.pack({**fields, "weights_address": 2 * size - left})
        memory[step * len(raw):(step + 1) * len(raw)] = np.frombuffer(raw, np.uint8)
        starts += [replace(one, memory=memory), two, one]
    outcomes = run_engine(SMALL, starts, memory_bytes=2 * size,
                          timing=MemoryTiming(read_latency=2))
    for binding, outcome, network in zip((first, second), outcomes, networks, strict=False):
        assert outcome.status.error is ErrorCause.NONE
        assert np.array_equal(binding.read_output(outcome.memory, 4), network.run(images)[4].output)
    for bad, other, again in zip(outcomes[2::3], outcomes[3::3], outcomes[4::3], strict=True):
        assert bad.status.error is ErrorCause.READ and not bad.late
        for now, before in ((again, outcomes[0]), (other, outcomes[1])):
            assert now.counters == before.counters
            assert np.array_equal(now.events, before.events)
            assert np.array_equal(now.memory[:size], before.memory[:size])


def test_one_tile_keeps_nothing():
    network = steps_network(SMALL)
    program = hwgate.compile(network)
    assert descriptor(program, np.zeros((1, 8, 6, 6), np.int8), 0)["kept_channels"] == 0
    assert descriptor(program, np.zeros((9, 8, 6, 6), np.int8), 0)["kept_channels"] == 8
