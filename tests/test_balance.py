"""Balancing: the same function, lanes with equal work, and channels that must stay in place."""

from dataclasses import replace

import numpy as np
import pytest

from hwgate.balance import balance, channel_work
from hwgate.compiler import compile as compile_network
from hwgate.config import AcceleratorConfig
from hwgate.quant.golden import base_psum
from hwgate.quant.network import IMAGE, QuantizedLayer, QuantizedNetwork, layer_macs
from hwgate.quant.random_layers import Features, random_images, random_network

CONFIG = AcceleratorConfig()
NEVER, ALWAYS = 1 << 30, -(1 << 30)


def make_layer(rng, name, channels, outputs, threshold=None, **options):
    """3x3 layer on a 4x4 map; gated if there are thresholds: the first four channels are base."""
    base = np.ones((outputs, channels), bool)
    if threshold is not None:
        base[:, 4:] = False
    return QuantizedLayer(
        name, rng.integers(-99, 100, (outputs, channels, 3, 3)).astype(np.int8), base,
        None if threshold is None else np.array(threshold, np.int64),
        rng.integers(-999, 999, (outputs, 2)), rng.integers(9000, 20000, (outputs, 2)),
        rng.integers(20, 23, outputs), (channels, 4, 4), padding=1, **options)


def skewed(rng, **second):
    """Three layers; in the first two, the gates of every fourth channel open, all in one lane."""
    threshold = [ALWAYS if n % CONFIG.lanes == 1 else NEVER for n in range(16)]
    return QuantizedNetwork(CONFIG, (
        make_layer(rng, "first", 8, 16, threshold),
        make_layer(rng, "second", 16, 16, threshold, **second),
        make_layer(rng, "last", 16, 8)))


def lane_work(network, index, images):
    """Expected work of each lane."""
    work = channel_work(network.layers[index], network.run(images)[index])
    return [work[lane::network.config.lanes].sum() for lane in range(network.config.lanes)]


def order_of(before, after):
    """Channel of ``before`` at each place of ``after``: those of equal bias and set of weights."""
    keys = [[(layer.bias[c].tolist(), np.sort(layer.weight[c], axis=None).tolist())
             for c in range(len(layer.weight))] for layer in (before, after)]
    return [keys[0].index(key) for key in keys[1]]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def images(rng):
    return rng.integers(-128, 128, (3, 8, 4, 4)).astype(np.int8)


def test_work_of_channels_adds_up(rng, images):
    network = skewed(rng)
    for layer, seen in zip(network.layers, network.run(images), strict=True):
        assert channel_work(layer, seen).sum() * len(images) == layer_macs(layer, seen.decision)


def test_lanes_get_equal_work(rng, images):
    before = skewed(rng)
    after = balance(before, images)
    for index in (0, 1):
        loads = lane_work(before, index, images)
        assert max(loads) > min(loads)
        assert len(set(lane_work(after, index, images))) == 1, "four heavy channels, four lanes"
        assert sum(lane_work(after, index, images)) == sum(loads)
    assert np.array_equal(before(images), after(images))


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_lanes_of_any_density_come_closer(rng, lanes):
    """Gates open the more often, the higher the lane, from 1 in 10 to 9 in 10."""
    network = skewed(rng)
    images = rng.integers(-128, 128, (8, 8, 4, 4)).astype(np.int8)
    psums = base_psum(network.layers[0], images).transpose(1, 0, 2, 3).reshape(16, -1)
    closed = [0.9 - 0.8 * (n % lanes) / lanes for n in range(16)]
    threshold = np.array(list(map(np.quantile, psums, closed)))
    first = replace(network.layers[0], threshold=threshold.astype(np.int64))
    before = QuantizedNetwork(replace(CONFIG, lanes=lanes), (first, *network.layers[1:]))
    after = balance(before, images)
    was, now = (np.ptp(lane_work(each, 0, images)) for each in (before, after))
    assert now < was / 2 if lanes > 1 else now == was == 0
    assert np.array_equal(before(images), after(images))


def draw(seed, config):
    """A gated network with every feature; two in three without residuals, which fix the order."""
    features = replace(Features.every(), residual=seed % 3 == 0)
    return random_network(np.random.default_rng(seed), config, layers=5, gated=True,
                          density="mixed", reduce=False, features=features)


@pytest.mark.parametrize("config", [CONFIG, AcceleratorConfig(lanes=8, channels=2)],
                         ids=lambda c: f"{c.lanes}x{c.channels}")
@pytest.mark.parametrize("seed", range(12))
def test_random_networks_compute_the_same(config, seed):
    """Residuals, branches, strides; each layer's activations are the old ones, in another order."""
    before, rng = draw(seed, config), np.random.default_rng(seed)
    calibration, others = (random_images(rng, before, 2) for _ in range(2))
    after = balance(before, calibration)
    assert np.array_equal(before(others), after(others))
    for old, new in zip(before.run(others), after.run(others), strict=True):
        for name in ("output", "psum", "decision"):
            was, now = (np.moveaxis(getattr(x, name), 1, 0) for x in (old, new))
            assert sorted(c.tobytes() for c in was) == sorted(c.tobytes() for c in now)
    compile_network(after, config)


def test_random_networks_change():
    """The test above is no idle one: most of its networks are reordered."""
    changed = 0
    for seed in range(12):
        before = draw(seed, CONFIG)
        after = balance(before, random_images(np.random.default_rng(seed), before, 2))
        changed += any(not np.array_equal(old.bias, new.bias)
                       for old, new in zip(before.layers, after.layers, strict=True))
    assert changed >= 8


def test_both_sides_of_a_residual_keep_their_order(rng, images):
    """The second layer adds the first: neither moves, nor do the weights that read them."""
    before = skewed(rng, residual=0, mult_residual=np.full(16, 1 << 12))
    after = balance(before, images)
    for old, new in zip(before.layers, after.layers, strict=True):
        assert np.array_equal(old.weight, new.weight) and np.array_equal(old.bias, new.bias)


def test_a_layer_that_adds_the_image_keeps_its_order(rng, images):
    before = skewed(rng, residual=IMAGE, mult_residual=np.full(16, 1 << 12))
    after = balance(before, images)
    assert order_of(before.layers[1], after.layers[1]) == list(range(16))
    assert order_of(before.layers[0], after.layers[0]) != list(range(16))
    assert np.array_equal(before(images), after(images))


def test_the_last_layer_and_ungated_ones_keep_their_order(rng, images):
    network = skewed(rng)
    layers = [replace(network.layers[0], threshold=None), network.layers[1],
              make_layer(rng, "last", 16, 16, network.layers[1].threshold)]
    before = QuantizedNetwork(CONFIG, tuple(layers))
    after = balance(before, images)
    assert order_of(before.layers[0], after.layers[0]) == list(range(16))
    assert order_of(before.layers[2], after.layers[2]) == list(range(16))
    assert order_of(before.layers[1], after.layers[1]) != list(range(16))


def test_base_and_conditional_channels_of_a_consumer_do_not_mix(rng, images):
    """The second layer's base path is the first layer's channels 0..3; they stay there."""
    before = skewed(rng)
    after = balance(before, images)
    order = order_of(before.layers[0], after.layers[0])
    assert sorted(order[:4]) == [0, 1, 2, 3] and sorted(order) == list(range(16))
    assert order[4:] != list(range(4, 16))
    for old, new in zip(before.layers, after.layers, strict=True):
        assert np.array_equal(old.base, new.base)


def test_base_paths_of_every_consumer_count(rng, images):
    """Two consumers tell channels 0..3 and 8..11 apart: no channel leaves its kind."""
    network = skewed(rng)
    branch = make_layer(rng, "branch", 16, 8, [0] * 8, source=0)
    branch = replace(branch, base=np.tile(np.arange(16) // 4 == 2, (8, 1)))
    before = QuantizedNetwork(CONFIG, (*network.layers[:2], branch,
                                       make_layer(rng, "last", 8, 8)))
    after = balance(before, images)
    order = order_of(before.layers[0], after.layers[0])
    assert sorted(order[:4]) == [0, 1, 2, 3] and sorted(order[8:12]) == [8, 9, 10, 11]
    assert order != list(range(16))
    assert np.array_equal(before(images), after(images))
    compile_network(after, CONFIG)


def test_two_consumers_of_one_order(rng, images):
    """Each consumer's weights follow; both still compute what they did."""
    network = skewed(rng)
    before = QuantizedNetwork(CONFIG, (*network.layers[:2],
                                       make_layer(rng, "branch", 16, 8, source=0),
                                       make_layer(rng, "last", 8, 8)))
    after = balance(before, images)
    was, now = before.run(images), after.run(images)
    assert order_of(before.layers[0], after.layers[0]) != list(range(16))
    for index in (2, 3):
        assert np.array_equal(was[index].psum, now[index].psum)
