"""Gating a user's own network: what is gated, what is left, and that weights are kept."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import hwgate
from hwgate.errors import UserError
from hwgate.machine.config import preset
from hwgate.nn import convert
from hwgate.nn.convert import gate
from hwgate.nn.gated import GatedConv2d
from hwgate.nn.gates import force_open, gated_layers, settle_norms
from hwgate.nn.models import resnet20

torch.set_num_threads(1)  # tests run in parallel


class Zoo(nn.Module):
    """Every way in which a convolution can miss its gate, and three that can be gated."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.good = nn.Sequential(nn.Conv2d(8, 16, 3, padding="same", bias=True),
                                  nn.BatchNorm2d(16), nn.ReLU())
        self.function, self.function_norm = nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.bare = nn.Conv2d(16, 16, 1)
        self.late, self.late_norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.sigmoid = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.Sigmoid())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16),
                                       nn.BatchNorm2d(16), nn.ReLU())
        self.dilated = nn.Sequential(nn.Conv2d(16, 16, 3, padding=2, dilation=2),
                                     nn.BatchNorm2d(16), nn.ReLU())
        self.twice = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.forked, self.forked_norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)
        self.point = nn.Sequential(nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), nn.ReLU())
        self.odd = nn.Sequential(nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        x = self.good(self.stem(x))
        x = torch.relu(self.function_norm(self.function(x)))
        x = torch.relu(self.late_norm(self.late(self.bare(x))) + x)
        x = self.dilated(self.depthwise(self.sigmoid(x)))
        x = self.twice(self.twice(x))
        y = self.forked(x)
        x = torch.relu(self.forked_norm(y)) + y
        return self.odd(self.point(x))


def images(count=4):
    return torch.randn(count, 3, 12, 12, generator=torch.manual_seed(1))


def zoo():
    torch.manual_seed(0)
    return settle_norms(Zoo(), images())


def test_every_convolution_is_gated_or_named_with_its_reason():
    found = gate(zoo(), 8, skip=["point"])
    assert found.gated == ("good.0", "function", "odd.0")
    assert {layer.name: layer.reason for layer in found.left} == {
        "stem.0": "has 3 input channels, which 8 groups do not divide",
        "bare": "goes to Conv2d, not straight to a batch norm",
        "late": "its batch norm goes to add, not straight to a ReLU",
        "sigmoid.0": "its batch norm goes to Sigmoid, not straight to a ReLU",
        "depthwise.0": "is a grouped convolution of 16 groups",
        "dilated.0": "has a dilation, or pads with something other than zeros",
        "twice.0": "runs more than once",
        "forked": "goes to several places, not straight to a batch norm",
        "point.0": "skipped, as asked"}
    assert found.describe().splitlines()[:2] == [
        "3 convolutions gated, 9 left",
        "stem.0: has 3 input channels, which 8 groups do not divide"]
    again = gate(found.model, 8)
    assert again.gated == ("point.0",)
    delta = found.model.get_submodule("odd.0").delta
    kept = gate(found.model, 8, images=images()).model.get_submodule("odd.0").delta
    assert torch.equal(kept, delta)
    assert {layer.name: layer.reason for layer in again.left}["odd.0"] == "is gated already"


def test_weights_are_kept_and_the_model_is_not_changed():
    model = zoo()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = gate(model, 4, images=images())
    assert not any(isinstance(m, GatedConv2d) for m in model.modules())
    for name, value in before.items():
        assert torch.equal(value, model.state_dict()[name])
        assert torch.equal(value, found.model.state_dict()[name]), name
    with torch.no_grad():
        gated, dense = found.model(images()), force_open(found.model)(images())
        torch.testing.assert_close(dense, model(images()), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(gated, dense, atol=1e-2)
    assert not found.model.training


def test_thresholds_open_a_share():
    net = gate(zoo(), 4, images=images(), density=0.25).model
    net(images())
    for _, layer in gated_layers(net):
        assert layer.density == pytest.approx(0.25, abs=0.02)
        assert layer.gate_norm.running_var.std() > 0


def test_accelerator_decides_what_is_eligible():
    found = gate(zoo(), 4, config=preset("digits"))
    assert found.gated == ("function",)
    reasons = {layer.name: layer.reason for layer in found.left}
    assert reasons["good.0"] == ("has a base path of 2 input channels, which must be a multiple "
                                 "of the 4 of a pass")
    assert reasons["odd.0"].endswith("a multiple of the 36 of a pass")
    assert reasons["point.0"].startswith("has a base path of 4")


def test_groups_fit_the_accelerator():
    found = gate(zoo(), 8, config=preset("digits"), base_channels=preset("digits").channels)
    assert found.gated == ("good.0", "function")
    assert [layer.gate_groups for _, layer in gated_layers(found.model)] == [2, 4]
    reasons = {layer.name: layer.reason for layer in found.left}
    assert reasons["stem.0"] == "has 3 input channels, too few for two base paths of the least size"
    assert reasons["odd.0"].endswith("a multiple of the 36 of a pass")


def test_a_share_that_does_not_divide_is_a_reason():
    found = gate(zoo(), 4, share=12)
    assert found.gated == ("point.0",)
    assert ("odd.0", "A gate must be shared by a number of channels that divides 8, not 12") in [
        (layer.name, layer.reason) for layer in found.left]


def test_a_gated_copy_quantizes_and_learns():
    torch.manual_seed(0)
    model = settle_norms(resnet20(width=0.5), torch.randn(8, 3, 16, 16))
    found = hwgate.gate(model, 2, config=preset("cifar"), images=torch.randn(8, 3, 16, 16))
    assert len(found.gated) == 9 and {layer.name for layer in found.left} == {
        "conv1", *(f"layer{stage}.{block}.conv2" for stage in (1, 2, 3) for block in range(3))}
    network = hwgate.quantize(found.model, torch.randn(4, 3, 16, 16), preset("cifar"))
    assert sum(layer.gated for layer in network.layers) == 9
    found.model.train()(torch.randn(2, 3, 16, 16)).sum().backward()
    layer = found.model.get_submodule("layer2.1.conv1")
    assert layer.weight.grad.any() and layer.delta.grad.any() and layer.sparse_bp


class Untraceable(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("model,options,sentence", [
    (Zoo, {"skip": ["stem", "nope"]}, "There is no module 'nope' to skip; there are stem, "),
    (Zoo, {"groups": 1}, "Gate group count must be at least 2, not 1"),
    (Zoo, {"density": 0.5}, "A density of 0.5 needs images to choose thresholds on"),
    (Untraceable, {}, "Model Untraceable cannot be traced (symbolically traced variables cannot be "
     "used as inputs to control flow); write its forward without control flow, or put GatedConv2d "
     "in by hand"),
], ids=["skip", "groups", "density", "trace"])
def test_errors(model, options, sentence):
    with pytest.raises(UserError) as error:
        gate(model(), **options)
    assert str(error.value).startswith(sentence)


def computed(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                          nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Identity(),
                          nn.ReLU()).eval()
    wrap(model[0])
    return model


@pytest.mark.parametrize("wrap", [
    lambda conv: prune.l1_unstructured(conv, "weight", 0.5), parametrizations.spectral_norm,
    parametrizations.weight_norm, lambda conv: conv.register_forward_hook(lambda m, i, o: 2 * o)],
    ids=["pruned", "spectral norm", "weight norm", "hook"])
def test_computed_weights_are_left(wrap):
    """What is left computes what it did, and the other convolution is gated behind an Identity."""
    model, images = computed(wrap), torch.randn(4, 8, 6, 6)
    found = hwgate.gate(model, 2, images=images.numpy())
    assert found.gated == ("3",)
    assert [(layer.name, layer.reason) for layer in found.left] == [
        ("0", "has hooks, or computes its weights (pruning, weight or spectral norm)")]
    with torch.no_grad():
        torch.testing.assert_close(force_open(found.model.eval())(images), model(images))


class Names(nn.Module):
    """Holds the same convolution in several ways, and calls it by one of them."""

    def __init__(self, call):
        super().__init__()
        self.conv, self.norm, self.call = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), call
        self.body = nn.Sequential(self.conv, self.norm, nn.ReLU())
        self.parts, self.weights = [self.conv, self.norm], {"conv": self.conv.weight}

    def forward(self, x):
        return torch.relu(self.call(self, x)) + self.weights["conv"].sum()


@pytest.mark.parametrize("call", [
    lambda m, x: m.body(x), lambda m, x: m.norm(m.conv(x)),
    lambda m, x: m.parts[1](m.parts[0](x))], ids=["sequence", "attribute", "list"])
@pytest.mark.parametrize("skip", [[], ["body"], ["conv"]])
def test_a_convolution_of_several_names_is_one(call, skip):
    torch.manual_seed(0)
    images = torch.randn(4, 8, 6, 6)
    found = gate(Names(call), 2, skip=skip, images=images)
    assert found.gated == (() if skip else ("conv",))
    net = found.model
    assert net.conv is net.body[0] is net.parts[0] and net.conv.weight is net.weights["conv"]
    assert isinstance(net.conv, GatedConv2d) == (not skip)
    if not skip:
        net(images)
        assert 0.4 < net.conv.density < 0.6


def test_a_copy_that_calls_the_original_is_refused():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    model = Names(lambda m, x: m.norm(conv(x)))
    model.conv = model.body[0] = model.parts[0] = conv
    with pytest.raises(UserError, match="^Model Names cannot be traced .module is not installed"):
        gate(model, 2)


class Doubling(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def buffered(conv):
    bias = conv.bias.detach()
    del conv.bias
    conv.register_buffer("bias", bias)


HOOKS = "has hooks, or computes its weights (pruning, weight or spectral norm)"


@pytest.mark.parametrize("change, reason", [
    (buffered, "has bias of its own"),
    (lambda conv: setattr(conv, "forward", lambda x: x), "has forward of its own"),
    (lambda conv: setattr(conv, "_conv_forward", lambda *x: x[0]), "has _conv_forward of its own"),
    (lambda conv: setattr(conv, "gain", 2.0), "has gain of its own"),
    (lambda conv: setattr(conv, "gain", nn.Parameter(torch.ones(1))), "has gain of its own"),
    (lambda conv: conv.add_module("after", nn.ReLU()), "has after of its own"),
    (lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight[:4].detach())),
     "has a weight of (4, 8, 3, 3), which its channels and kernel are not"),
    (lambda conv: conv.register_full_backward_hook(lambda *all: None), HOOKS),
    (lambda conv: conv.register_state_dict_post_hook(lambda *all: None), HOOKS),
    (lambda conv: conv.weight.register_hook(lambda grad: 2 * grad), HOOKS),
    (lambda conv: conv.bias.register_post_accumulate_grad_hook(lambda p: None), HOOKS)])
def test_what_is_more_than_a_convolution_is_left(change, reason):
    model = computed(change)
    found = hwgate.gate(model, 2)
    assert found.gated == ("3",) and [(layer.name, layer.reason) for layer in found.left] == [
        ("0", reason)]


def test_subclasses_and_what_is_not_called_are_left():
    model = computed(lambda conv: None)
    model[0] = Doubling(8, 8, 3, padding=1)
    model[5].spare = nn.Conv2d(8, 8, 1)
    found = hwgate.gate(model, 2)
    assert found.gated == ("3",) and [(layer.name, layer.reason) for layer in found.left] == [
        ("0", "is a Doubling, which may be more than a convolution"),
        ("5.spare", "is not called by a forward that can be traced")]


def test_marks_of_libraries_are_no_obstacle():
    assert hwgate.gate(computed(lambda conv: setattr(conv, "_mark", True)), 2).gated == ("0", "3")


@pytest.mark.parametrize("images", [
    torch.rand(4, 8, 6, 6).double().numpy(), (torch.rand(4, 8, 6, 6) * 255).byte(),
    list(torch.rand(4, 8, 6, 6)), torch.rand(4, 8, 6, 6).numpy()[..., ::-1]],
    ids=["float64", "uint8", "list", "strides"])
def test_images_in_every_form(images):
    assert hwgate.gate(computed(lambda conv: None), 2, images=images).gated == ("0", "3")


@pytest.mark.parametrize("images, sentence", [
    (torch.rand(4, 2, 6, 6), "The model does not run on images of the shape (4, 2, 6, 6): Given "),
    (torch.rand(8, 6, 6), "Calibration images must have the shape (N, C, H, W), or (N, C) of "),
    (torch.rand(0, 8, 6, 6), "A batch must have at least one image, not 0")])
def test_images_that_do_not_fit_are_one_sentence(images, sentence):
    with pytest.raises(UserError) as error:
        hwgate.gate(computed(lambda conv: None), 2, images=images)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_every_precision(dtype):
    model = computed(lambda conv: None).to(dtype)
    assert hwgate.gate(model, 2, images=torch.randn(8, 8, 6, 6)).model[0].weight.dtype == dtype


def test_a_gated_network_is_gated_further():
    """Old gates near their thresholds may decide otherwise."""
    torch.manual_seed(0)
    images = torch.randn(16, 8, 12, 12)
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
              for _ in range(4)]
    first = gate(settle_norms(nn.Sequential(*blocks), images), 2, skip=["0", "1"], images=images)
    found = gate(first.model, 2, images=images)
    assert found.gated == ("0.0", "1.0")
    assert not any(layer.force_open for _, layer in gated_layers(found.model))


def test_shared_weights_stay_shared():
    model = computed(lambda conv: None)
    model[3].weight = model[0].weight
    found = hwgate.gate(model, 2)
    assert not found.gated and {layer.reason for layer in found.left} == {
        "shares its weights with another layer"}
    assert found.model[3].weight is found.model[0].weight


def test_frozen_parameters_stay_frozen():
    model = computed(lambda conv: conv.bias.requires_grad_(False))
    made = hwgate.gate(model, 2).model[0]
    assert isinstance(made, GatedConv2d)
    assert made.weight.requires_grad and not made.bias.requires_grad


def test_a_copy_that_differs_is_refused(monkeypatch):
    monkeypatch.setattr(convert, "_gated", lambda conv, **options: GatedConv2d(
        8, 8, 3, padding=1, bias=True, gate_groups=2))
    with pytest.raises(UserError, match="^With all gates open the copy computes something else "):
        hwgate.gate(computed(lambda conv: None), 2, images=torch.randn(4, 8, 6, 6))
