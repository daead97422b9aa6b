"""States of the authors' own layer: gated layers that compute the same, also as integers."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hwgate
from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig
from hwgate.nn.cgconv import load_cgconv, read_cgconv
from hwgate.nn.gated import ChannelShuffle, GatedConv2d
from hwgate.nn.models import resnet20

ORACLE = Path(os.environ.get("HWGATE_DATA", "nowhere"), "oracles", "channel_gating.npz")
needs_oracle = pytest.mark.skipif(
    not ORACLE.is_file(),
    reason="needs the variable HWGATE_DATA, a folder with oracles/channel_gating.npz")
CASES = ["G2_group0", "G2_group1", "G4_group0", "G4_group1"]
torch.set_num_threads(1)  # tests run in parallel


def state_of(inputs=8, outputs=12, groups=4, grouping=False, bias=False, kernel=3, seed=0):
    """A state as the authors' layer would save it, in float64."""
    made = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=made, dtype=torch.float64)

    mask = torch.zeros(outputs, inputs, kernel, kernel, dtype=torch.float64)
    for group in range(groups):
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        first = (group if grouping else 0) * inputs // groups
        mask[rows, first:first + inputs // groups] = 1
    state = {"weight": draw(outputs, inputs, kernel, kernel), "mask": mask,
             "threshold": draw(1, outputs, 1, 1) / 2, "bn.running_mean": draw(outputs) / 4,
             "bn.running_var": draw(outputs).square() + 0.5,
             "bn.num_batches_tracked": torch.tensor(7)}
    return state | ({"bias": draw(outputs)} if bias else {})


def authors(state, x, **options):
    """Output and decisions by the formula, as their code has it: a bias is part of both sums."""
    base = F.conv2d(x, state["weight"] * state["mask"], state.get("bias"), **options)
    every = F.conv2d(x, state["weight"], state.get("bias"), **options)
    norm = F.batch_norm(base, state["bn.running_mean"], state["bn.running_var"])
    decision = norm > state["threshold"]
    return torch.where(decision, every, base), decision


def names_below(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("grouping", [False, True], ids=["first", "grouping"])
@pytest.mark.parametrize("groups", [2, 4])
def test_a_layer_computes_what_its_state_did(groups, grouping, bias):
    state = state_of(groups=groups, grouping=grouping, bias=bias)
    layer = read_cgconv(names_below(state, "module.conv1."), "module.conv1.", groups=groups).eval()
    assert (layer.gate_groups, layer.grouping) == (groups, grouping)
    assert layer.gate_norm.num_batches_tracked == 7
    x = torch.randn(3, 8, 7, 6, generator=torch.manual_seed(1), dtype=torch.float64)
    out, decision = authors(state, x, padding=1)
    assert 0.1 < decision.double().mean() < 0.9
    torch.testing.assert_close(layer(x), out)
    assert torch.equal(layer.decision, decision)


def test_stride_padding_and_gradient_options_are_given():
    state = state_of(kernel=5)
    layer = read_cgconv(state, stride=2, padding=1, alpha=3.0, sparse_bp=True).eval()
    x = torch.randn(2, 8, 9, 9, generator=torch.manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(layer(x), authors(state, x, stride=2, padding=1)[0])
    assert (layer.alpha, layer.sparse_bp) == (3.0, True)
    assert read_cgconv(state).padding == (2, 2)


def test_a_first_group_may_be_any_that_divides():
    """Of 6 channels in 4 groups the authors' mask has one, as of 6 groups."""
    state = state_of(inputs=6, groups=6)
    assert read_cgconv(state).gate_groups == 6
    x = torch.randn(2, 6, 5, 5, generator=torch.manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(read_cgconv(state).eval()(x), authors(state, x, padding=1)[0])


def changed(**changes):
    return {name: value for name, value in
            (state_of() | {name.replace("__", "."): value for name, value in changes.items()}
             ).items() if value is not None}


@pytest.mark.parametrize("state, options, sentence", [
    (changed(mask=None, bn__running_var=None), {},
     "Layer 'CGConv2d' of the state is no CGConv2d; it lacks mask, bn.running_var"),
    (state_of(), {"prefix": "layer1.0.conv1."},
     "Layer 'layer1.0.conv1' of the state is no CGConv2d; it lacks weight, mask, threshold, "
     "bn.running_mean, bn.running_var"),
    (changed(weight=torch.zeros(12, 8)), {},
     "Layer 'CGConv2d' of the state must have a weight of 4 dimensions, not 2"),
    (changed(threshold=torch.zeros(12)), {},
     "Layer 'CGConv2d' of the state must have a threshold of (1, 12, 1, 1), like its weight of "
     "(12, 8, 3, 3), not of (12,)"),
    (changed(bn__running_mean=torch.zeros(8)), {},
     "Layer 'CGConv2d' of the state must have a bn.running_mean of (12,), like its weight of "
     "(12, 8, 3, 3), not of (8,)"),
    (state_of(groups=4), {"groups": 2}, "Layer 'CGConv2d' of the state has 4 groups, not 2"),
    (state_of(groups=1), {},
     "Layer 'CGConv2d' of the state has one group, so nothing is gated; load it as an ordinary "
     "convolution"),
    *((changed(mask=scale * state_of()["mask"]), {},
       f"Layer 'CGConv2d' of the state must have a mask of ones and zeros, not of {scale:g}")
      for scale in (2, -1, 0.5, float("nan"))),
    *((changed(mask=mask), {},
       "Layer 'CGConv2d' of the state must have the first of equal groups of its 8 input channels "
       "as base path, or one for each of as many groups of its 12 output channels, which its mask "
       "has not") for mask in (
        torch.zeros(12, 8, 3, 3), state_of()["mask"].flip(1),
        state_of()["mask"] * torch.eye(3, dtype=torch.float64),
        F.pad(torch.ones(12, 3, 3, 3), (0, 0, 0, 0, 0, 5))))])
def test_a_state_that_does_not_fit_is_one_sentence(state, options, sentence):
    with pytest.raises(UserError) as error:
        read_cgconv(state, **options)
    assert str(error.value) == sentence


class Net(nn.Module):
    """A stem, two gated layers and a linear layer, written with plain convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.block = nn.ModuleDict({"conv1": nn.Conv2d(8, 12, 3, 2, 1, bias=False),
                                    "conv2": nn.Conv2d(12, 8, 3, padding=1, bias=False)})
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.block["conv2"](self.block["conv1"](x).relu()).relu()
        return self.linear(x.mean((2, 3)))


def whole_state(grouping=False):
    """Of :class:`Net` with the authors' layers, and its model."""
    torch.manual_seed(2)
    plain = Net().double().eval()
    layers = {"block.conv1.": state_of(8, 12, grouping=grouping),
              "block.conv2.": state_of(12, 8, grouping=grouping, seed=5)}
    state = {name: value for name, value in plain.state_dict().items()
             if not name.startswith("block")}
    for prefix, layer in layers.items():
        state |= names_below(layer, prefix)
    return plain, state, layers


@pytest.mark.parametrize("shuffle", [False, True], ids=["straight", "shuffle"])
@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "parallel"])
def test_a_whole_network_is_loaded(prefix, shuffle):
    plain, state, layers = whole_state(grouping=True)
    before = copy.deepcopy(plain.state_dict())
    model = load_cgconv(plain, names_below(state, prefix), shuffle=shuffle)
    assert not model.training and not any(m.training for m in model.modules())
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in before.items())
    x = torch.randn(2, 3, 8, 8, generator=torch.manual_seed(1), dtype=torch.float64)

    def mixed(y):
        return y.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2) if shuffle else y

    wanted = F.conv2d(x, state["stem.weight"], padding=1).relu()
    wanted = authors(layers["block.conv1."], mixed(wanted), padding=1, stride=2)[0].relu()
    wanted = authors(layers["block.conv2."], mixed(wanted), padding=1)[0].relu()
    wanted = F.linear(wanted.mean((2, 3)), state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(model(x), wanted)


def test_a_model_of_ours_takes_a_state_by_its_names():
    made = resnet20(gate_groups=4)
    state = {}
    for name, value in made.state_dict().items():
        name = name.replace(".gate_norm.", ".bn.").replace(".delta", ".threshold")
        state[name] = value[None, :, None, None] if name.endswith("threshold") else value
    for name, layer in made.named_modules():
        if isinstance(layer, GatedConv2d):
            state[f"{name}.mask"] = layer.base[:, :, None, None].expand_as(layer.weight).float()
    for target in (resnet20(), resnet20(gate_groups=4)):
        loaded = load_cgconv(target, state)
        assert {name: value.shape for name, value in loaded.state_dict().items()} == {
            name: value.shape for name, value in made.state_dict().items()}
        assert all(torch.equal(value, made.state_dict()[name])
                   for name, value in loaded.state_dict().items())
    with pytest.raises(UserError, match="^Layer 'layer1.0.conv1' of the state has 4 groups, not 2"):
        load_cgconv(resnet20(gate_groups=2), state)


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize("change, sentence", [
    (lambda model, state: {"stem.weight": state["stem.weight"]},
     "The state holds no CGConv2d below a module; such a layer has a weight, mask, threshold, "
     "bn.running_mean and bn.running_var"),
    (lambda model, state: without(state, "block.conv1.mask"),
     "Layer 'block.conv1' of the state is no CGConv2d; it lacks mask"),
    (lambda model, state: state | names_below(state_of(), "extra."),
     "The model has no layer 'extra', which is a CGConv2d of the state"),
    (lambda model, state: state | names_below(state_of(), "linear."),
     "Layer 'linear' of the model must be a convolution, as it is in the state, not Linear"),
    (lambda model, state: state | names_below(state_of(8, 16), "block.conv1."),
     "Layer 'block.conv1' of the state has a weight of (16, 8, 3, 3), but that of the model is of "
     "(12, 8, 3, 3)"),
    (lambda model, state: without(state, "linear.bias") | {"head": torch.zeros(1)},
     "The state must be of the same network as the model, but it lacks linear.bias and has head "
     "besides"),
    (lambda model, state: state | {"linear.bias": torch.zeros(10)},
     "Tensor 'linear.bias' of the state must be of (5,) as in the model, not of (10,)"),
    (lambda model, state: model.block.update({"conv1": nn.Conv2d(8, 12, 3, dilation=2)}) or state,
     "Layer 'block.conv1' of the model must be a convolution without groups and dilation that pads "
     "with zeros, not Conv2d(8, 12, kernel_size=(3, 3), stride=(1, 1), dilation=(2, 2))")])
def test_a_network_that_does_not_fit_is_one_sentence(change, sentence):
    model, state, _ = whole_state()
    with pytest.raises(UserError) as error:
        load_cgconv(model, change(model, state))
    assert str(error.value) == sentence


def integers_of(layer, images):
    """An imported layer as integers: its floats and decisions, the network, and what it runs."""
    model = nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(layer.out_channels, 3)).to(layer.weight.dtype).eval()
    config = AcceleratorConfig(channels=layer.in_channels // layer.gate_groups)
    network = hwgate.quantize(model, images, config)
    with torch.no_grad():
        model(images)
    return network, network.run(images)[0], layer.decision.numpy()


def check_integers(layer, images):
    """Decisions of the integers differ from those of the floats by rounding only."""
    network, run, wanted = integers_of(layer, images)
    differ = run.decision != wanted
    assert 0.1 < wanted.mean() < 0.9 and differ.mean() < 0.02
    # What rounding image and weights may add to a base sum, at most.
    every, base = layer.weight.detach().double(), layer.base[:, :, None, None].double()
    steps = network.layers[0].in_scale / 2, every.abs().amax((1, 2, 3)) / 254
    weight, coarse = every * base, (steps[1].view(-1, 1, 1, 1) * base).expand_as(every)
    x = images.double()
    reach = {"stride": layer.stride, "padding": layer.padding}
    bound = (F.conv2d(x.abs() + steps[0], coarse, **reach)
             + F.conv2d(torch.full_like(x, steps[0]), weight.abs(), **reach))
    norm, shape = layer.gate_norm, (-1, 1, 1)
    edge = (layer.delta.double() * (norm.running_var.double() + norm.eps).sqrt()
            + norm.running_mean.double())
    margin = (F.conv2d(x, weight, **reach) - edge.view(shape)).abs().detach()
    # A threshold is rounded down to a step of the sum.
    bound = bound + 2 * steps[0] * 2 * steps[1].view(shape)
    assert (margin <= bound).numpy()[differ].all()
    assert (margin > bound).double().mean() > 0.5  # the bound says something


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("grouping", [False, True], ids=["first", "grouping"])
def test_integers_decide_alike(grouping, bias):
    state = {name: value.float() if value.is_floating_point() else value for name, value in
             state_of(16, 16, grouping=grouping, bias=bias).items()}
    images = torch.randn(8, 16, 8, 8, generator=torch.manual_seed(3))
    check_integers(read_cgconv(state), images)


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def oracle_layer(oracle, case, **options):
    mask = oracle[f"{case}/mask"].float()[:, :, None, None].expand(-1, -1, 3, 3)
    return read_cgconv({"weight": oracle["in/W"], "mask": mask,
                        "threshold": oracle["in/delta"][None, :, None, None],
                        "bn.running_mean": oracle["in/running_mean"],
                        "bn.running_var": oracle["in/running_var"]}, padding=1, **options)


@needs_oracle
@pytest.mark.parametrize("case", [*(f"{name}_sparse{sparse}_{mode}" for name in CASES
                                    for sparse in (0, 1) for mode in ("eval", "train")),
                                  "G4_group1_sparse1_train_stride2",
                                  "G4_group1_sparse0_train_alpha4",
                                  "G4_group1_sparse1_eval_shuffle",
                                  "G4_group1_sparse1_train_shuffle"])
def test_the_authors_numbers(oracle, case):
    stride = 2 if case.endswith("stride2") else 1
    sparse = "sparse1" in case
    layer = oracle_layer(oracle, case, stride=stride, groups=int(case[1]), sparse_bp=sparse,
                         alpha=4.0 if case.endswith("alpha4") else 2.0).train("train" in case)
    x = oracle["in/x"].clone().requires_grad_()
    y = layer(ChannelShuffle(layer.gate_groups)(x) if "shuffle" in case else x)
    assert torch.equal(layer.decision, oracle[f"{case}/d"].bool())
    torch.testing.assert_close(y, oracle[f"{case}/y"], atol=1e-5, rtol=0)
    y.backward(oracle["in/gy_s2" if stride == 2 else "in/gy"])
    for name, found in (("gx", x.grad), ("gW", layer.weight.grad), ("gdelta", layer.delta.grad)):
        torch.testing.assert_close(found, oracle[f"{case}/{name}"], atol=2e-5, rtol=1e-5, msg=name)
    if layer.training:
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(layer.gate_norm, name),
                                       oracle[f"{case}/{name}_after"], atol=1e-5, rtol=0)


@needs_oracle
@pytest.mark.parametrize("name", CASES)
def test_integers_decide_as_the_authors_layer(oracle, name):
    layer = oracle_layer(oracle, f"{name}_sparse0_eval")
    check_integers(layer, oracle["in/x"])
    _, run, _ = integers_of(layer, oracle["in/x"])
    same = run.decision == oracle[f"{name}_sparse0_eval/d"].bool().numpy()
    assert same.mean() > 0.98


@needs_oracle
@pytest.mark.parametrize("group, fits", [(0, True), (1, False)])
def test_the_authors_uneven_groups(oracle, group, fits):
    """6 input channels in 4 groups: one channel each, and two that belong to none."""
    mask = oracle[f"uneven/mask_in6_out10_G4_group{group}"].double()[:, :, None, None]
    state = state_of(6, 10, groups=2) | {"mask": mask.expand(-1, -1, 3, 3)}
    if fits:
        x = torch.randn(2, 6, 5, 5, generator=torch.manual_seed(1), dtype=torch.float64)
        torch.testing.assert_close(read_cgconv(state).eval()(x), authors(state, x, padding=1)[0])
    else:
        with pytest.raises(UserError, match="which its mask has not$"):
            read_cgconv(state)
