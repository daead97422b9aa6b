"""Alternatives of the compiler's choices: their costs are those of programs that make them."""

from dataclasses import replace

import numpy as np
import pytest

import hwgate
from hwgate.compiler import Binding
from hwgate.config import MemoryTiming
from hwgate.errors import UserError
from hwgate.explain import explain
from hwgate.schedule import OpenPixels, schedule_layer
from residency_cases import SMALL, banded_network, many_layers


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("density, share, dense", [("closed", 0.0, False), ("any", 1.0, True)])
def test_the_program_costs_what_the_cost_model_says(seed, density, share, dense):
    timing = MemoryTiming(read_latency=5)
    program = hwgate.compile(many_layers(seed, SMALL, density=density), dense=dense)
    found = explain(program, 2, timing, share)
    run = hwgate.estimate(program, np.zeros((2, *program.network.image_shape), np.int8), timing)
    assert found.cycles == sum(layer.cycles for layer in run.layers)
    assert found.bytes == sum(layer.bytes_total for layer in run.layers)


@pytest.mark.parametrize("made", [many_layers(0, SMALL), many_layers(2, SMALL),
                                  banded_network(SMALL)], ids=["chain", "branches", "bands"])
def test_one_alternative_of_each_choice_is_taken(made):
    program = hwgate.compile(made)
    found = explain(program, 2)
    for plan in program.plans:
        rows = [row for row in found.alternatives if row.layer == plan.layer.name]
        for choice in ("rows", "output"):
            taken, = [row for row in rows if row.choice == choice and row.chosen]
            assert taken.bytes and taken.cycles and taken.reason
        words = f"{len(plan.bands)} bands" if len(plan.bands) > 1 else "all"
        assert [row.alternative.startswith(words) for row in rows
                if row.choice == "rows" and row.chosen] == [True]
    order = [plan.layer.name for plan in program.plans]
    assert [row.layer for row in found.alternatives] == sorted(
        (row.layer for row in found.alternatives), key=order.index)


def whole(binding):
    """Bytes of a whole program with every gate open."""
    total = 0
    for plan, tiling, d in binding.steps:
        opened = OpenPixels.of(np.ones((tiling.images, *plan.layer.conv_shape), bool), tiling)
        total += sum(schedule_layer(binding.program.config, MemoryTiming(), plan, d,
                                    opened if plan.layer.gated else None, None).bytes.values())
    return total


def test_moving_an_output_costs_what_it_says():
    program = hwgate.compile(banded_network(SMALL))
    binding = program.bind(np.zeros((2, *program.network.image_shape), np.int8))
    names = [plan.layer.name for plan in program.plans]
    moved = 0
    for row in explain(program, 2).alternatives:
        if row.choice != "output" or row.chosen:
            continue
        index = names.index(row.layer)
        chip = {n: at for n, at in binding.chip.items() if n != index}
        if row.alternative == "on chip":
            chip[index] = 0
        taken, = [other for other in explain(program, 2).alternatives
                  if (other.layer, other.choice) == (row.layer, "output") and other.chosen]
        assert whole(Binding(program, binding.images, chip)) - whole(binding) == (
            row.bytes - taken.bytes)
        moved += 1
    assert moved == 4


def test_reasons():
    made = banded_network(SMALL)
    found = [explain(hwgate.compile(network), images)
             for network, images in ((made, 1), (made, 2), (made, 5), (many_layers(0, SMALL), 1))]
    reasons = " | ".join(row.reason for explanation in found for row in explanation.alternatives)
    for words in (
            "the buffers hold the whole map", "the fewest bands that fit the buffers",
            "needs 256 output pixels of 64 (buffers.pixels)", "bytes 0..2,047 until ",
            "10,240 bytes exceed the map memory of 8,192", "no room beside first, added",
            "no layer takes it; the host reads it there", " bytes, +"):
        assert words in reasons, (words, reasons)
    without = replace(made, config=replace(SMALL, buffers=replace(SMALL.buffers, map_bytes=0)))
    assert {row.choice for row in explain(hwgate.compile(without)).alternatives} == {"rows"}


@pytest.mark.parametrize("options, sentence", [
    ({"density": 1.5}, "Density must be in 0..1, not 1.5"),
    ({"images": 0}, "Image count must be at least 1, not 0")])
def test_bad_numbers_are_refused(options, sentence):
    with pytest.raises(UserError, match=f"^{sentence}$"):
        explain(hwgate.compile(many_layers(0, SMALL)), **options)
