"""Compressed feature maps: which ones the compiler chooses, what they cost, what is in memory."""

from dataclasses import replace

import numpy as np
import pytest

import hwgate
from hwgate.compiler.explanation import explain
from hwgate.compiler.packing import pack_maps
from hwgate.compiler.program import Binding
from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig, BufferConfig, BusConfig, ConfigError
from hwgate.plan.residency import region_bytes, uses
from hwgate.plan.stored import ASSUMPTION, StoredMap
from hwgate.quant.compress import compress
from hwgate.quant.layer import IMAGE
from support.geometry_cases import placed_tiles
from support.random_layers import random_images
from support.residency_cases import banded_network, many_layers

CONFIG = AcceleratorConfig(buffers=BufferConfig(compressed_chunks=128))
#: A pixel to a beat, so that most maps are of whole chunks.
NARROW = AcceleratorConfig(channels=8, bus=BusConfig(data_bits=64),
                           buffers=BufferConfig(compressed_chunks=64))
BANDS = replace(CONFIG, buffers=BufferConfig(window_words=128, pixels=64, output_words=128,
                                             compressed_chunks=256))


def bind(network, images=2, **options):
    return hwgate.compile(network, **options).bind(
        np.zeros((images, *network.image_shape), np.int8))


def regions(binding, index, prefix, use):
    """(first byte, bytes) of what each request of a layer covers of one of its maps."""
    d, beat = binding.steps[index].descriptor, binding.program.config.bus.bytes
    count, stride = ((d["out_planes"], d["out_plane_stride"]) if prefix == "out" else
                     (d[f"{prefix}_runs"], d[f"{prefix}_run_stride"]))
    return [(tile[f"{prefix}_address"] - binding._maps[use] + n * stride,
             tile[f"{prefix}_run_beats"] * beat) for tile in placed_tiles(d) for n in range(count)]


@pytest.mark.parametrize("config", [CONFIG, BANDS], ids=["whole", "bands"])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("images", [1, 2, 4])
def test_maps_of_whole_chunks_can_be_compressed_and_no_others(config, seed, images):
    network = banded_network(config, edge=(8, 12, 16)[seed % 9 // 3]) if seed % 3 == 2 else (
        many_layers(seed, config, reduce=False))
    binding = bind(network, images)
    chunk, packable = config.chunk_bytes, binding.packable()
    for region in sorted({chain[0] for chain in network.chains.values()}):
        users = [(layer, prefix) for layer in range(len(network.layers))
                 for prefix, use in uses(network, layer).items() if use == region]
        covered = [part for layer, prefix in users
                   for part in regions(binding, layer, prefix, region)]
        whole = all(at % chunk == 0 and size % chunk == 0 for at, size in covered)
        taken = any(prefix != "out" for _, prefix in users)
        inside = not {IMAGE, len(network.layers) - 1} & set(network.chains[region])
        assert (region in packable) == (whole and taken and inside)
        if region in packable:
            assert packable[region].size * chunk == images * region_bytes(network, config, region)


def test_entries_of_maps_that_are_alive_together_differ():
    packed = 0
    for seed in range(12):
        for images in (1, 4):
            binding = bind(many_layers(seed, NARROW), images)
            alive = binding.packable()
            for index, first in binding.packed.items():
                life = alive[index]
                packed += 1
                assert 0 <= first <= NARROW.buffers.compressed_chunks - life.size
                assert all(other == index or alive[other].last < life.first
                           or life.last < alive[other].first or first + life.size <= at
                           or at + alive[other].size <= first
                           for other, at in binding.packed.items())
            for _, _, d in binding.steps:
                assert not any(d[f"{p}_packed"] and d[f"{p}_chip"] for p in ("in", "res", "out"))
    assert packed > 20


def test_only_bytes_of_maps_change_and_only_with_zeros():
    """Against the same network on an accelerator without compression."""
    network = banded_network(CONFIG)
    images = random_images(np.random.default_rng(1), network, 2)
    plain = replace(network, config=replace(CONFIG, buffers=BufferConfig()))
    with_it, without = (hwgate.estimate(hwgate.compile(made), images)
                        for made in (network, plain))
    np.testing.assert_array_equal(with_it.outputs, without.outputs)
    binding = hwgate.compile(network).bind(images)
    assert set(binding.packed) == {0, 1, 2, 3}
    outputs = [layer.activations.output for layer in without.layers]
    for index, (ours, plain_layer) in enumerate(zip(with_it.layers, without.layers, strict=True)):
        for prefix, stream in (("in", "windows"), ("res", "residual"), ("out", "output")):
            use = uses(network, index).get(prefix)
            saved = 0
            if use in binding.packed:
                beats = pack_maps(CONFIG, outputs[use]).reshape(-1, 8, CONFIG.bus.bytes)
                saved = sum(8 - len(compress(chunk)) for chunk in beats) * CONFIG.bus.bytes
                assert saved > 0
            assert plain_layer.bytes[stream] - ours.bytes[stream] == saved
        assert ours.bytes["base"] == plain_layer.bytes["base"]


def test_what_is_stored():
    rng = np.random.default_rng(1)
    beats = (rng.integers(-3, 4, (64, CONFIG.bus.bytes)) * rng.integers(0, 2, (64, 1)))
    stored = StoredMap.of(CONFIG, 4096, beats.astype(np.int8))
    for n in range(8):
        length, needed = stored.chunk(4096 + n * CONFIG.chunk_bytes)
        assert length == len(compress(beats[8 * n:8 * n + 8].astype(np.int8)))
        assert len(needed) == 8 and needed[-1] <= length
    assumed = StoredMap.assumed(CONFIG, 0, 1024)
    assert assumed.lengths == [1 + 4] * 8


def test_only_a_simulation_knows_a_compressed_output():
    binding = bind(banded_network(CONFIG))
    with pytest.raises(UserError, match="^The output of layer 'inner' is compressed; only a "
                                        "simulation can tell what it is$"):
        binding.read_output(binding.memory, 1)


def test_explanation():
    found = explain(hwgate.compile(banded_network(CONFIG)), 2)
    assert ASSUMPTION in found.assumptions()
    rows = [row for row in found.alternatives if row.choice == "zeros"]
    assert [(row.layer, row.alternative, row.chosen) for row in rows[:2]] == [
        ("first", "left out", True), ("first", "stored", False)]
    assert rows[0].reason == "entries 0..31 until added ends"
    assert rows[0].bytes < rows[1].bytes
    assert not any(row.layer == "pooled" for row in rows)


def test_explanation_of_maps_that_are_not_compressed():
    rows = [row for row in explain(hwgate.compile(banded_network(CONFIG, edge=14))).alternatives
            if row.choice == "zeros"]
    assert {(row.alternative, row.reason) for row in rows} == {
        ("left out", "tiles read or write parts of chunks of 128 bytes"),
        ("stored", "the map is not of whole chunks")}
    small = replace(CONFIG, buffers=BufferConfig(compressed_chunks=16))
    rows = [row for row in explain(hwgate.compile(banded_network(small)), 4).alternatives
            if row.choice == "zeros"]
    assert "64 chunks exceed the table of 16" in {row.reason for row in rows}
    rows = [row for row in explain(hwgate.compile(banded_network(small, edge=8)), 4).alternatives
            if row.choice == "zeros"]
    assert "no room in the table of 16 chunks beside others" in {row.reason for row in rows}


def test_a_table_has_a_power_of_two_of_entries():
    with pytest.raises(ConfigError, match="^Compressed chunk count must be a power of two, not 48"):
        BufferConfig(compressed_chunks=48)
    assert "128 compressed chunks" in CONFIG.describe()
    assert "compressed" not in AcceleratorConfig().describe()


def test_without_a_table_nothing_is_compressed():
    binding = bind(banded_network(AcceleratorConfig()))
    assert not binding.packed and len(binding.packable()) == 4
    assert not any(d[f"{p}_packed"] for _, _, d in binding.steps for p in ("in", "res", "out"))
    assert Binding(binding.program, binding.images, packed={}).packed == {}
