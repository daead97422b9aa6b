"""The comparison finds every kind of difference and names its place."""

from dataclasses import replace

import pytest

from hwgate.errors import UserError
from hwgate.results.comparison import compare
from support import fakes


@pytest.fixture
def runs():
    network = fakes.network()
    return fakes.run(network), fakes.run(network, source="model")


def _changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def test_equal_runs_are_equal(runs):
    comparison = compare(*runs)
    assert comparison.equal
    assert comparison.first is None
    assert comparison.describe() == ("Equal: every output, accumulator, decision, cycle, lane "
                                     "counter and byte of 4 layers.")
    assert (comparison.mismatches, comparison.psum_mismatches, comparison.decision_mismatches,
            comparison.cycle_difference, comparison.byte_difference,
            comparison.counter_difference) == (0, 0, 0, 0, 0, 0)


def test_an_output_after_pooling_is_traced_to_the_pixels_it_comes_from(runs):
    rtl, model = runs
    golden = model.layers[1].activations
    place, before = (2, 3, 1, 0), (2, 3, 3, 1)  # pooled by 2: rows 2..3, columns 0..1
    value = 5 if golden.output[place] != 5 else 6
    rtl = fakes.edit(rtl, 1, output=_changed(golden.output, place, value),
                     psum=_changed(golden.psum, before, 77),
                     decision=_changed(golden.decision, before, not golden.decision[before]))
    comparison = compare(rtl, model)
    first = comparison.first
    assert not comparison.equal
    assert (comparison.mismatches, comparison.psum_mismatches,
            comparison.decision_mismatches) == (1, 1, 1)
    assert (first.kind, first.layer, first.image, first.channel, first.pixel) == (
        "output", "conv1", 2, 3, (1, 0))
    assert first.values == (value, int(golden.output[place]))
    assert [source.pixel for source in first.sources] == [(2, 0), (2, 1), (3, 0), (3, 1)]
    assert first.sources[3].psum == (77, int(golden.psum[before]))
    assert first.sources[3].decision == (not golden.decision[before], golden.decision[before])
    theirs, ours = ("open", "closed") if golden.decision[before] else ("closed", "open")
    assert (f"from pixel (3, 1): accumulator 77 in the RTL and {golden.psum[before]} in the model, "
            f"gate {ours} in the RTL and {theirs} in the model") in comparison.describe()
    assert (f"layer conv1, image 2, channel 3, pixel (1, 0): the output is {value} in the RTL and "
            f"{golden.output[place]} in the model") in comparison.describe()


@pytest.mark.parametrize("kind", ["psum", "decision"])
def test_a_value_that_pooling_hides_is_found(runs, kind):
    rtl, model = runs
    golden = getattr(model.layers[1].activations, kind)
    place = (1, 2, 5, 7)
    wrong = golden[place] + 1 if kind == "psum" else not golden[place]
    rtl = fakes.edit(rtl, 1, **{kind: _changed(golden, place, wrong)})
    comparison = compare(rtl, model)
    assert (comparison.first.kind, comparison.first.image, comparison.first.channel,
            comparison.first.pixel) == (kind, 1, 2, (5, 7))
    assert comparison.mismatches == 0
    assert comparison.psum_mismatches + comparison.decision_mismatches == 1


def test_cycles_bytes_and_lane_counters_are_compared(runs):
    rtl, model = runs
    layer = rtl.layers[2]
    lanes = (*layer.lanes[:1], {**layer.lanes[1], "weights": layer.lanes[1]["weights"] + 3},
             *layer.lanes[2:])
    counted = compare(fakes.edit(rtl, 2, lanes=lanes), model)
    assert counted.counter_difference == 3
    assert counted.describe().endswith(
        "layer conv2: counter 'weights' of lane 1 (waited for a job header or a weight block) are "
        f"{lanes[1]['weights']} in the RTL and {model.layers[2].lanes[1]['weights']} in the model")

    moved = compare(fakes.edit(rtl, 2, bytes={**layer.bytes, "base": 1}), model)
    assert moved.byte_difference == 2047
    assert "the bytes of stream 'base' (job headers and base weight blocks) are 1" in (
        moved.describe())

    late = compare(fakes.edit(rtl, 2, cycles=layer.cycles + 1), model)
    assert (late.cycle_difference, late.first.kind, late.first.layer) == (1, "cycles", "conv2")


def test_errors_never_cancel(runs):
    rtl, model = runs
    for index, change in ((0, 1), (1, -1)):
        rtl = fakes.edit(rtl, index, cycles=rtl.layers[index].cycles + change)
    comparison = compare(rtl, model)
    assert rtl.cycles == model.cycles
    assert comparison.cycle_difference == 2
    assert comparison.first.layer == "stem"


@pytest.mark.parametrize("name, value", [("end_cycles", 41), ("end_bytes", 17)])
def test_the_end_of_the_program_counts(runs, name, value):
    rtl, model = runs
    comparison = compare(replace(rtl, **{name: value}), model)
    assert not comparison.equal
    assert comparison.cycle_difference + comparison.byte_difference == 1
    assert comparison.first.layer == "end of the program"


def test_runs_of_different_programs_are_refused(runs):
    rtl, model = runs
    with pytest.raises(UserError, match="must have the same layers, not 3 and 4 of them"):
        compare(replace(rtl, layers=rtl.layers[1:]), model)
    with pytest.raises(UserError, match="must have the same layers, not 'other' and 'stem'"):
        compare(fakes.edit(rtl, 0, name="other"), model)
    with pytest.raises(UserError, match=r"outputs of layer stem are \(2, 8, 8, 8\) and \(4, 8"):
        compare(fakes.run(fakes.network(), 2), model)
    with pytest.raises(UserError, match="must have the same lanes, not 2 and 4"):
        compare(fakes.edit(rtl, 0, lanes=rtl.layers[0].lanes[:2]), model)
