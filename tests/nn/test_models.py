"""The CIFAR networks: their shapes, what is gated, and that they quantize."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hwgate
from hwgate.bench import accuracy
from hwgate.errors import CompileError, UserError
from hwgate.evaluation.accuracy import float_logits, measure
from hwgate.files.tensors import read_safetensors, write_safetensors
from hwgate.frontend import lower, read_torch, simplify
from hwgate.machine.config import preset
from hwgate.nn.gates import gated_layers, set_density, settle_norms
from hwgate.nn.macs import mac_summary
from hwgate.nn.models import REFERENCE, lenet, load_reference_resnet20, resnet18, resnet20, vgg16
from hwgate.quant.layer import IMAGE
from support.shares import rest_slow

CONFIG = preset("cifar")
torch.set_num_threads(1)  # tests run in parallel

DATA = os.environ.get("HWGATE_DATA", "")
needs_weights = pytest.mark.skipif(
    not Path(DATA, REFERENCE).is_file() if DATA else True,
    reason=f"needs the variable HWGATE_DATA, a folder with {REFERENCE}")
needs_images = pytest.mark.skipif(
    not list(Path(DATA, "cifar10").glob("test_batch*")) if DATA else True,
    reason="needs the variable HWGATE_DATA, a folder with cifar10/test_batch.bin or "
           "test_batch_first1000.bin")


def settled(model, images):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    settle_norms(model, images)
    if any(gated_layers(model)):
        set_density(model, images, 0.3)
    return model.eval()


def pictures(count=4, size=32):
    return torch.randn(count, 3, size, size, generator=torch.manual_seed(0))


# Parameters and MACs without batch norms: sums over the layers of the papers' tables, by hand.
@pytest.mark.parametrize("model,convolutions,weights,macs,gated", [
    (resnet20, 19, 268_336, 40_551_040, 9),
    (resnet18, 20, 11_164_352, 555_422_720, 8),
    (vgg16, 13, 14_715_584, 313_201_664, 12),
])
def test_sizes(model, convolutions, weights, macs, gated):
    net = model(gate_groups=4).eval()
    found = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    matrices = sum(p.numel() for p in net.parameters() if p.ndim > 1)
    assert (len(found), matrices) == (convolutions, weights)
    assert len(list(gated_layers(net))) == gated
    summary = mac_summary(net, pictures(1))
    assert summary.dense == macs and summary.done < macs


def test_lenet():
    """Sums by hand: a stem of 1x32, then 32x32 at 14x14, 32x64 and 64x64 at 7x7 pixels."""
    net = lenet(gate_groups=8).eval()
    images = torch.randn(2, 1, 28, 28)
    assert len(list(gated_layers(net))) == 3 and net(images).shape == (2, 10)
    macs = 9 * (32 * 784 + 32 * 32 * 196 + (32 + 64) * 64 * 49) + 640
    assert mac_summary(net, images[:1]).dense == macs == 4_742_272
    network = hwgate.quantize(settled(net, torch.randn(8, 1, 28, 28)), images, CONFIG)
    assert [layer.gated for layer in network.layers] == [False, True, True, True, False]


def test_what_is_gated():
    """Convolutions that go straight to a batch norm and a ReLU; never stem, shortcut, linear."""
    def names(model):
        return [name for name, _ in gated_layers(model)]

    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    assert names(resnet20()) == []
    assert names(resnet20(gate_groups=2)) == [f"{b}.conv1" for b in blocks]
    assert names(resnet20(gate_groups=2, post_activation=True)) == [
        f"{b}.conv{n}" for b in blocks for n in (1, 2)]
    assert len(names(resnet18(gate_groups=8, post_activation=True))) == 16
    assert "features.0" not in names(vgg16(gate_groups=8))


@pytest.mark.parametrize("base,by_inputs", [(0, {16: 8, 32: 8, 64: 8}), (4, {16: 4, 32: 8, 64: 8}),
                                            (16, {32: 2, 64: 4}), (33, {})])
def test_narrow_layers_have_fewer_groups(base, by_inputs):
    """As many as have ``base`` channels in their base path; no gate where there are not two."""
    net = resnet20(gate_groups=8, post_activation=True, grouping=True, base_channels=base)
    groups = {layer.in_channels: layer.gate_groups for _, layer in gated_layers(net)}
    assert groups == by_inputs
    assert len(list(gated_layers(net))) == {0: 18, 4: 18, 16: 11, 33: 0}[base]
    for name, layer in gated_layers(net):
        if name.endswith("conv2"):
            shuffle = net.get_submodule(name.removesuffix("conv2") + "shuffle")
            assert shuffle.groups == layer.gate_groups
    with pytest.raises(UserError, match="must divide the 16 input channels, which 3 does not"):
        resnet20(gate_groups=8, base_channels=5)
    with pytest.raises(UserError, match="must be at least 2, not 1"):
        resnet20(gate_groups=1, base_channels=4)


@pytest.mark.parametrize("make", rest_slow({m.__name__: m for m in (resnet20, resnet18, vgg16)}))
@pytest.mark.parametrize("options", rest_slow({
    "fitting": {"gate_groups": 8, "grouping": True, "base_channels": 4}, "dense": {},
    "gated": {"gate_groups": 2}, "grouped": {"gate_groups": 2, "grouping": True}}, quick=2))
def test_small_ones_follow_the_float_model(make, options):
    """Each integer layer computes what the float layer does with the same input."""
    model = settled(make(width=0.5, **options), pictures(16))
    network = hwgate.quantize(model, pictures(16), CONFIG, check="warn")  # random weights
    blocks = lower(simplify(read_torch(model, network.image_shape)))[0].blocks
    images = pictures(2)
    results = network.run(images)
    maps = {IMAGE: network.quantize_images(images) * network.layers[0].in_scale}
    for n, (layer, block, result) in enumerate(zip(network.layers, blocks, results, strict=True)):
        maps[n] = result.output * layer.out_scale
        if layer.reduce:
            continue
        with torch.no_grad():
            x = torch.from_numpy(maps[network.inputs(n)[0]]).float()
            y = block.gate(x) if block.gate else nn.functional.conv2d(
                x, block.op.tensors["weight"], None, layer.stride, layer.padding)
            norm, = block.after
            y = model.get_submodule(norm.origin)(y)
            opened = block.gate.decision if layer.gated else torch.ones(y.shape, dtype=torch.bool)
            if block.order is not None:
                y, opened = y[:, block.order], opened[:, block.order]
            y = torch.relu(y) if layer.relu_first else y
        wanted, opened = y.numpy() / layer.out_scale, opened.numpy()
        if layer.residual is not None:
            step, at = layer.residual_stride, layer.residual_offset
            added = maps[layer.residual][:, :, ::step, ::step] / layer.out_scale
            wanted[:, at:at + added.shape[1]] += added
        wanted = np.clip(wanted, 0 if layer.relu else -128, 127)
        same = opened == result.decision
        assert same.mean() > 0.99
        if layer.pool == 1:
            assert np.abs(result.output - wanted)[same].max() < 2.5
    assert [layer.gated for layer in network.layers] == [b.gate is not None for b in blocks]


def test_post_activation_blocks_quantize():
    model = settled(resnet20(gate_groups=2, grouping=True, post_activation=True), pictures(16))
    network = hwgate.quantize(model, pictures(16), CONFIG)
    seconds = [layer for layer in network.layers if layer.name.endswith("conv2")]
    assert all(layer.relu_first and not layer.relu and layer.gated for layer in seconds)
    assert [layer.residual_offset for layer in seconds] == [0, 0, 0, 8, 0, 0, 16, 0, 0]
    for layer in network.layers:
        if layer.gated:
            assert layer.base.sum(1).tolist() == [layer.in_shape[0] // 2] * len(layer.base)
    logits = network(pictures(8)) * network.layers[-1].out_scale
    with torch.no_grad():
        wanted = model(pictures(8)).numpy()
    assert np.square(logits - wanted).mean() < 0.05 * wanted.var()


@pytest.mark.slow
@pytest.mark.parametrize("make,layers", [(resnet18, 21), (vgg16, 14)])
def test_large_ones_quantize(make, layers):
    model = settled(make(), pictures(16))
    network = hwgate.quantize(model, pictures(16), CONFIG)
    assert len(network.layers) == layers
    logits = network(pictures(8)) * network.layers[-1].out_scale
    with torch.no_grad():
        wanted = model(pictures(8)).numpy()
    assert np.square(logits - wanted).mean() < 0.1 * wanted.var()


def test_other_sizes_of_images():
    model = settled(resnet20(width=0.5, classes=7), torch.randn(8, 3, 20, 28))
    network = hwgate.quantize(model, torch.randn(8, 3, 20, 28), CONFIG)
    assert network.layers[-2].out_shape == (32, 5, 7)
    assert network(torch.randn(2, 3, 20, 28)).shape == (2, 7)


def test_widths_that_do_not_fit_a_group():
    model = settled(resnet20(width=0.25), pictures())
    with pytest.raises(CompileError, match="^Layer 'layer2.0.conv2' adds 4 channels from channel 2 "
                       "on to its 8, but they must fit and begin at a multiple of 4$"):
        hwgate.quantize(model, pictures(), CONFIG)
    with pytest.raises(UserError, match="^Width must leave every layer a channel, which 0.001 does "
                       "not$"):
        vgg16(width=0.001)


@needs_weights
def test_reference_has_our_names():
    model = load_reference_resnet20()
    weights, _ = read_safetensors(Path(DATA, REFERENCE))
    assert not model.training and torch.equal(model.conv1.weight, weights["conv1.weight"])
    assert torch.equal(model.layer3[2].bn2.running_var, weights["layer3.2.bn2.running_var"])


@needs_weights
@needs_images
@pytest.mark.slow
def test_reference_keeps_its_accuracy(capsys):
    """Float: 91.5 % of the first 1,000 test images; int8: at most half a point less."""
    assert accuracy.main([]) == 0
    found = re.match(r"1000 images: float (.*)%, quantized (.*)%, same class ([0-9.]*)%, ",
                     capsys.readouterr().out)
    real, quantized, agreement = map(float, found.groups())
    assert real == 91.5 and quantized >= real - 0.5 and agreement > 98


@pytest.mark.parametrize("arguments,sentence", [
    (["--calibration", "0"], "Calibration images must be in 1..10000, not 0"),
    (["--images", "10001"], "Test images must be in 1..10000, not 10001"),
    ([], "The reference network needs the variable HWGATE_DATA, the folder that holds "
     f"{REFERENCE}"),
], ids=["calibration", "images", "data"])
def test_accuracy_says_what_is_wrong(arguments, sentence, monkeypatch, capsys):
    monkeypatch.delenv("HWGATE_DATA", raising=False)
    assert accuracy.main(arguments) == 2
    assert capsys.readouterr().err == f"{sentence}\n"


def test_accuracy_compares_both():
    """Every label is what the float model says, and one is not."""
    model = settled(resnet20(width=0.5), pictures(16))
    network = hwgate.quantize(model, pictures(16), CONFIG)
    labels = float_logits(model, pictures(60).numpy()).argmax(1)
    labels[7] = (labels[7] + 1) % 10
    found = measure(model, network, pictures(60).numpy(), labels)
    assert (found.images, found.real) == (60, pytest.approx(59 / 60))
    assert found.agreement > 0.8 and 0 < found.error < 0.1 and found.images_per_second > 0
    assert abs(found.agreement - found.quantized) < 1 / 59


def test_reference_that_is_missing(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="^Weights file .*resnet20_cifar10.safetensors cannot be "
                       "read: No such file or directory$"):
        load_reference_resnet20(tmp_path)
    (tmp_path / "weights").mkdir()
    write_safetensors(tmp_path / REFERENCE, {"a": torch.zeros(2)})
    with pytest.raises(UserError, match="does not hold the weights of a ResNet-20$"):
        load_reference_resnet20(tmp_path)
    monkeypatch.delenv("HWGATE_DATA", raising=False)
    with pytest.raises(UserError, match="^The reference network needs the variable HWGATE_DATA, "
                       f"the folder that holds {REFERENCE}$"):
        load_reference_resnet20()
