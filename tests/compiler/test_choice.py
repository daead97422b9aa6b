"""The compiler's choice: exact costs, bounds that hold, and the winner of a comparison of all."""

import re
from dataclasses import replace

import numpy as np
import pytest

import hwgate
import hwgate.compiler.choice
from hwgate.compiler.choice import assumed, choose, densities, measure
from hwgate.compiler.program import Binding
from hwgate.errors import UserError
from hwgate.machine.config import MemoryTiming
from hwgate.machine.layouts import FIRST, LAST
from hwgate.plan.geometry import Band, Tiling
from hwgate.plan.goal import OBJECTIVES, Goal
from hwgate.quant.network import QuantizedNetwork
from hwgate.schedule import OpenPixels
from support.geometry_cases import make_layer
from support.random_layers import Features, random_images, random_network
from support.residency_cases import ROOMY, SMALL, many_layers


def bound_program(seed, config, batch, **options):
    """A random program and a batch, gated or not, with some maps on chip."""
    network = many_layers(seed, config)
    program = hwgate.compile(network, **options)
    return program.bind(np.zeros((batch, *network.image_shape), np.int8))


def every_case(binding):
    return [(choice, candidate, binding.case(index, candidate))
            for index, choice in enumerate(binding.choices)
            for candidate in binding._candidates[index]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("density", [0.0, 0.03, 0.4, 1.0])
def test_bounds_hold_and_bytes_are_exact(seed, density):
    timing = MemoryTiming(read_latency=2 + 20 * (seed % 2), beat_interval=1 + seed % 3)
    for config in (SMALL, ROOMY):
        binding = bound_program(seed, config, 3, density=density, timing=timing, dense=seed == 5)
        for _, _, case in every_case(binding):
            bound, exact = case.bound(), measure(case)
            assert bound.bytes == exact.bytes
            assert exact.cycles / 20 < bound.cycles <= exact.cycles


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(5))
def test_the_winner_is_that_of_comparing_everything(objective, seed):
    binding = bound_program(seed, ROOMY, 7, objective=objective)
    slack = 1 + OBJECTIVES[objective]
    compared = 0
    for index, choice in enumerate(binding.choices):
        costs = [(candidate, measure(binding.case(index, candidate)))
                 for candidate in binding._candidates[index]]
        limit = slack * min(cost.cycles for _, cost in costs)
        best, _ = min((pair for pair in costs if pair[1].cycles <= limit),
                      key=lambda pair: (pair[1].bytes, pair[1].cycles))
        assert choice.candidate is best
        assert len(choice.compared) == (len(costs) if len(costs) > 1 else 0)
        for option, (candidate, cost) in zip(choice.compared, costs, strict=False):
            assert option.candidate is candidate and option.cost.bytes == cost.bytes
            assert option.cost.cycles == cost.cycles if option.exact else (
                option.cost.cycles <= cost.cycles)
            compared += 1
    assert compared > 8


def test_small_maps_share_weights_and_large_ones_do_not():
    """Maps of few pixels wait for weights, so they share them; large ones only wait to be loaded
    together, which the fewest bytes do not mind."""
    def taken(channels, edge, objective="balanced"):
        network = QuantizedNetwork(ROOMY, (make_layer(channels, edge, edge, channels),))
        program = hwgate.compile(network, objective=objective)
        return program.bind(np.zeros((8, channels, edge, edge), np.int8)).choices[0]

    small, large, fewest = taken(128, 2), taken(4, 16), taken(4, 16, "bytes")
    assert [choice.candidate.tiling.per_tile for choice in (small, large, fewest)] == [8, 1, 4]
    # The smallest tiles of weights could never be fast enough, and were not measured.
    assert [option.exact for option in small.compared] == [False] * (len(small.compared) - 1) + [
        True]


def test_costs_are_remembered(monkeypatch):
    calls = []
    monkeypatch.setattr(hwgate.compiler.choice, "_measured", {})
    real = hwgate.compiler.choice.schedule_layer
    monkeypatch.setattr(hwgate.compiler.choice, "schedule_layer",
                        lambda *args: calls.append(args) or real(*args))
    layer = make_layer(16, 4, 4, 16)
    network = QuantizedNetwork(ROOMY, (layer, replace(layer, name="twin"), replace(
        layer, name="other", pool=2)))
    images = np.zeros((8, 16, 4, 4), np.int8)
    hwgate.compile(network).bind(images)
    first = len(calls)
    assert {args[2].layer.name for args in calls} == {"conv", "other"}
    weights = replace(layer, weight=layer.weight * 2)
    hwgate.compile(replace(network, layers=(weights, *network.layers[1:]))).bind(images)
    assert len(calls) == first
    hwgate.compile(network, timing=MemoryTiming(read_latency=9)).bind(images)
    assert len(calls) == 2 * first


def test_choosing_between_other_kinds_of_candidates():
    """Whatever differs in its descriptors is compared alike: here, the place of the input."""
    binding = bound_program(1, ROOMY, 4)
    case = binding.case(1, binding._candidates[1][0])
    found = [replace(binding._candidates[1][0], limit=limit) for limit in ("off chip", "on chip")]
    cases = {limit: replace(case, descriptor={**case.descriptor, "in_chip": limit == "on chip"})
             for limit in ("off chip", "on chip")}
    for objective in OBJECTIVES:
        choice = choose(found, lambda candidate: cases[candidate.limit], objective)
        assert choice.candidate.limit == "on chip"
        assert choice.compared[1].exact


@pytest.mark.parametrize("share", [0.0, 0.01, 0.12, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("tiles, channels, pixels", [(1, 16, 4), (3, 64, 1), (2, 12, 50)])
def test_assumed_decisions_have_the_density_in_every_lane(share, tiles, channels, pixels):
    fields = {"tiles": tiles, "round_tiles": tiles, "out_channels": channels, "images": 1,
              "gate_limit": 0, "out_pixels": pixels}
    fields |= {f"{name}_first": fields.get(name, 0) for name in FIRST}
    fields |= {f"{name}_last": fields.get(name, 0) for name in LAST}
    opened = assumed(share, fields)
    assert opened.count.shape == (tiles, channels)
    assert abs(opened.count.mean() - share * pixels) < 0.5
    for lane in range(4):
        assert abs(opened.count[:, lane::4].mean() - share * pixels) < 0.7
    assert np.ptp(opened.count) <= 1
    assert (opened.first >= 0).all() and (opened.last < pixels).all()
    some = opened.count > 0
    assert (opened.first <= opened.last)[some].all()
    assert (opened.last - opened.first + 1 >= opened.count)[some].all()
    if share in (0, 1):
        decision = np.full((tiles, channels, pixels, 1), bool(share))
        exact = OpenPixels.of(decision, Tiling((Band(0, pixels),), tiles))
        for name in ("count", "first", "last"):
            assert (getattr(opened, name) == getattr(exact, name)).all()


def test_measured_densities_are_those_of_the_golden_model():
    rng = np.random.default_rng(5)
    network = random_network(rng, ROOMY, layers=4, features=Features.every(), gated=True)
    images = random_images(rng, network, 3)
    seen = network.run(images)
    found = densities(network, seen)
    assert found == {layer.name: result.decision.mean() for layer, result in
                     zip(network.layers, seen, strict=True) if layer.gated}
    program = hwgate.compile(network, density=found)
    case = program.bind(images).case(0, program.bind(images)._candidates[0][0])
    assert case.density == found.get(network.layers[0].name, 1.0)
    missing = next(iter(found))
    with pytest.raises(UserError, match=f"^Densities of layers must name every gated layer, so "
                                        f"'{missing}', too$"):
        hwgate.compile(network, density={n: d for n, d in found.items() if n != missing})
    hwgate.compile(network, dense=True, density={})


@pytest.mark.parametrize("options, sentence", [
    ({"objective": "speed"}, "There is no objective 'speed'; there are cycles, balanced, bytes"),
    ({"density": -0.1}, "Density must be in 0..1, not -0.1"),
    ({"density": {"conv": 2}}, "Density of layer 'conv' must be in 0..1, not 2")])
def test_bad_goals_are_refused(options, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        Goal(**options)


def test_the_choice_follows_the_maps():
    """Bindings of one program with other maps on chip weigh the bus anew."""
    program = hwgate.compile(many_layers(0, SMALL))
    images = np.zeros((2, *program.network.image_shape), np.int8)
    kept, plain = program.bind(images), Binding(program, images, chip={})
    assert kept.chip and not plain.chip
    index = min(kept.chip)
    taken = kept.choices[index].candidate
    assert kept.case(index, taken).descriptor["out_chip"]
    assert not plain.case(index, taken).descriptor["out_chip"]
    assert measure(kept.case(index, taken)).bytes < measure(plain.case(index, taken)).bytes
