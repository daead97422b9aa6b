"""Fake quantization against the integer network, and fine-tuning at few bits."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import hwgate
from hwgate.data.datasets import load_dataset
from hwgate.errors import UserError
from hwgate.evaluation.scoring import score_network
from hwgate.machine.config import FormatConfig, preset
from hwgate.nn.gated import GatedConv2d
from hwgate.nn.gates import set_density, settle_norms
from hwgate.nn.models import resnet18, resnet20, vgg16
from hwgate.quant.requantize import requantize
from hwgate.train.qat import FakeQuantized, _requantize, agreement
from hwgate.train.recipe import load_recipe
from hwgate.train.training import train
from support.digits import trained_digits
from support.random_layers import random_network
from support.shares import rest_slow

CONFIG = preset("cifar")
torch.set_num_threads(1)  # tests run in parallel


def config(bits):
    return replace(CONFIG, formats=FormatConfig(activation=bits, weight=bits))


def settled(make, images, **options):
    torch.manual_seed(0)
    model = make(**options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.affine:
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return set_density(settle_norms(model, images), images, 0.3)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("make,options", [
    (resnet20, {"gate_groups": 2, "post_activation": True, "grouping": True}),
    (resnet20, {"gate_groups": 2}), (resnet18, {"gate_groups": 4}),
    (vgg16, {"gate_groups": 4, "grouping": True}), (vgg16, {"gate_groups": 4, "tau": 0.3})],
    ids=["postact", "resnet20", "resnet18", "vgg", "tau"])
def test_every_layer_computes_what_the_integers_do(make, options, bits):
    images = torch.randn(8, 3, 32, 32, generator=torch.manual_seed(0))
    width = 0.5 if make is resnet20 else 0.25
    fake = FakeQuantized(settled(make, images, width=width, **options), images, config(bits))
    network = fake.network()
    with torch.no_grad():
        values = fake.outputs(images[:2])
    for index, (layer, result) in enumerate(zip(network.layers, network.run(images[:2]),
                                                strict=True)):
        found = values[index].double().numpy() / fake._step(index)
        assert np.abs(found.reshape(result.output.shape) - result.output).max() < 1e-3, layer.name
    assert any(layer.limit for layer in network.layers) == ("tau" in options)
    same = agreement(fake, network, images)
    assert (same.classes, same.logits, same.decisions, same.largest) == (1, 1, 1, 0)


class Pixels(nn.Module):
    """Normalizes its images itself, which have values of 0 to 255."""

    def __init__(self, net, scale):
        super().__init__()
        self.net, self.scale = net, nn.Parameter(torch.tensor(scale).reshape(-1, 1, 1))

    def forward(self, x):
        return self.net((x - 128) / self.scale)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("scale", [[64.0], [50.0, 64.0, -70.0]], ids=["one", "each"])
def test_the_model_normalizes_its_images_itself(scale, bits):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(8, 5))
    images = torch.randint(256, (16, 3, 6, 6)).float()
    fake = FakeQuantized(Pixels(net, scale).eval(), images, config(bits))
    network = fake.network()
    found = fake.outputs(images)[-1] / fake._step(-1)
    np.testing.assert_array_equal(found.detach().numpy().round(4), network.quantize_images(images))
    same = agreement(fake, network, images)
    assert (same.classes, same.logits, same.largest) == (1, 1, 0)


def small():
    torch.manual_seed(0)
    return nn.Sequential(GatedConv2d(8, 8, 3, gate_groups=2), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
                         nn.BatchNorm1d(4)).eval()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("form", [
    list, lambda x: x.numpy()[..., ::-1], lambda x: x.double().numpy(),
    lambda x: (x * 255).byte(), lambda x: [(x[:4], 0), (x[4:], 1)]],
    ids=["list", "strides", "float64", "uint8", "batches"])
def test_calibration_images_in_every_form(form, bits):
    images = torch.rand(8, 8, 5, 5)
    fake = FakeQuantized(small(), form(images), config(bits))
    same = agreement(fake, fake.network(), images)
    assert (same.classes, same.logits, same.decisions, same.largest) == (1, 1, 1, 0)


def test_wrapped_models_are_looked_into():
    model, images = small(), torch.rand(8, 8, 5, 5)
    assert FakeQuantized(nn.DataParallel(model), images, CONFIG).model is model


@pytest.mark.parametrize("wrong", [
    torch.zeros(1, 2, 5, 5), torch.zeros(2, 8, 5), torch.zeros(2, 8, 5, 5, dtype=torch.uint8)],
    ids=["channels", "dimensions", "type"])
def test_images_of_another_form_are_named(wrong):
    fake = FakeQuantized(small(), torch.rand(8, 8, 5, 5), CONFIG)
    with pytest.raises(UserError, match=r"^Images must be float \(N, 8, 5, 5\), not "):
        fake(wrong)


@pytest.mark.parametrize("relu_first", [False, True])
def test_requantization_is_that_of_the_contract(relu_first):
    """Ties among the values, which are frequent at a shift of 2."""
    rng, channels = np.random.default_rng(0), 6
    layer = random_network(rng, CONFIG).layers[0]
    layer = replace(layer, weight=np.ones((channels, 1, 1, 1), np.int8),
                    bias=rng.integers(-9, 9, (channels, 1)).repeat(2, axis=1),
                    mult=rng.integers(-5, 6, (channels, 1)).repeat(2, axis=1),
                    shift=np.array([1, 2, 2, 3, 20, 40]), relu_first=relu_first,
                    mult_residual=np.full(channels, 256))
    sums, added = (rng.integers(-40, 40, (2, channels, 5, 5)) for _ in range(2))
    found = _requantize(layer, torch.from_numpy(sums).double(), torch.from_numpy(added).double())
    fields = [v[:, None, None] for v in (layer.bias[:, 1], layer.mult[:, 1], layer.shift)]
    wanted = requantize(sums, *fields, -2**40, 2**40, added, 256, relu_first)
    np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits"), trained_digits().model


@pytest.mark.parametrize("bits", rest_slow([4, 8]))
def test_the_integers_compute_what_was_trained(digits, bits):
    data, model = digits
    model, recipe = copy.deepcopy(model), load_recipe("digits")
    images = data.normalize(data.train.images[:256])
    fake = FakeQuantized(model, images, config(bits))
    part = replace(recipe.optimizer, epochs=2, rate=0.002 if bits == 8 else 0.01, schedule="cosine")
    before = [p.detach().clone() for p in fake.parameters()]
    statistics = model.get_submodule("gated1.norm").running_mean.clone()
    train(fake, data, recipe, optimizer=part)
    moved = [not torch.equal(a, b) for a, b in zip(before, fake.parameters(), strict=True)]
    assert all(moved[1:]) and moved[0] == (bits < 8)  # steps are learned below 8 bits only
    assert torch.equal(statistics, model.get_submodule("gated1.norm").running_mean)
    network, test = fake.network(), data.normalize(data.test.images)
    found = agreement(fake, network, test)
    assert (found.classes, found.logits, found.decisions, found.largest) == (1, 1, 1, 0)
    assert found.describe() == ("450 images: same class 100.00%, equal logits 100.00%, at most 0 "
                                "steps apart, equal decisions 100.0000%")
    pixels, labels = data.normalize(data.test.images).numpy(), data.test.labels.numpy()
    tuned, plain = (score_network(each, pixels, labels) for each in (
        network, hwgate.quantize(digits[1], images, config(bits))))
    assert tuned.accuracy > 0.93 and tuned.accuracy > plain.accuracy - 0.01
    if bits == 4:
        assert tuned.loss < 0.9 * plain.loss


class Doubles(GatedConv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked(layer):
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


@pytest.mark.parametrize("layer", [Doubles(8, 8, 3, gate_groups=2),
                                   hooked(GatedConv2d(8, 8, 3, gate_groups=2))])
def test_what_is_around_a_gated_layer_is_not_trained(layer):
    model = nn.Sequential(layer, nn.ReLU()).eval()
    with pytest.raises(UserError, match="^Layer '0' is a gated layer with hooks or a forward of "
                       "its own, which cannot be trained with the rounding$"):
        FakeQuantized(model, torch.randn(4, 8, 9, 9), CONFIG)


class Functional(nn.Module):
    """A convolution that is no module of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x):
        return torch.relu(nn.functional.conv2d(x, self.weight))


def tied():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("model, layer", [
    (lambda: nn.Sequential(Functional()), r"0\.convolution"), (tied, "0"),
    (lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))),
     r"0\.convolution")],
    ids=["functional", "tied", "computed"])
def test_what_cannot_be_trained_is_named(model, layer):
    """It quantizes all the same."""
    torch.manual_seed(0)
    built, images = model().eval(), torch.rand(4, 4, 9, 9)
    hwgate.quantize(built, images, CONFIG)
    with pytest.raises(UserError, match=f"^Layer '{layer}' computes with values that are no "
                                        "parameters of its own"):
        FakeQuantized(built, images, CONFIG)
