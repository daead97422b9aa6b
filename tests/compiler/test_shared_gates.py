"""Shared gates: golden model and compiler."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

import hwgate
from hwgate.compiler.balancing import balance
from hwgate.errors import CompileError
from hwgate.machine.layouts import Gated, header_layout
from hwgate.quant.golden import base_psum, convolve
from hwgate.quant.layer import layer_macs
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.comparison import compare
from support.engine_cases import CONFIGS, can_run
from support.random_layers import Limits, random_images, random_network
from support.shared_gates import MAPPINGS, share_gates, share_layer

CONFIG = CONFIGS["4x36"]


def drawn(seed, mapping="slices", layers=1, config=CONFIG):
    """A network whose layers are gated, the first one with shared gates, and images."""
    rng, network = np.random.default_rng(seed), None
    while network is None or not all(layer.gated for layer in network.layers):
        network = random_network(rng, config, layers=layers, gated=True, density="mixed",
                                 reduce=False, limits=Limits(channels=20))
    images = random_images(rng, network, 3)
    first = share_layer(rng, network.layers[0], images, mapping)
    return replace(network, layers=(first, *network.layers[1:])), images


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_channels_have_the_decisions_of_their_gate(mapping):
    network, images = drawn(1, mapping)
    layer, (seen,) = network.layers[0], network.run(images)
    score = convolve(images, layer.score, layer.padding, layer.stride)
    assert (seen.score == score).all()
    opened = score > layer.threshold[:, None, None]
    assert (seen.decision == opened[:, layer.gate]).all()
    closed = ~seen.decision
    assert (seen.psum[closed] == base_psum(layer, images)[closed]).all()
    assert layer_macs(layer, seen.decision) == layer_macs(
        replace(layer, score=None, gate=None), seen.decision) + len(images) * int(
        layer.score_base.sum()) * layer.kernel**2 * seen.score[0, 0].size


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_scores_stand_before_their_channels(mapping):
    """In the stream, with the gate's threshold; and are none of the dense network."""
    network, _ = drawn(2, mapping)
    layer, plan = network.layers[0], hwgate.compile(network).plans[0]
    layout, stride = header_layout(CONFIG), plan.fields["job_stride"]
    for lane, own in enumerate(plan.order):
        before = None
        for number, (channel, score) in enumerate(own):
            at = (number * CONFIG.lanes + lane) * stride
            header = layout.unpack(plan.stream[at:at + layout.size_bytes])
            gate = layer.gate[channel]
            if score:
                assert before != gate and header["threshold"] == layer.threshold[gate]
                assert header["gated"] == Gated.SCORE and header["cond_blocks"] == 0
            else:
                assert before == gate and header["gated"] == Gated.SHARED
            before = gate
        assert [channel for channel, score in own if not score] == list(
            range(lane, len(layer.weight), CONFIG.lanes))
    dense = hwgate.compile(network, dense=True).plans[0]
    assert not dense.scores and dense.job_count == len(layer.weight)


def test_kept_channels_leave_room_for_scores():
    config = CONFIGS["8x18"]
    network, _ = drawn(3, "turns", config=config)
    plan = hwgate.compile(network).plans[0]
    kept = plan.kept_channels(config, 2)
    room = config.buffers.weight_bytes // plan.fields["job_stride"]
    assert all(place < room for (channel, _), place in plan.places.items() if channel < kept)
    assert kept == len(plan.jobs) or plan.places[kept, False] >= room


def test_balanced_channels_keep_their_gates():
    network, images = drawn(4, "any", layers=2)
    rng = np.random.default_rng(4)
    network = share_gates(rng, network, images, lambda layer, residual: can_run(
        layer, residual, CONFIG))
    other = balance(network, images)
    assert (other.run(images)[-1].output == network.run(images)[-1].output).all()
    assert not np.array_equal(other.layers[0].weight, network.layers[0].weight)


def test_differing_scores_are_found():
    network, images = drawn(5)
    result = hwgate.estimate(hwgate.compile(network), images)
    seen = result.layers[0].activations
    score = seen.score.copy()
    score[0, 0, 0, 0] += 1
    changed = replace(result, layers=(
        replace(result.layers[0], activations=replace(seen, score=score)),))
    comparison = compare(changed, result)
    assert comparison.psum_mismatches == 1 and not comparison.equal
    assert (f"gate 0, pixel (0, 0): the accumulator of the score is {score[0, 0, 0, 0]} in the "
            "RTL") in comparison.describe()


def test_wrong_scores_are_refused():
    seeds = (drawn(seed, "turns")[0].layers[0] for seed in count(6))
    layer = next(layer for layer in seeds if not layer.score_base.all() and len(layer.score) > 1)
    wrong = layer.score.copy()
    wrong[~layer.score_base] = 1
    for changes, sentence in (
            ({"gate": None}, "must have scores, thresholds and the gate of each channel"),
            ({"gate": layer.gate[:-1]}, "must have a threshold, weights as large as a channel's"),
            ({"gate": np.zeros_like(layer.gate)}, "at least one of"),
            ({"threshold": layer.threshold[:-1]}, "must have a threshold"),
            ({"score": wrong}, "scores must read base inputs of their channels only")):
        with pytest.raises(CompileError, match=sentence):
            QuantizedNetwork(CONFIG, (replace(layer, **changes),))
