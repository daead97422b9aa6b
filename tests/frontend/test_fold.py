"""Folding: exact where it can be, close elsewhere, and clear where it cannot be done."""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hwgate
from hwgate.errors import CompileError, UserError
from hwgate.frontend.calibrate import activation_scale
from hwgate.frontend.fold import multipliers
from hwgate.frontend.graph import RUNS
from hwgate.machine.config import AcceleratorConfig, FormatConfig, preset
from hwgate.nn.gated import ChannelShuffle, GatedConv2d
from hwgate.nn.gates import force_open, gated_layers
from hwgate.train.training import accuracy
from support.digits import trained_digits
from support.shares import rest_slow

CONFIG = AcceleratorConfig()
torch.set_num_threads(1)  # tests run in parallel


def integer_model(grouping, seed=0):
    """One gated block whose weights and inputs are integers that use the whole range."""
    torch.manual_seed(seed)
    conv = GatedConv2d(16, 8, 3, padding=1, grouping=grouping)
    model = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(8), relu=nn.ReLU())).double()
    conv.weight.data = torch.randint(-126, 127, conv.weight.shape).double()
    conv.weight.data[:, 0, 0, 0] = 127
    images = torch.randint(-127, 128, (4, 16, 5, 6)).double()
    images[0, 0, 0, 0] = 127
    conv.delta.data.normal_()
    conv.gate_norm.running_mean.normal_(0, 20000)
    conv.gate_norm.running_var.uniform_(1e8, 4e8)
    model.norm.running_mean.normal_(0, 20000)
    model.norm.running_var.uniform_(1e8, 4e9)
    model.norm.weight.data.normal_()
    model.norm.bias.data.normal_()
    return model.eval(), images


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("grouping", [False, True], ids=["first", "grouping"])
def test_folding_is_exact(grouping, seed):
    model, images = integer_model(grouping, seed)
    network = hwgate.quantize(model, images, CONFIG)
    layer, found = network.layers[0], network.run(images)[0]
    with torch.no_grad():
        sums, wanted = model.conv(images), model(images).numpy()
    assert layer.in_scale == 1 and np.array_equal(layer.weight, model.conv.weight.detach().numpy())
    assert (layer.mult < 0).any() and (layer.mult > 0).any()
    np.testing.assert_array_equal(found.psum, sums.numpy())
    np.testing.assert_array_equal(found.decision, model.conv.decision.numpy())
    assert 0 < found.decision.mean() < 1
    assert np.abs(found.output - np.clip(wanted / layer.out_scale, 0, 127)).max() < 0.55


def test_decisions_are_equal_around_the_threshold():
    model, images = integer_model(False)
    base = (model.conv.weight * model.conv.base[:, :, None, None]).detach()
    sums = torch.nn.functional.conv2d(images, base, padding=1)
    at = sums[0, :, 2, 3]
    model.conv.gate_norm.eps = 0.0
    model.conv.gate_norm.running_var.fill_(1)
    model.conv.delta.data.zero_()
    for distance, opens in ((-1, True), (-0.5, True), (0, False), (0.5, False), (1, False)):
        model.conv.gate_norm.running_mean.copy_(at + distance)
        network = hwgate.quantize(model, images, CONFIG)
        assert np.array_equal(network.layers[0].threshold, np.floor((at + distance).numpy()))
        found = network.run(images)[0].decision
        model(images)
        assert (found[0, :, 2, 3] == opens).all()
        np.testing.assert_array_equal(found, model.conv.decision.numpy())


def test_thresholds_clamp_without_changing_decisions():
    model, images = integer_model(False)
    model.conv.delta.data = torch.tensor([1e9, -1e9] * 4, dtype=torch.float64)
    network = hwgate.quantize(model, images, CONFIG)
    assert set(network.layers[0].threshold) == {(1 << 31) - 1, -(1 << 31)}
    model(images)
    assert (network.run(images)[0].decision == model.conv.decision.numpy()).all()


def test_forced_open_model_is_ungated():
    model, images = integer_model(True)
    network = hwgate.quantize(model, images, CONFIG)
    dense = hwgate.quantize(force_open(model), images, CONFIG)
    assert not dense.layers[0].gated and dense.layers[0].base.all()
    assert np.array_equal(dense.run(images)[0].psum,
                          network.force_open().run(images)[0].psum)


def test_channel_that_never_changes_is_a_constant():
    model, images = integer_model(False)
    model.norm.weight.data[:2] = 0
    model.norm.bias.data[:2] = torch.tensor([1.5, -1.5])
    model.conv.weight.data[2] = 0
    network = hwgate.quantize(model, images, CONFIG)
    found = network.run(images)[0]
    wanted = model(images).detach().numpy()[:, :3] / network.layers[0].out_scale
    assert not network.layers[0].weight[:3].any() and not found.decision[:, :3].any()
    assert np.abs(found.output[:, :3] - np.clip(wanted, 0, 127)).max() <= 0.51


def test_bias_counts_psum_steps():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)).double().eval()
    model[0].weight.data.zero_()
    model[0].weight.data[:, 0, 1, 1] = torch.tensor([1, -1])
    model[0].bias.data = torch.tensor([5, 0]).double()
    model[1].eps = 0.0
    model[1].running_mean.copy_(torch.tensor([2, 4]))
    images = torch.arange(-127.0, 128)[None, None, None]
    config = replace(CONFIG, formats=FormatConfig(weight=2))
    network = hwgate.quantize(model, images, config)
    layer = network.layers[0]
    assert layer.in_scale == 1 and layer.bias.tolist() == [[3, 3], [-4, -4]]
    wanted = model(images.double()).detach().numpy() / layer.out_scale
    assert np.abs(network.run(images)[0].output - wanted).max() < 0.51


def chain(*modules):
    torch.manual_seed(0)
    model = nn.Sequential(*modules)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and module.track_running_stats:
            module.running_mean.normal_(0, 0.1)
            module.weight.data.normal_(1, 0.3)
            module.bias.data.normal_(0, 0.3)
        if isinstance(module, GatedConv2d):
            module.delta.data.normal_(0, 0.3)
            module.gate_norm.running_var.fill_(0.1)
    return model.eval()


def shuffled():
    return chain(nn.Conv2d(4, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), ChannelShuffle(4),
                 GatedConv2d(16, 16, 3, grouping=True), nn.BatchNorm2d(16), ChannelShuffle(2),
                 nn.ReLU(), nn.Dropout(0.5), nn.MaxPool2d(2), nn.Identity(),
                 nn.Conv2d(16, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                 nn.Linear(12, 5))


def test_network_follows_the_float_model():
    model, images = shuffled(), torch.rand(6, 4, 9, 8)
    network = hwgate.quantize(model, images, CONFIG)
    assert [(layer.name, layer.kernel, layer.padding, layer.relu, layer.pool, layer.reduce,
             layer.gated, layer.out_shape) for layer in network.layers] == [
        ("0", 3, 1, True, 1, False, False, (16, 9, 8)),
        ("4", 3, 0, True, 2, False, True, (16, 3, 3)),
        ("11", 3, 1, True, 1, False, False, (12, 3, 3)),
        ("15", 1, 0, False, 1, True, False, (5, 1, 1))]
    wanted = model(images).detach().numpy()
    error = network(images) * network.layers[-1].out_scale - wanted
    assert np.abs(error).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize("layer,groups", [(0, 4), (1, 2)])
def test_shuffle_reorders_the_outputs_before_it(layer, groups):
    model, images = shuffled(), torch.rand(2, 4, 9, 8)
    found = hwgate.quantize(model, images, CONFIG).layers[layer]
    model[{0: 3, 1: 6}[layer]] = nn.Identity()
    plain = hwgate.quantize(model, images, CONFIG).layers[layer]
    order = ChannelShuffle(groups)(torch.arange(16.0)[None, :, None, None]).flatten().int()
    names = ["weight", "base", "bias", "mult", "shift"] + ["threshold"] * found.gated
    for name in names:
        assert np.array_equal(getattr(found, name), getattr(plain, name)[order.numpy()])
    assert found.gated == bool(layer) and not np.array_equal(found.bias, plain.bias)


def test_functions_count_as_modules():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            x = torch.relu(self.conv(x)).relu()
            return self.linear(torch.flatten(x.mean((2, 3), keepdim=True), 1))

    torch.manual_seed(0)
    images = torch.rand(3, 3, 5, 5)
    model = Net().train()
    network = hwgate.quantize(model, images, CONFIG)
    wanted = model(images).detach().numpy()
    assert network.layers[0].relu and network.layers[1].reduce and model.training
    assert np.abs(network(images) * network.layers[1].out_scale - wanted).max() < 0.02


class SideBySide(nn.ModuleList):
    def forward(self, x):
        return torch.cat([part(x) for part in self], 1)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("modules,weights", [
    ([nn.Conv2d(4, 6, 4)], [(6, 4, 5, 5)]),
    ([nn.Conv2d(4, 6, (3, 1))], [(6, 4, 3, 3)]),
    ([nn.Conv2d(4, 6, 3, padding=2)], [(6, 4, 3, 3)]),
    ([nn.Conv2d(4, 6, 5, padding=(1, 2))], [(6, 4, 5, 5)]),
    ([nn.Conv2d(4, 6, 3, dilation=2, padding=2)], [(6, 4, 5, 5)]),
    ([nn.Conv2d(4, 6, 3, groups=2)], [(6, 4, 3, 3)]),
    ([nn.Conv2d(4, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)], [(6, 4, 3, 3), (6, 6, 3, 3)]),
    ([nn.Conv2d(4, 6, 3), nn.MaxPool2d(2), nn.MaxPool2d(2)], [(6, 4, 3, 3)]),
    ([nn.ReLU(), nn.Conv2d(4, 6, 3)], [(4, 4, 3, 3), (6, 4, 3, 3)]),
    ([nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(2)], [(6, 4, 3, 3), (6, 6, 3, 3)]),
    ([nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1)], [(6, 4, 3, 3), (6, 6, 1, 1)]),
    ([nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 5)], [(6, 4, 3, 3), (5, 6, 5, 5)]),
    ([nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5), nn.ReLU()],
     [(6, 4, 3, 3), (5, 6, 1, 1)]),
], ids=["even kernel", "narrow kernel", "wide padding", "uneven padding", "dilation", "groups",
        "norm behind ReLU", "two poolings", "ReLU first", "average to 2x2", "average at the end",
        "flattened map", "ReLU of a linear layer"])
def test_what_layers_take_in(modules, weights):
    """And which weights the layers have, spread out to square odd kernels."""
    model, images = chain(*modules), torch.rand(8, 4, 6, 6) * 2 - 1
    network = hwgate.quantize(model, images, CONFIG)
    assert [layer.weight.shape for layer in network.layers] == weights
    assert network.fidelity.worst.own > 30
    with torch.no_grad():
        wanted = model(images).reshape(8, *network.layers[-1].out_shape).numpy()
    assert np.abs(network.run(images)[-1].output - wanted / network.layers[-1].out_scale).max() < 3


@pytest.mark.parametrize("modules,sentence", [
    ([nn.Conv2d(4, 4, 9, padding=4)], "Layer '0' has kernel size 9, and supported are windows of "
     "up to 7x7 pixels; use a smaller kernel, or several in a row"),
    ([nn.Conv2d(4, 4, (1, 8), padding=(0, 4))], "Layer '0' has kernel size 1x8, and supported are "
     "windows of up to 7x7 pixels; use a smaller kernel, or several in a row"),
    ([nn.Conv2d(4, 4, 3, dilation=4, padding=4)], "Layer '0' has kernel size 3 and dilation 4, and "
     "supported are windows of up to 7x7 pixels; use a smaller kernel, or several in a row"),
    ([nn.Conv2d(4, 4, 3, stride=3)], "Layer '0' has stride 3, and supported is 1 or 2; use "
     "stride 2 and shrink the map further with MaxPool2d"),
    ([nn.Conv2d(4, 4, 3, stride=(1, 2))], "Layer '0' has stride 1x2, and supported is 1 or 2; use "
     "stride 2 and shrink the map further with MaxPool2d"),
    ([nn.Conv2d(4, 4, 3, padding=3)], "Layer '0' has padding 3, and supported is up to 2 above and "
     "on the left, and less than the kernel elsewhere; pad by less than the kernel"),
    ([nn.Conv2d(4, 4, 1, padding=1)], "Layer '0' has padding 1, and supported is up to 0 above and "
     "on the left, and less than the kernel elsewhere; pad by less than the kernel"),
    ([nn.Conv2d(4, 4, 7, padding=(3, 4))], "Layer '0' has padding 3x3x4x4, and supported is up to "
     "3 above and on the left, and less than the kernel elsewhere; pad by less than the kernel"),
    ([nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")], "Layer '0' picks values "
     "by an index, as padding other than with zeros does; pad with zeros"),
    ([nn.Conv2d(4, 4, 3), nn.Sequential(nn.Sigmoid())], f"Layer '1.0' is a sigmoid; supported are "
     f"{RUNS}"),
    ([nn.Conv2d(4, 4, 3), Function(torch.tanh)], f"Layer '1.tanh' is a tanh; supported are {RUNS}"),
    ([nn.Conv2d(4, 4, 3), Function(lambda x: x * x)], "Layer '1.mul' is a product of two values; "
     f"supported are {RUNS}"),
    ([nn.Conv2d(4, 4, 3), nn.Hardtanh(-1, 2)], "Layer '1' clamps to -1..2; clamp to 0..n, as "
     "ReLU6 does, or to -n..n"),
    ([nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)], "Layer '1' has no "
     "running statistics; train it with track_running_stats=True"),
    ([nn.Conv2d(4, 4, 3), nn.MaxPool2d(3, 2)], "Layer '1' is a max pooling of kernel 3, stride 2 "
     "and padding 0; use MaxPool2d(k) with equal edges and stride, without padding, dilation or "
     "ceil_mode"),
    ([nn.Conv2d(4, 4, 3), nn.Flatten(2)], "Layer '1' rearranges channels and pixels; flatten all "
     "but the batch"),
    ([nn.Conv2d(4, 4, 3), nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 2)], "Layer '2' is a "
     "batch norm of a flattened map; put it before the flattening"),
    ([nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(3)], "Layer '1' averages 4x4 pixels to 3x3; average "
     "to 1 pixel, or to edges that divide those of the map"),
    ([nn.Conv2d(4, 4, 3), nn.AvgPool2d(3)], "Layer '1' averages over 3 of 4x4 pixels with stride 3 "
     "and padding 0; use AvgPool2d of edge 2 to 7 and stride 1 or 2 that divides by the same "
     "number everywhere, or average over the whole map"),
    ([nn.Conv2d(4, 4, 3), Function(lambda x: x.mean(3))], "Layer '1.mean' averages over lines of "
     "4x4 pixels; average over all of them, or over squares"),
    ([nn.Conv2d(4, 4, 3, padding=2), nn.Flatten(), nn.Linear(256, 4)], "Layer '2' is a linear "
     "layer on 8x8 pixels, and supported are up to 7x7; put AdaptiveAvgPool2d(1) or poolings "
     "before it"),
    ([GatedConv2d(4, 4, 3)], "Layer '0' has base paths of 1 input channels, which must be a "
     "multiple of the 4 channels of a pass; choose other channels, another gate_groups or a "
     "smaller group"),
    ([nn.Conv2d(4, 16, 3), GatedConv2d(16, 4, 1)], "Layer '1' has base paths of 4 input channels, "
     "which must be a multiple of the 36 channels of a pass; choose other channels, another "
     "gate_groups or a smaller group"),
    ([SideBySide([nn.Conv2d(4, 2, 3), nn.Conv2d(4, 6, 3)]), GatedConv2d(8, 4, 3, gate_groups=2)],
     "Layer '1' has base paths of 4 input channels, which must be a multiple of the 4 channels of "
     "a pass in each of its 2 maps side by side; choose other channels, another gate_groups or a "
     "smaller group"),
    ([nn.Conv2d(4, 4, 3), Function(lambda x: x.to(torch.int32).float())], "Layer '1._to_copy' "
     "converts values to int32; keep them floating point"),
    ([nn.Identity()], f"The model has no layer to run; supported are {RUNS}"),
], ids=lambda v: v[:30] if isinstance(v, str) else "")
def test_what_cannot_be_mapped_is_named(modules, sentence):
    with pytest.raises(CompileError) as error:
        hwgate.quantize(chain(*modules), torch.rand(1, 4, 6, 6), CONFIG)
    assert str(error.value) == sentence


def test_gates_split_maps_side_by_side_between_their_groups():
    """At 6 of 12 channels, where the second map begins with a channel group of its own."""
    model = chain(SideBySide([nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)]),
                  GatedConv2d(12, 4, 3, gate_groups=2))
    network = hwgate.quantize(model, torch.rand(2, 4, 6, 6), CONFIG)
    job = hwgate.compile(network).plans[-1].jobs[0]
    assert (job.base, job.conditional) == ((0, 1), (2, 3))


def test_control_flow_cannot_be_traced():
    model = nn.Sequential(Function(lambda x: x if x.sum() > 0 else -x))
    with pytest.raises(CompileError, match=r"^Model Sequential cannot be exported for images of "
                       r"the shape 4x6x6 \(.*\); write its forward without control flow that "
                       "depends on values$"):
        hwgate.quantize(model, torch.rand(1, 4, 6, 6), CONFIG)


def test_accumulator_that_is_too_narrow():
    config = AcceleratorConfig(formats=FormatConfig(accumulator=20))
    model = chain(nn.Conv2d(64, 4, 3, bias=False))
    model[0].weight.data.fill_(1)
    with pytest.raises(CompileError) as error:
        hwgate.quantize(model, torch.rand(1, 64, 6, 6), config)
    assert str(error.value) == (
        f"Layer '0' can reach partial sums of {64 * 9 * 127 * 128}, and the 20-bit accumulator "
        f"holds {(1 << 19) - 1}; use a wider accumulator, narrower weights or fewer channels")


def test_parameters_that_are_not_finite():
    model = chain(nn.Conv2d(4, 4, 3))
    model[0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(CompileError) as error:
        hwgate.quantize(model, torch.rand(1, 4, 6, 6), CONFIG)
    assert str(error.value) == ("Layer '0' has parameters that are not finite, in channel "
                                "0; train it with a smaller learning rate")


@pytest.mark.parametrize("images,sentence", [
    (torch.zeros(1, 4, 6, 6, dtype=torch.int32), "Calibration images must be float or uint8, not "
     "int32"),
    (np.zeros((4, 6, 6)), "Calibration images must have the shape (N, C, H, W), or (N, C) of "
     "vectors, not (4, 6, 6)"),
    (np.zeros((1, 3, 6, 6)), "The model does not run on calibration images of the shape "
     "(1, 3, 6, 6): Given groups=1, weight of size [4, 4, 3, 3], expected input[2, 3, 6, 6] to "
     "have 4 channels, but got 3 channels instead"),
    (np.zeros((0, 4, 6, 6)), "A batch must have at least one image, not 0"),
    (np.full((1, 4, 6, 6), np.inf), "Images must be finite, not NaN or infinite"),
], ids=["type", "rank", "channels", "empty", "infinite"])
def test_bad_calibration_images(images, sentence):
    with pytest.raises(UserError) as error:
        hwgate.quantize(chain(nn.Conv2d(4, 4, 3)), images, CONFIG)
    assert str(error.value) == sentence


def test_images_smaller_than_the_kernel():
    with pytest.raises(UserError, match=r"^The model does not run on calibration images of the "
                       r"shape \(1, 4, 2, 2\): "):
        hwgate.quantize(chain(nn.Conv2d(4, 4, 3)), torch.rand(1, 4, 2, 2), CONFIG)


@given(st.floats(1e-7, 1e3), st.booleans(), st.sampled_from([8, 16]))
def test_multipliers_use_their_width(factor, negative, bits):
    factor = -factor if negative else factor
    (mult,), (shift,) = multipliers(np.array([factor]), FormatConfig(multiplier=bits))
    assert 1 << (bits - 2) <= abs(mult) <= (1 << (bits - 1)) - 1 and 1 <= shift <= 47
    if abs(factor) < 1 << (bits - 3):
        assert mult / 2**shift == pytest.approx(factor, rel=2**-(bits - 1))


def test_scale_clips_outliers_only_where_that_pays():
    values = np.linspace(-1, 1, 1001)
    assert activation_scale(np.arange(-7, 8), -8, 7) == 1
    assert activation_scale(np.append(values, 2), -8, 7) < 1.5 / 7
    assert activation_scale(np.zeros(3), -8, 7) == 1


@pytest.mark.parametrize("bits,drop", rest_slow([(8, 0.01), (6, 0.03)]))
def test_quantized_digits_are_as_accurate(bits, drop):
    digits = trained_digits()
    config = replace(CONFIG, formats=FormatConfig(activation=bits, weight=bits))
    network = hwgate.quantize(digits.model, digits.train_images, config)
    images, labels = torch.from_numpy(digits.test_images), torch.from_numpy(digits.test_labels)
    wanted = accuracy(digits.model, images, labels)
    found = float((network(images).argmax(1) == digits.test_labels).mean())
    assert wanted > 0.9 and found > wanted - drop
    by_name = dict(zip((layer.name for layer in network.layers), network.run(images), strict=True))
    for name, layer in gated_layers(digits.model):
        assert by_name[name].decision.mean() == pytest.approx(layer.density, abs=0.02)


@pytest.mark.parametrize("gain", [1e-6, 1e-5, 1.8e-5, 3e-5, 5e-5, 8.9e-5, 2e-4])
@pytest.mark.parametrize("residual", [False, True])
def test_small_gains_with_normal_offsets(gain, residual):
    """As of slimmed networks: the bias, in steps of the psum, is beyond 32 bits at full weights."""
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(256, 256, 3, padding=1), nn.BatchNorm2d(256)

        def forward(self, x):
            return self.norm(self.conv(x)) + (x if residual else 0)

    torch.manual_seed(0)
    model, images = Net().eval(), torch.rand(2, 256, 4, 4) * 2 - 1
    with torch.no_grad():
        model.norm.running_var.copy_(model.conv(images).var(dim=(0, 2, 3)))
        model.norm.weight[::2], model.norm.bias[::2] = gain, torch.randn(128) + 1
        network = hwgate.quantize(model, images, preset("cifar"))
        wanted = model(images).numpy() / network.layers[0].out_scale
    assert np.abs(network.run(images)[0].output - wanted).max() < 2.5
