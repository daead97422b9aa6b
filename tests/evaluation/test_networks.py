"""Whole networks on the accelerator's Verilog, every layer equal to golden and cost model."""

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import hwgate
from hwgate.bench import accuracy
from hwgate.evaluation.against_dense import simulate_and_estimate
from hwgate.machine.config import preset
from hwgate.nn.gates import gated_layers, set_density, settle_norms
from hwgate.nn.models import REFERENCE, resnet18, resnet20, vgg16
from support.shares import rest_slow

torch.set_num_threads(1)  # tests run in parallel

DATA = os.environ.get("HWGATE_DATA", "")
needs_data = pytest.mark.skipif(
    not (DATA and Path(DATA, REFERENCE).is_file()
         and all([*Path(DATA).glob(f"cifar*/{name}*")] for name in ("test_batch", "data_batch_1"))),
    reason=f"needs the variable HWGATE_DATA, a folder with {REFERENCE} and CIFAR-10")


def pictures(count, size):
    return torch.randn(count, 3, size, size, generator=torch.manual_seed(0))


def quantized(make, config, size=32, **options):
    """A network of random weights and norms, a third of its gates open."""
    torch.manual_seed(0)
    model = make(gate_groups=4, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    images = pictures(8, size)
    settle_norms(model, images)
    set_density(model, images, 0.3)
    assert any(gated_layers(model))
    return hwgate.quantize(model.eval(), images, config)


def assert_exact(network, images):
    pair = simulate_and_estimate(network, network.config, images.numpy())
    assert pair.comparison.equal, pair.comparison.describe()
    gated = [layer for layer in pair.rtl.layers if layer.gated]
    assert gated and all(0 < layer.density < 1 for layer in gated)
    return pair.rtl


@pytest.mark.parametrize("make,options", rest_slow({
    "resnet20": (resnet20, {}),
    "resnet20 post-activation": (resnet20, {"post_activation": True, "grouping": True}),
    "resnet18": (resnet18, {})}))
def test_small_networks_are_exact(make, options):
    """A quarter of the pixels and of the channels: bands, strides, both kinds of shortcuts."""
    width = 1 if make is resnet20 else 0.25
    network = quantized(make, preset("digits"), 16, width=width, **options)
    result = assert_exact(network, pictures(2, 16))
    assert len(result.layers) == (20 if make is resnet20 else 21)


@pytest.mark.slow
@pytest.mark.parametrize("make,layers", [(resnet20, 20), (resnet18, 21), (vgg16, 14)])
def test_whole_networks_are_exact(make, layers):
    """CIFAR form, full width, gated, random weights, one image."""
    assert len(assert_exact(quantized(make, preset("cifar")), pictures(1, 32)).layers) == layers


@pytest.mark.slow
@needs_data
def test_reference_resnet20_is_exact_on_ten_images(capsys):
    """Pretrained weights, real images: every layer, every image."""
    assert accuracy.main(["--images", "10", "--rtl", "10"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^10 images on the RTL, [0-9,]+ cycles", text, re.MULTILINE)
    assert "Equal: every output" in text and "of 20 layers." in re.sub(r"\s+", " ", text)
    rows = re.findall(r"^ *((?:conv1|layer\S+|linear) .*)$", text, re.MULTILINE)
    assert len(rows) == 20 and all(row.split()[-5:] == ["0"] * 5 for row in rows)
