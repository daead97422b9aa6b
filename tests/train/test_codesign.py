"""Budgets of cycles and bytes against the cost model, and that training keeps them."""

import numpy as np
import pytest
import torch
from torch import nn

import hwgate
from hwgate.compiler.balancing import balance
from hwgate.data.datasets import load_dataset
from hwgate.errors import UserError
from hwgate.machine.config import preset
from hwgate.nn.gated import GatedConv2d
from hwgate.nn.gates import gated_layers, set_density, settle_norms
from hwgate.nn.losses import kept_gates
from hwgate.train.codesign import BudgetLoss, GateCost, NetworkCost, measure_costs
from hwgate.train.qat import FakeQuantized
from hwgate.train.recipe import load_recipe
from hwgate.train.trained import build
from hwgate.train.training import train
from support.shares import rest_slow

CONFIG = preset("digits")
torch.set_num_threads(1)  # tests run in parallel


@pytest.fixture(scope="module")
def trained():
    """The digits, a settled model on them, and its costs."""
    data, model = load_dataset("digits"), build(load_recipe("digits"))
    images = data.normalize(data.train.images[:128])
    settle_norms(model, images)
    return data, model, images, measure_costs(model, images, CONFIG)


def test_costs_are_those_of_the_cost_model(trained):
    _, model, images, costs = trained
    for density, which in ((0, "closed"), (1, "opened")):
        set_density(model, images, density)
        network = hwgate.quantize(model, images, CONFIG)
        run = hwgate.estimate(hwgate.compile(network, CONFIG), images[:1].numpy())
        assert costs["cycles"].at(density) == run.cycles
        assert costs["bytes"].at(density) == run.bytes_total
        found = {name: getattr(cost, which) for name, cost in costs["cycles"].layers.items()}
        assert found == {layer.name: layer.cycles for layer in run.layers if layer.gated}
    dense = hwgate.estimate(hwgate.compile(network, CONFIG, dense=True), images[:1].numpy())
    assert (costs["cycles"].dense, costs["bytes"].dense) == (dense.cycles, dense.bytes_total)


@pytest.mark.parametrize("granularity", ["slice", "pixel"])
def test_shared_gates_cost_what_balanced_ones_do(trained, granularity):
    """Scores are part of it, on the lanes that have their channels."""
    images = trained[2]
    model = build(load_recipe("digits").changed(
        {"gate.granularity": granularity, "gate.slice": 4}))
    settle_norms(model, images)
    costs = measure_costs(model, images, CONFIG)
    for density in (0, 1):
        set_density(model, images, density)
        network = hwgate.quantize(model, images, CONFIG)
        found, plain = (hwgate.estimate(hwgate.compile(each), images[:1].numpy())
                        for each in (balance(network, images[:8].numpy()), network))
        assert costs["cycles"].at(density) == found.cycles
        assert costs["bytes"].at(density) == found.bytes_total
        assert granularity == "pixel" or found.cycles < plain.cycles


@pytest.mark.parametrize("kind,tolerance", [("cycles", 0.1), ("bytes", 0.05)])
@pytest.mark.parametrize("density", [0.05, 0.3, 0.6])
def test_predictions_follow_the_cost_model(trained, kind, tolerance, density):
    _, model, images, costs = trained
    set_density(model, images, density)
    network = hwgate.quantize(model, images, CONFIG)
    run = hwgate.estimate(hwgate.compile(network, CONFIG), images[:1].numpy())
    wanted = run.cycles if kind == "cycles" else run.bytes_total
    with kept_gates(model), torch.no_grad():
        model.eval()(images[:1])
        found = float(BudgetLoss(kind, costs[kind], 0.5).predicted(model))
    assert found == pytest.approx(wanted, rel=tolerance)


def test_the_excess_is_the_formula():
    model = build(load_recipe("digits"))
    names = [name for name, _ in gated_layers(model)]
    cost = NetworkCost(100, {name: GateCost(10, 50) for name in names}, 500)
    gates = torch.zeros(2, 4, 2, 2)
    gates[0, 0] = 1  # an eighth of the gates; one of the eight channels and images
    gates[1, 1, 0, 0] = 1
    with kept_gates(model):
        for _, layer in gated_layers(model):
            layer.gates = gates
        for kind, busy in (("cycles", 5 / 32), ("bytes", 2 / 8)):
            wanted = 100 + 4 * (10 + 40 * busy)
            loss = BudgetLoss(kind, cost, 0.2, weight=3.0)
            assert float(loss.predicted(model)) == pytest.approx(wanted)
            assert float(loss(model)) == pytest.approx(3 * (wanted / 500 - 0.2))
        assert float(BudgetLoss("cycles", cost, 0.9)(model)) == 0


class Outer(nn.Module):
    """Has its network at a name that wrappers have, too."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


def fake(model):
    return FakeQuantized(model, torch.randn(4, 8, 6, 6), CONFIG)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, of torch.compile
@pytest.mark.parametrize("before, after", [
    (lambda m: m, lambda m: m), (Outer, lambda m: m), (nn.DataParallel, lambda m: m),
    (lambda m: m, nn.DataParallel), (Outer, fake), (nn.DataParallel, fake),
    (torch.compile, lambda m: m)],
    ids=["plain", "outer", "parallel", "parallel after", "fake outer", "fake parallel", "compiled"])
def test_wrapped_models_are_looked_into(before, after):
    torch.manual_seed(0)
    model = before(nn.Sequential(GatedConv2d(8, 8, 3, gate_groups=2), nn.ReLU()).eval())
    cost = NetworkCost(100, {name.removeprefix("module.").removeprefix("_orig_mod."): GateCost(
        10, 50) for name, _ in gated_layers(model)}, 500)
    whole = after(model)
    with kept_gates(whole):
        for _, layer in gated_layers(whole):
            layer.gates = torch.ones(4, 8, 4, 4)
        assert float(BudgetLoss("cycles", cost, 0.0).predicted(whole)) == 150


def test_costs_of_other_layers_are_refused():
    model = nn.Sequential(GatedConv2d(8, 8, 3, gate_groups=2))
    loss = BudgetLoss("cycles", NetworkCost(100, {"body.0": GateCost(10, 50)}, 500), 0.0)
    with pytest.raises(UserError) as error:
        loss(model)
    assert str(error.value) == ("A budget has the cost of a layer 'body.0', but the gated layers "
                                "of the model are 0; measure the costs of this model")


@pytest.mark.parametrize("kind", rest_slow(["cycles", "bytes"]))
def test_a_budget_is_approached(trained, kind):
    """Without any pull on thresholds, the budget alone closes gates."""
    data, _, images, costs = trained
    recipe = load_recipe("digits").changed({"loss.penalty": 0.0, "optimizer.epochs": 4})
    shares = []
    for weight in (0.0, 3.0):
        model = build(recipe)
        loss = BudgetLoss(kind, costs[kind], 0.5, weight)
        history = train(model, data, recipe, terms=(loss,))
        with kept_gates(model), torch.no_grad():
            model.eval()(images)
            shares.append(float(loss.predicted(model)) / costs[kind].dense)
        assert history[-1].accuracy > 0.8
    assert shares[1] < shares[0] - 0.05
    assert np.isfinite(shares).all()
