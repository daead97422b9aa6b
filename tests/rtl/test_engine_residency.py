"""The whole accelerator with feature maps that stay on chip: bits, cycles, bytes, counters."""

from dataclasses import replace

import numpy as np
import pytest

import hwgate
from hwgate.machine.config import AcceleratorConfig, BufferConfig, BusConfig, MemoryTiming
from hwgate.machine.layouts import descriptor_layout
from hwgate.machine.regs import ErrorCause
from hwgate.results.comparison import compare
from hwgate.sim.engine import run_engine
from hwgate.sim.records import Start
from support.engine_cases import TIMINGS
from support.random_layers import random_images
from support.residency_cases import SMALL, banded_network, many_layers

NARROW = AcceleratorConfig(lanes=8, bus=BusConfig(data_bits=64),
                           buffers=BufferConfig(map_bytes=1 << 13))


def flags(program, images):
    """(prefix, on chip, in bands) of every map of every descriptor."""
    binding = program.bind(images)
    return {(prefix, bool(d[f"{prefix}_chip"]), len(plan.bands) > 1)
            for plan, _, d in binding.steps
            for prefix in ("in", "out", *(("res",) if d["res_planes"] else ()))}


@pytest.mark.parametrize("config", [
    SMALL, pytest.param(NARROW, marks=pytest.mark.slow)], ids=["4x36", "8x36narrow"])
def test_random_networks_match(config):
    seen = set()
    for seed in range(8):
        network = many_layers(seed, config)
        images = random_images(np.random.default_rng(seed), network, 1 + seed % 3)
        program, timing = hwgate.compile(network), TIMINGS[seed % len(TIMINGS)]
        comparison = compare(hwgate.simulate(program, images, timing),
                             hwgate.estimate(program, images, timing))
        assert comparison.equal, (seed, comparison.describe())
        seen |= flags(program, images)
    assert {(prefix, on, False) for prefix in ("in", "res", "out") for on in (True, False)} <= seen


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("timing", TIMINGS[:7:2], ids=["fast", "slow", "narrow", "shared"])
def test_bands_of_rows_match(images, timing):
    """One image's maps all stay; of two images' there is room for some."""
    network = banded_network(SMALL)
    program = hwgate.compile(network)
    assert {len(plan.bands) for plan in program.plans} == {4}
    batch = random_images(np.random.default_rng(1), network, images)
    result = hwgate.simulate(program, batch, timing)
    comparison = compare(result, hwgate.estimate(program, batch, timing))
    assert comparison.equal, comparison.describe()
    decided = [layer.activations.decision.mean() for layer in result.layers]
    assert all(0 < share < 1 for share in decided)
    assert (flags(program, batch) >= {(prefix, True, True) for prefix in ("in", "res", "out")}
            or images > 1)
    assert len(program.bind(batch).chip) == (4 if images == 1 else 3)


def test_a_run_meets_a_memory_that_others_have_used():
    """What earlier runs left on chip changes nothing, nor does a run without maps on chip."""
    network = many_layers(1, SMALL)
    images = random_images(np.random.default_rng(0), network, 2)
    program = hwgate.compile(network)
    starts = []
    for batch in (images, images[::-1].copy(), images):
        binding = program.bind(batch)
        starts.append(Start(program_address=binding.program_address, memory=binding.memory))
    first, other, again = run_engine(SMALL, starts)
    assert first.chip.size and not np.array_equal(first.chip, other.chip)
    assert np.array_equal(first.chip, again.chip)
    assert np.array_equal(first.memory, again.memory)
    assert first.counters == again.counters


def test_what_is_written_on_chip_is_what_lies_off_chip_otherwise():
    from hwgate.compiler.program import Binding

    network = many_layers(4, SMALL)
    images = random_images(np.random.default_rng(0), network, 2)
    program = hwgate.compile(network)
    bindings = [program.bind(images), Binding(program, images, chip={})]
    outcomes = run_engine(SMALL, [Start(program_address=b.program_address, memory=b.memory)
                                  for b in bindings])
    assert bindings[0].chip and outcomes[0].chip.size and not outcomes[1].chip.size
    for index, golden in enumerate(network.run(images)):
        for binding, outcome in zip(bindings, outcomes, strict=True):
            assert np.array_equal(binding.read_output(outcome.memory, index, outcome.chip),
                                  golden.output)


@pytest.mark.slow  # in test_engine_weights maps move while weights end, on two lanes
def test_errors_while_maps_move_leave_no_trace():
    """Weights end at a random beat of any layer, while maps are read and written on chip.

    With one lane the store takes longer than the bus, and may be cut off in the middle of a map.
    """
    config = replace(SMALL, lanes=1)
    network, rng = banded_network(config), np.random.default_rng(2)
    images = random_images(rng, network, 2)
    binding = hwgate.compile(network).bind(images)
    layout, size, beat = descriptor_layout(), binding.memory.size, config.bus.bytes
    good = Start(program_address=binding.program_address, memory=binding.memory)
    starts = [good]
    for _ in range(50):
        step = int(rng.integers(len(binding.steps)))
        plan, _, fields = binding.steps[step]
        left = beat * int(rng.integers((len(plan.stream) - fields["job_stride"]) // beat + 1))
        memory = np.concatenate([binding.memory, np.zeros(size, np.uint8)])
        memory[2 * size - left:] = np.frombuffer(plan.stream[:left], np.uint8)
        raw = layout.pack({**fields, "weights_address": 2 * size - left})
        memory[step * len(raw):(step + 1) * len(raw)] = np.frombuffer(raw, np.uint8)
        starts += [replace(good, memory=memory), good]
    reference, *outcomes = run_engine(config, starts, memory_bytes=2 * size,
                                       timing=MemoryTiming(read_latency=2))
    assert reference.status.error is ErrorCause.NONE and reference.chip.size
    for bad, again in zip(outcomes[::2], outcomes[1::2], strict=True):
        assert bad.status.error is ErrorCause.READ and not bad.late
        assert again.counters == reference.counters
        assert np.array_equal(again.events, reference.events)
        assert np.array_equal(again.chip, reference.chip)
        assert np.array_equal(again.memory[:size], reference.memory[:size])
