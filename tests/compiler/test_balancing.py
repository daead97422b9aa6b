"""Balancing: the same function, lanes with equal work, and channels that must stay in place."""

from dataclasses import replace

import numpy as np
import pytest

from hwgate.compiler.balancing import balance, channel_work, score_work
from hwgate.compiler.program import compile as compile_network
from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.fetch import lane_order
from hwgate.quant.golden import base_psum
from hwgate.quant.layer import IMAGE, QuantizedLayer, layer_macs
from hwgate.quant.network import QuantizedNetwork
from support.random_layers import Features, random_images, random_network
from support.shared_gates import share_gates

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


def scores(layer, lanes):
    """Score jobs of a tile, of all lanes."""
    return sum(score for lane in range(lanes)
               for _, score in lane_order(lane, lanes, len(layer.gate), layer.gate.tolist()))


def share(rng, layer, gate, closed=0.5):
    """The layer with these gates; each closes every pixel with this probability, or opens it."""
    gate = np.asarray(gate)
    base = np.stack([layer.base[gate == n].any(axis=0) for n in range(gate.max() + 1)])
    score = rng.integers(-99, 100, (len(base), *layer.weight.shape[1:])) * base[..., None, None]
    threshold = np.where(rng.random(len(base)) < closed, NEVER, ALWAYS)
    return replace(layer, gate=gate, score=score.astype(np.int8), threshold=threshold)


def shared(rng, gate, kinds):
    """A layer with these gates, and one that tells its channels apart as the rows of ``kinds``."""
    count = len(gate)
    first = share(rng, make_layer(rng, "first", 8, count, [0] * count), gate)
    threshold = None if np.all(kinds) else [0] * len(kinds)
    second = replace(make_layer(rng, "second", count, len(kinds), threshold), base=np.array(kinds))
    return QuantizedNetwork(CONFIG, (first, second,
                                     make_layer(rng, "last", len(kinds), 4)))


def test_work_of_channels_and_scores_adds_up(rng, images):
    network = shared(rng, np.arange(16) // 4, [np.arange(16) < 4] * 4)
    layer, seen = network.layers[0], network.run(images)[0]
    work = channel_work(layer, seen).sum() + score_work(layer).sum()
    assert work * len(images) == layer_macs(layer, seen.decision)


@pytest.mark.parametrize("gate,kinds,wanted", [
    (np.arange(16) // 4, [np.ones(16, bool)], 4),
    (np.arange(16) % 4, [np.arange(16) // 4 == n for n in range(4)], 4),
    (np.arange(32) // 2 % 8, [np.arange(32) < 16], 12),
    (np.repeat([*range(8), 0, *range(8, 15)], 2), [np.arange(32) < 16], 15),
    (np.zeros(16, int), [np.arange(16) < 4], 4)],
    ids=["slices", "shuffled", "all-in-both-halves", "one-in-both-halves", "pixel"])
def test_a_score_runs_as_seldom_as_can_be(rng, images, gate, kinds, wanted):
    """One lane computes it, and once, if the base paths of consumers allow that."""
    before = shared(rng, gate, kinds)
    after = balance(before, images)
    assert scores(after.layers[0], CONFIG.lanes) == wanted
    assert np.array_equal(before(images), after(images))
    compile_network(after, CONFIG)


def test_scores_are_work_of_a_lane(rng, images):
    """A gate of two channels, and ten of one, seven of them with some open pixels: the seventh
    belongs to the lane of the first gate, which has one score less."""
    network = shared(rng, [0, *range(11)], [np.ones(12, bool)])
    psums = np.sort(np.moveaxis(network.run(images)[0].score, 1, 0).reshape(11, -1))
    opened = [25, *[17] * 7, 0, 0, 0]
    threshold = psums[np.arange(11), [-1 - count for count in opened]]
    first = replace(network.layers[0], threshold=threshold)
    after = balance(replace(network, layers=(first, *network.layers[1:])), images)
    assert after.run(images)[0].decision.sum() == 2 * 25 + 7 * 17
    orders = [lane_order(lane, 4, 12, after.layers[0].gate.tolist()) for lane in range(4)]
    assert sorted(sum(score for _, score in order) for order in orders) == [2, 3, 3, 3]
    work = channel_work(after.layers[0], after.run(images)[0]) - 36 * 16  # without the base path
    loads = sorted(round(sum(work[c] for c, score in order if not score) * 3 / 36)
                   for order in orders)
    assert loads == [2 * 17, 2 * 17, 2 * 17, 2 * 25 + 17]


def test_a_gate_prefers_room_to_a_lane_with_less_work(rng, images):
    """Two gates of four channels fill two lanes; one open gate of two and a closed one of three
    begin the others; the next gate of two has room on the busier one."""
    network = shared(rng, np.repeat(range(6), (4, 4, 2, 3, 2, 1)), [np.ones(16, bool)])
    threshold = np.array([ALWAYS] * 3 + [NEVER] * 3)
    first = replace(network.layers[0], threshold=threshold)
    after = balance(replace(network, layers=(first, *network.layers[1:])), images)
    assert scores(after.layers[0], CONFIG.lanes) == 6


def test_channels_of_a_pixel_are_balanced_alone(rng, images):
    """Their work differs by their base paths."""
    network = shared(rng, np.zeros(16, int), [np.ones(16, bool)])
    base = np.arange(8) < np.repeat((2, 6), 8)[:, None]
    first = replace(network.layers[0], base=base, threshold=np.array([NEVER]))
    before = replace(network, layers=(first, *network.layers[1:]))
    after = balance(before, images)
    assert len(set(lane_work(after, 0, images))) == 1
    assert np.array_equal(before(images), after(images))


@pytest.mark.parametrize("seed", range(12))
def test_shared_gates_of_random_networks_compute_the_same(seed):
    rng, network = np.random.default_rng(seed), draw(seed, CONFIG)
    calibration, others = (random_images(rng, network, 2) for _ in range(2))
    before = share_gates(rng, network, calibration, lambda layer, residual: True)
    after = balance(before, calibration)
    assert np.array_equal(before(others), after(others))
    for old, new in zip(before.layers, after.layers, strict=True):
        assert old.gate is None or sorted(old.gate) == sorted(new.gate)


@pytest.mark.parametrize("sources", [(0, 1), (1, 0), (1, IMAGE, 0)], ids=str)
def test_layers_side_by_side_keep_their_places(rng, images, sources):
    """Each source is reordered among its own channels, and the layer that takes them follows."""
    network = skewed(rng)
    channels = sum(network.shape(source)[0] for source in sources)
    before = replace(network, layers=(*network.layers[:2], make_layer(
        rng, "joined", channels, 8, source=sources)))
    after = balance(before, images)
    for index in (0, 1):
        order = order_of(before.layers[index], after.layers[index])
        assert order != sorted(order) == list(range(16))
        assert len(set(lane_work(after, index, images))) == 1
        np.testing.assert_array_equal(before.run(images)[index].output[:, order],
                                      after.run(images)[index].output)
    assert np.array_equal(before(images), after(images))
    compile_network(after, CONFIG)


def test_base_paths_of_a_layer_that_takes_several_count(rng, images):
    """Its base path is the first four channels of the second source."""
    network = skewed(rng)
    joined = make_layer(rng, "joined", 32, 8, [0] * 8, source=(0, 1))
    joined = replace(joined, base=np.tile(np.arange(32) // 4 == 4, (8, 1)))
    before = replace(network, layers=(*network.layers[:2], joined, make_layer(rng, "last", 8, 8)))
    after = balance(before, images)
    order = order_of(before.layers[1], after.layers[1])
    assert sorted(order[:4]) == [0, 1, 2, 3] and order != list(range(16))
    assert np.array_equal(before(images), after(images))
    compile_network(after, CONFIG)


def test_channels_before_a_grouped_convolution_keep_their_order(rng, images):
    """A group reads its own channels only; so does a copy, which is a group of each channel."""
    network = skewed(rng)
    copy = make_layer(rng, "copy", 16, 16, fan_in=9)
    copy.weight[~np.eye(16, dtype=bool)] = 0
    before = replace(network, layers=(*network.layers[:2], copy, make_layer(rng, "last", 16, 8)))
    after = balance(before, images)
    assert order_of(before.layers[1], after.layers[1]) == list(range(16))
    assert order_of(before.layers[0], after.layers[0]) != list(range(16))
    assert np.array_equal(before(images), after(images))
