"""Gates shared by a slice or a pixel: from the float layer to integers, fine-tuning and balance."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import hwgate
from hwgate.compiler.balancing import balance
from hwgate.errors import CompileError
from hwgate.files.networks import load_network, save_network
from hwgate.machine.config import FormatConfig, preset
from hwgate.nn.gates import gated_layers, set_density, settle_norms
from hwgate.nn.losses import kept_gates
from hwgate.nn.macs import mac_summary
from hwgate.nn.models import resnet20, vgg16
from hwgate.quant.golden import convolve
from hwgate.quant.layer import layer_macs
from hwgate.train.qat import FakeQuantized, agreement
from support.shares import rest_slow

torch.set_num_threads(1)  # tests run in parallel

CONFIG = preset("cifar")

#: Network, and how its gates are shared.
CASES = {
    "slice-grouped-tau": (vgg16, {"width": 0.25, "gate_groups": 4, "grouping": True, "share": 4,
                                  "tau": 0.1}),
    "pixel-grouped": (vgg16, {"width": 0.25, "gate_groups": 4, "grouping": True, "share": 0}),
    "slice": (resnet20, {"width": 0.5, "gate_groups": 2, "share": 2}),
    "pixel": (resnet20, {"gate_groups": 4, "post_activation": True, "share": 0})}


@pytest.fixture(scope="module", params=rest_slow({name: name for name in CASES}, quick=2))
def case(request):
    """Model, images and integer network; about a third of the gates open."""
    make, options = CASES[request.param]
    torch.manual_seed(1)
    images = torch.randn(6, 3, 32, 32)
    model = set_density(settle_norms(make(**options), images), images, 0.35)
    return model, images, hwgate.quantize(model, images, CONFIG)


def test_gates_compare_scores(case):
    """Decisions are those of the mean of the base sums, computed apart from both models."""
    model, images, network = case
    results, gated = network.run(images), dict(gated_layers(model))
    x = network.quantize_images(images)
    for index, (layer, result) in enumerate(zip(network.layers, results, strict=True)):
        source, = network.inputs(index)
        inputs = x if source < 0 else results[source].output
        if layer.name not in gated:
            assert layer.score is None and layer.gate is None and result.score is None
            continue
        op = gated[layer.name]
        gates = op.out_channels // op.share
        assert layer.score.shape == (gates, *layer.weight.shape[1:])
        assert np.bincount(layer.gate).tolist() == [op.share] * gates
        exact = np.stack([(op.weight.detach().numpy() * op.base.numpy()[:, :, None, None])
                          [g * op.share:(g + 1) * op.share].mean(axis=0) for g in range(gates)])
        step = np.abs(exact).max(axis=(1, 2, 3)) / 127
        assert np.abs(layer.score * step[:, None, None, None] - exact).max() <= 0.51 * step.max()
        sums = convolve(inputs, layer.score, layer.padding, layer.stride)
        assert (result.score == sums).all()
        real = sums * (layer.in_scale * step)[:, None, None]
        norm = op.gate_norm
        normed = (real - norm.running_mean.numpy()[:, None, None]) / np.sqrt(
            norm.running_var.numpy() + norm.eps)[:, None, None]
        margin = normed - op.delta.detach().numpy()[:, None, None]
        opened = margin > 0
        pixels = opened.shape[2] * opened.shape[3]
        opened &= opened.sum(axis=(2, 3), keepdims=True) > op.limit(pixels)
        sure = (np.abs(margin) > 1e-3).all(axis=(2, 3), keepdims=True)
        assert ((opened[:, layer.gate] == result.decision) | ~sure[:, layer.gate]).all()
        assert 0.02 < result.decision.mean() < 0.9


@pytest.mark.parametrize("bits", [8, 4])
def test_fine_tuning_computes_the_integers(case, bits):
    model, images = copy.deepcopy(case[0]), case[1]
    config = replace(CONFIG, formats=FormatConfig(activation=bits, weight=bits))
    fake = FakeQuantized(model, images, config)
    found = agreement(fake, fake.network(), images)
    assert (found.logits, found.decisions, found.largest) == (1, 1, 0)


def test_scores_have_the_gradient_of_their_channels(case):
    """Of gates alone: it reaches thresholds, and the base path's weights only."""
    model, images = copy.deepcopy(case[0]), case[1]
    fake, layers = FakeQuantized(model, images, CONFIG), [layer for _, layer in gated_layers(model)]
    with kept_gates(model):
        fake(images)
        layers[0].gates.square().sum().backward()
    assert layers[0].delta.grad.abs().min() > 0
    moved = layers[0].weight.grad.abs().sum(dim=(2, 3)) > 0
    assert moved.any(dim=1).all() and not (moved & ~layers[0].base).any()
    assert all(layer.weight.grad is None for layer in layers[1:])


def test_files_balance_and_counts(case, tmp_path):
    model, images, network = case
    save_network(tmp_path / "network.npz", network)
    again = load_network(tmp_path / "network.npz")
    assert (again(images) == network(images)).all()
    balanced = balance(network, images.numpy())
    assert (balanced(images) == network(images)).all()
    dense = network.force_open()
    assert all(layer.score is None and layer.gate is None for layer in dense.layers)
    # The float layer counts as the integer one does, where both decide alike.
    images = images[:1]
    seen = {layer.name: layer for layer in mac_summary(model, images).layers}
    decided = {name: layer.decision.numpy() for name, layer in gated_layers(model)}
    for layer in network.layers[:-1]:
        decision = decided.get(layer.name, np.ones((1, *layer.decision_shape), bool))
        assert layer_macs(layer, decision) == seen[layer.name].done


def test_a_gate_stays_on_few_lanes():
    """Channels that share a gate are computed by few lanes: one, or two where the base path of the
    next layer tells the first half of the channels from the others."""
    torch.manual_seed(2)
    images = torch.randn(4, 3, 32, 32)
    model = settle_norms(vgg16(width=0.25, gate_groups=2, share=4), images)
    set_density(model, images, 0.3)
    network = hwgate.quantize(model, images, CONFIG)
    balanced = balance(network, images.numpy())
    for before, after in zip(network.layers, balanced.layers, strict=True):
        if after.gate is None:
            continue
        lanes = [{*(np.flatnonzero(layer.gate == g) % CONFIG.lanes).tolist()}
                 for layer in (before, after) for g in range(len(layer.score))]
        half = len(lanes) // 2
        assert all(len(found) == 4 for found in lanes[:half])
        assert all(len(found) <= 2 for found in lanes[half:])


@pytest.mark.parametrize("share", [4, 0])
def test_the_hardware_computes_shared_gates(share):
    torch.manual_seed(3)
    images = torch.randn(2, 8, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        hwgate.nn.gated.GatedConv2d(16, 16, 3, padding=1, gate_groups=4, share=share),
        nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    set_density(settle_norms(model, images), images, 0.4)
    network = balance(hwgate.quantize(model, images, preset("digits")), images.numpy())
    program = hwgate.compile(network)
    found = hwgate.compare(hwgate.simulate(program, images), hwgate.estimate(program, images))
    assert found.equal, found.describe()


@pytest.mark.parametrize("bits,fits", [(20, False), (21, True)])
def test_scores_must_fit_the_accumulator(bits, fits):
    """Large weights that cancel in the mean leave a score whose weights are all large."""
    torch.manual_seed(3)
    conv = hwgate.nn.gated.GatedConv2d(16, 4, 3, padding=1, gate_groups=4, share=0)
    conv.weight.data.fill_(0.01)
    conv.weight.data[:, 0, 0, 0] = torch.tensor([1, -1, 1, -1])
    model = nn.Sequential(conv, nn.BatchNorm2d(4)).eval()
    config = replace(CONFIG, formats=FormatConfig(accumulator=bits))
    if fits:
        layer, = hwgate.quantize(model, torch.randn(1, 16, 5, 5), config).layers
        assert np.abs(layer.score).sum() == 35 * 127 and np.abs(layer.weight[0]).sum() == 127 + 143
        return
    with pytest.raises(CompileError, match=f"^Layer '0' can reach partial sums of {35 * 127 * 128},"
                       f" and the 20-bit accumulator holds {(1 << 19) - 1}; "):
        hwgate.quantize(model, torch.randn(1, 16, 5, 5), config)


def test_scores_must_fit_their_layer(case):
    *_, network = case
    index, layer = next((n, each) for n, each in enumerate(network.layers) if each.gate is not None)

    def changed(**fields):
        layers = list(network.layers)
        layers[index] = replace(layer, **fields)
        return replace(network, layers=tuple(layers))

    with pytest.raises(CompileError, match="must have scores, thresholds and the gate of each"):
        changed(gate=None)
    with pytest.raises(CompileError, match="at least one of .* channels for each of .* gates"):
        changed(gate=np.full_like(layer.gate, len(layer.score)))
    with pytest.raises(CompileError, match="weights as large as a channel's"):
        changed(score=layer.score[:, :-1])
