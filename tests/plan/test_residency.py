"""Placement of feature maps in the on-chip map memory, and what the compiler makes of it."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hwgate
from hwgate.compiler.packing import pack_maps
from hwgate.compiler.program import Binding
from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig, BufferConfig, ConfigError
from hwgate.plan.geometry import map_bytes
from hwgate.plan.residency import Lifetime, maps_of, place, places, region_bytes, uses
from hwgate.quant.layer import IMAGE
from support.random_layers import random_images
from support.residency_cases import joining_network, many_layers


@st.composite
def lifetimes(draw, most=9):
    """Maps of up to ``most`` layers: main path and residuals."""
    maps = []
    for step in range(draw(st.integers(1, most))):
        size = draw(st.integers(1, 40))
        maps.append(Lifetime(size=size, first=step, last=step + draw(st.integers(1, 4)),
                             saved=size * draw(st.integers(2, 4))))
    return maps


def saved(maps, offsets):
    return sum(m.saved for m, offset in zip(maps, offsets, strict=True) if offset is not None)


def apart(maps, offsets):
    """No two maps are in the same bytes in the same step."""
    placed = [(m, offset) for m, offset in zip(maps, offsets, strict=True) if offset is not None]
    return all(a is b or a.last < b.first or b.last < a.first
               or at + a.size <= other or other + b.size <= at
               for a, at in placed for b, other in placed)


@given(lifetimes(), st.integers(0, 100))
def test_maps_never_overlap_and_never_leave_the_memory(maps, capacity):
    offsets = place(maps, capacity)
    assert apart(maps, offsets)
    assert all(0 <= offset <= capacity - m.size
               for m, offset in zip(maps, offsets, strict=True) if offset is not None)


@given(lifetimes(), st.integers(1, 100))
def test_more_memory_never_saves_less(maps, capacity):
    savings = [saved(maps, place(maps, capacity << doubled)) for doubled in range(4)]
    assert savings == sorted(savings)
    everything = sum(m.size for m in maps)
    assert saved(maps, place(maps, everything)) == sum(m.saved for m in maps)


@settings(max_examples=40, deadline=None)
@given(lifetimes(most=5), st.integers(1, 12))
def test_nothing_better_exists_in_small_networks(maps, capacity):
    """Against every choice of offsets."""
    maps = [replace(m, size=1 + m.size % 6) for m in maps]
    best = max(saved(maps, offsets) for offsets in product(
        *([None, *range(capacity - m.size + 1)] for m in maps)) if apart(maps, offsets))
    assert saved(maps, place(maps, capacity)) == best


def test_places_in_a_residual_network():
    """Blocks of two layers: the shortcut outlives the map between them, and each fits a third."""
    maps = [Lifetime(size=4, first=n, last=n + (2 if n % 2 == 0 else 1), saved=8 + 4 * (n % 2 == 0))
            for n in range(12)]
    assert None not in place(maps, 12)
    assert None in place(maps, 11)
    assert place(maps, 0) == place(maps, 3) == [None] * 12


def many(config, seed=0):
    network = many_layers(seed, config)
    return network, random_images(np.random.default_rng(seed), network, 2)


@pytest.mark.parametrize("seed", range(8))
def test_descriptors_of_maps_on_chip(seed):
    config = AcceleratorConfig(buffers=BufferConfig(map_bytes=1 << 12))
    network, images = many(config, seed=seed)
    program = hwgate.compile(network)
    binding, plain = program.bind(images), Binding(program, images, chip={})
    last = len(program.plans) - 1
    assert binding.chip and last not in binding.chip and not plain.chip
    for index, ((_, _, d), (_, _, off)) in enumerate(zip(binding.steps, plain.steps, strict=True)):
        for prefix, use in uses(network, index).items():
            address, off_address = d[f"{prefix}_address"], off[f"{prefix}_address"]
            assert d[f"{prefix}_chip"] == (use in binding.chip) and not off[f"{prefix}_chip"]
            if use in binding.chip:
                size = len(images) * region_bytes(network, config, use)
                assert binding.chip[use] <= address < binding.chip[use] + size
                assert binding.chip[use] + size <= config.buffers.map_bytes
            else:
                assert address == off_address
    for result in (hwgate.estimate(program, images),):
        for layer, index in zip(result.layers, range(last + 1), strict=True):
            kept = {prefix: use in binding.chip for prefix, use in uses(network, index).items()}
            assert (layer.bytes["windows"] == 0) == kept["in"]
            assert (layer.bytes["output"] == 0) == kept["out"]
            assert layer.bytes["residual"] == 0 or not kept["res"]


def test_bytes_saved_are_those_of_the_lifetimes():
    config = AcceleratorConfig(buffers=BufferConfig(map_bytes=1 << 13))
    network, images = many(config, seed=3)
    program = hwgate.compile(network)
    binding = program.bind(images)
    without = hwgate.compile(replace(network, config=replace(config, buffers=BufferConfig())))
    kept, plain = (hwgate.estimate(p, images) for p in (program, without))
    lives = binding.lifetimes()
    assert binding.chip
    assert (sum(layer.bytes_total for layer in plain.layers)
            - sum(layer.bytes_total for layer in kept.layers)
            == sum(lives[index].saved for index in binding.chip))
    assert "map memory" in kept.energy and "map memory" not in plain.energy
    assert kept.energy["off-chip"] < plain.energy["off-chip"]


def test_outputs_on_chip_are_read_from_what_was_written():
    config = AcceleratorConfig(buffers=BufferConfig(map_bytes=1 << 12))
    network, images = many(config)
    binding = hwgate.compile(network).bind(images)
    index = min(binding.chip)
    name = network.layers[index].name
    with pytest.raises(UserError, match=f"^The output of layer '{name}' stays on chip; only a "
                                        f"simulation can tell what it is$"):
        binding.read_output(binding.memory, index)


def test_places_of_maps_side_by_side():
    """One behind the other in one region, in the order in which a layer takes them."""
    config = AcceleratorConfig()
    network = joining_network(config, image=True)
    left, right, image = (map_bytes(config, network.shape(n)) for n in (1, 2, IMAGE))
    assert (left, right, image) == (512, 256, 256)
    assert places(network, config, 3) == {
        0: (0, 0), 1: (1, 0), 2: (1, 3 * left), IMAGE: (1, 3 * (left + right)), 3: (3, 0),
        4: (4, 0)}
    assert region_bytes(network, config, 1) == left + right + image
    assert region_bytes(network, config, 3) == 512
    assert [uses(network, n) for n in (0, 2, 3)] == [
        {"in": 1, "out": 0}, {"in": 0, "out": 1}, {"in": 1, "out": 3}]
    assert [maps_of(network, n) for n in (0, 2, 3)] == [
        {"in": IMAGE, "out": 0}, {"in": 0, "out": 2}, {"in": 1, "out": 3}]


def test_maps_side_by_side_live_together():
    """From the step that writes the first one to the step that reads any of them last."""
    config = AcceleratorConfig(buffers=BufferConfig(map_bytes=1 << 12))
    made = joining_network(config)
    last = replace(made.layers[4], residual=2, mult_residual=np.full(4, 1 << 8))
    network = replace(made, layers=(*made.layers[:4], last))
    images = random_images(np.random.default_rng(0), network, 2)
    binding = hwgate.compile(network).bind(images)
    lives = binding.lifetimes()
    assert {region: (life.first, life.last) for region, life in lives.items()} == {
        0: (0, 2), 1: (1, 4), 3: (3, 4)}
    assert lives[1].size == 2 * region_bytes(network, config, 1)
    # Both written, both read as one input, and the second one once more as a residual.
    assert lives[1].saved == 2 * (512 + 256) * 2 + 2 * 256
    assert set(binding.chip) == {0, 1, 3}
    steps = [step.descriptor for step in binding.steps]
    assert steps[1]["out_address"] == binding.chip[1] == steps[3]["in_address"]
    assert steps[2]["out_address"] == binding.chip[1] + 2 * 512 == steps[4]["res_address"]
    assert not any(steps[n][f"{prefix}_chip"] for n, prefix in ((0, "in"), (4, "out")))
    assert all(steps[n][f"{prefix}_chip"] for n, prefix in (
        (0, "out"), (1, "in"), (1, "out"), (2, "in"), (2, "out"), (3, "in"), (4, "res")))


def test_maps_beside_the_image_stay_off_chip():
    config = AcceleratorConfig(buffers=BufferConfig(map_bytes=1 << 13))
    network = joining_network(config, image=True)
    images = random_images(np.random.default_rng(0), network, 2)
    program = hwgate.compile(network)
    binding = program.bind(images)
    assert set(binding.lifetimes()) == set(binding.chip) == {0, 3}
    _, offset = binding.places[IMAGE]
    stored = binding.memory[binding.steps[0].descriptor["in_address"]:][:pack_maps(
        config, images).size]
    assert binding.steps[0].descriptor["in_address"] == (
        binding.steps[3].descriptor["in_address"] + offset)
    np.testing.assert_array_equal(stored.view(np.int8), pack_maps(config, images).ravel())


@pytest.mark.parametrize("size, sentence", [
    (3 << 12, "Bytes of on-chip map memory must be a power of two, not 12288"),
    (1 << 11, "Bytes of on-chip map memory must be in 4096..4194304, not 2048"),
    (1 << 23, "Bytes of on-chip map memory must be in 4096..4194304, not 8388608")])
def test_bad_sizes_are_refused(size, sentence):
    with pytest.raises(ConfigError, match=f"^{sentence}$"):
        BufferConfig(map_bytes=size)


def test_the_size_is_part_of_the_digest():
    digests = {AcceleratorConfig(buffers=BufferConfig(map_bytes=size)).digest
               for size in (0, 1 << 12, 1 << 22)}
    assert len(digests) == 3
