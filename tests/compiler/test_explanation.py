"""Alternatives of the compiler's choices: their costs are those of programs that make them."""

from dataclasses import replace

import numpy as np
import pytest

import hwgate
from hwgate.compiler.choice import measure
from hwgate.compiler.explanation import explain
from hwgate.compiler.program import Binding
from hwgate.errors import UserError
from hwgate.machine.config import MemoryTiming
from hwgate.quant.layer import IMAGE
from support.residency_cases import (
    ROOMY,
    SMALL,
    banded_network,
    joining_network,
    many_layers,
)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("density, share, dense", [("closed", 0.0, False), ("any", 1.0, True)])
def test_the_program_costs_what_the_cost_model_says(seed, density, share, dense):
    timing = MemoryTiming(read_latency=5)
    program = hwgate.compile(many_layers(seed, SMALL, density=density), dense=dense,
                             density=share, timing=timing)
    found = explain(program, 2)
    run = hwgate.estimate(program, np.zeros((2, *program.network.image_shape), np.int8), timing)
    assert found.cycles == sum(layer.cycles for layer in run.layers)
    assert found.bytes == sum(layer.bytes_total for layer in run.layers)


@pytest.mark.parametrize("made", [many_layers(0, SMALL), many_layers(2, SMALL),
                                  banded_network(SMALL), joining_network(SMALL)],
                         ids=["chain", "branches", "bands", "side by side"])
def test_one_alternative_of_each_choice_is_taken(made):
    program = hwgate.compile(made)
    found = explain(program, 2)
    binding = program.bind(np.zeros((2, *program.network.image_shape), np.int8))
    for index, (plan, choice) in enumerate(zip(program.plans, binding.choices, strict=True)):
        rows = [row for row in found.alternatives if row.layer == plan.layer.name]
        beside = [n for n in program.network.chains[index] if n != IMAGE]
        if beside[0] != index:  # the first of them speaks for all
            assert not any(row.choice == "output" for row in rows)
        for what in ("rows", *["output"] * (beside[0] == index)):
            taken, = [row for row in rows if row.choice == what and row.chosen]
            assert taken.bytes and taken.cycles and taken.reason
        words = f"{len(plan.bands)} bands" if len(plan.bands) > 1 else "all"
        assert [row.alternative.startswith(words) for row in rows
                if row.choice == "rows" and row.chosen] == [True]
        tiles = [row for row in rows if row.choice == "tiles"]
        assert [(row.alternative, row.bytes, row.cycles, row.exact) for row in tiles] == [
            (option.candidate.words, option.cost.bytes, option.cost.cycles, option.exact)
            for option in choice.compared]
        assert [row.alternative for row in tiles if row.chosen] == [
            choice.candidate.words] * bool(tiles)
    order = [plan.layer.name for plan in program.plans]
    assert [row.layer for row in found.alternatives] == sorted(
        (row.layer for row in found.alternatives), key=order.index)


def whole(binding):
    """Bytes of a whole program with every gate open."""
    return sum(measure(binding.case(index, choice.candidate)).bytes
               for index, choice in enumerate(binding.choices))


def test_moving_an_output_costs_what_it_says():
    program = hwgate.compile(banded_network(SMALL), density=1)
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


def test_outputs_side_by_side_move_together():
    """The first of them speaks for all: what it costs is what both layers and the one that takes
    them cost; until that one ends they stay."""
    program = hwgate.compile(joining_network(SMALL), density=1)
    binding = program.bind(np.zeros((2, *program.network.image_shape), np.int8))
    assert [binding.where(n) for n in range(5)] == ["on chip"] * 4 + ["off chip"]
    assert set(binding.chip) == {0, 1, 3}
    rows = [row for row in explain(program, 2).alternatives if row.choice == "output"]
    assert [row.layer for row in rows] == ["stem", "stem", "left", "left", "joined", "joined",
                                           "last"]
    on_chip, off_chip = rows[2:4]
    assert on_chip.chosen and on_chip.reason == "bytes 1,024..2,559 until joined ends"
    chip = {n: at for n, at in binding.chip.items() if n != 1}
    moved = Binding(program, binding.images, chip)
    assert [moved.where(n) for n in (1, 2)] == ["off chip", "off chip"]
    assert whole(moved) - whole(binding) == off_chip.bytes - on_chip.bytes == 2 * 1536


def test_outputs_side_by_side_leave_their_zeros_out_together():
    config = replace(SMALL, buffers=replace(SMALL.buffers, map_bytes=0, compressed_chunks=64))
    program = hwgate.compile(joining_network(config))
    binding = program.bind(np.zeros((2, *program.network.image_shape), np.int8))
    assert [binding.where(n) for n in range(5)] == ["off chip, compressed"] * 4 + ["off chip"]
    rows = [row for row in explain(program, 2).alternatives if row.choice == "zeros"]
    assert [(row.layer, row.alternative, row.chosen) for row in rows] == [
        (name, words, chosen) for name in ("stem", "left", "joined")
        for words, chosen in (("left out", True), ("stored", False))]
    assert rows[2].bytes < rows[3].bytes and rows[2].reason.endswith("until joined ends")


def test_what_lies_beside_the_image_is_off_chip():
    config = replace(SMALL, buffers=replace(SMALL.buffers, compressed_chunks=64))
    found = explain(hwgate.compile(joining_network(config, image=True)), 2).alternatives
    row, = [row for row in found if row.layer == "left" and row.choice == "output"]
    assert row.chosen and row.alternative == "off chip"
    assert row.reason == "it lies beside the image, which the host writes there"
    assert not any(row.choice == "zeros" for row in found if row.layer in ("left", "right"))


def test_reasons():
    made = banded_network(SMALL)
    found = [explain(hwgate.compile(network), images)
             for network, images in ((made, 1), (made, 2), (made, 5), (many_layers(0, SMALL), 1),
                                     (many_layers(2, ROOMY), 6))]
    reasons = " | ".join(row.reason for explanation in found for row in explanation.alternatives)
    for words in (
            "the buffers hold the whole map", "the fewest bands that fit the buffers",
            "needs 256 output pixels of 64 (buffers.pixels)", "; no more: the batch has no more",
            "the fewest bytes of what is at most 2% slower than the fastest",
            " cycles at best", "bytes 0..2,047 until ",
            "10,240 bytes exceed the map memory of 8,192", "no room beside first, added",
            "no layer takes it; the host reads it there", " bytes, +"):
        assert words in reasons, (words, reasons)
    without = replace(made, config=replace(SMALL, buffers=replace(SMALL.buffers, map_bytes=0)))
    assert {row.choice for row in explain(hwgate.compile(without)).alternatives} == {"rows"}
    asked = explain(hwgate.compile(many_layers(0, SMALL), images_per_tile=2), 5).alternatives
    assert {row.reason for row in asked if row.choice == "tiles"} == {"asked for: at most 2"}


def test_assumptions_are_stated():
    made = many_layers(0, SMALL)
    said = explain(hwgate.compile(made, objective="cycles"), 2).assumptions()
    assert "2 images, 25% of the gates of each channel open" in said
    assert "Objective cycles: the fewest cycles." in said and "a latency of 30 cycles" in said
    each = {layer.name: 0.5 for layer in made.layers if layer.gated}
    assert "as often as measured" in explain(hwgate.compile(made, density=each)).assumptions()
    dense = hwgate.compile(made, dense=True)
    assert "1 image, no gates." in explain(dense).assumptions()


def test_an_empty_batch_is_refused():
    with pytest.raises(UserError, match="^Image count must be at least 1, not 0$"):
        explain(hwgate.compile(many_layers(0, SMALL)), 0)
