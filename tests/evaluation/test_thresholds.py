"""Moving thresholds without training: the curve, its figure, and the hardware at one point."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import torch
import typer

import hwgate
from hwgate.cli.training import register
from hwgate.data.datasets import load_dataset
from hwgate.errors import UserError
from hwgate.evaluation.thresholds import psum_deviations, shift_thresholds, sweep
from hwgate.files.networks import save_network
from hwgate.machine.config import preset
from hwgate.quant.golden import base_psum
from support.digits import trained_digits

torch.set_num_threads(1)  # tests run in parallel


@pytest.fixture(scope="module")
def network():
    trained = trained_digits()
    return hwgate.quantize(trained.model, trained.train_images, preset("digits"))


@pytest.fixture(scope="module")
def digits():
    data = load_dataset("digits")
    return data.unit(data.test.images).numpy(), data.test.labels.numpy()


def test_deviations_are_those_of_the_base_psums(network, digits):
    images = digits[0][:20]
    found, results = psum_deviations(network, images), network.run(images)
    assert [value is None for value in found] == [True, False, False, False, False, True]
    for index in (1, 4):
        wanted = base_psum(network.layers[index], results[index - 1].output)
        np.testing.assert_allclose(found[index], wanted.std(axis=(0, 2, 3)))


def test_thresholds_move_by_deviations(network, digits):
    deviations = psum_deviations(network, digits[0][:20])
    moved = shift_thresholds(network, deviations, 0.5)
    for before, after, deviation in zip(network.layers, moved.layers, deviations, strict=True):
        if before.threshold is None:
            assert after is before
        else:
            np.testing.assert_array_equal(after.threshold - before.threshold,
                                          np.rint(0.5 * deviation))
    far = shift_thresholds(network, deviations, 1e30)
    assert far.layers[1].threshold.max() == 2**31 - 1


def test_thresholds_of_shared_gates_move_by_deviations_of_scores(network, digits):
    layer = network.layers[4]
    gate = np.arange(len(layer.weight)) // 8
    score = np.stack([layer.weight[gate == n][0] for n in range(gate.max() + 1)])
    shared = replace(layer, gate=gate, threshold=layer.threshold[::8], score=np.where(
        layer.base[::8, :, None, None], score, 0).astype(np.int8))
    network = replace(network, layers=(*network.layers[:4], shared, *network.layers[5:]))
    deviations = psum_deviations(network, digits[0][:20])
    wanted = network.run(digits[0][:20])[4].score.std(axis=(0, 2, 3))
    np.testing.assert_allclose(deviations[4], wanted)
    moved = shift_thresholds(network, deviations, 0.5).layers[4]
    np.testing.assert_array_equal(moved.threshold - shared.threshold, np.rint(0.5 * wanted))


def test_a_sweep_trades_accuracy_for_cycles(network, digits):
    images, labels = digits[0][:100], digits[1][:100]
    points = sweep(network, images, labels, (-0.5, 0.0, 0.5, 3.0))
    assert [point.delta for point in points] == [-0.5, 0.0, 0.5, 3.0]
    for rising in ("reduction", "speedup", "offchip"):
        values = [getattr(point, rising) for point in points]
        assert values == sorted(values) and values[0] < values[-1], rising
    assert [p.density for p in points] == sorted((p.density for p in points), reverse=True)
    run = hwgate.estimate(hwgate.compile(network, network.config), images[:1])
    assert (points[1].cycles, points[1].bytes) == (run.cycles, run.bytes_total)
    assert points[1].accuracy > 0.9 > points[3].accuracy
    assert all(point.rtl_cycles is None and point.equal is None for point in points)


def test_the_hardware_agrees(network, digits):
    point, = sweep(network, digits[0][:8], digits[1][:8], (0.25,), checked=(0.25,))
    assert point.equal is True and point.rtl_cycles == point.cycles


def test_errors(network, digits):
    with pytest.raises(UserError, match="^The RTL can be run at a delta of the sweep, which 2 is "
                       "not$"):
        sweep(network, *digits, (0.0, 1.0), checked=(2,))
    with pytest.raises(UserError, match="^A sweep needs a network with gates, and this one has "
                       "none$"):
        sweep(network.force_open(), *digits, (0.0,))


@pytest.fixture
def invoke(capsys):
    """Run one of the two commands in this process; (exit status, stdout, stderr)."""
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)

    def run(*arguments):
        with pytest.raises((SystemExit, UserError)) as stopped:
            app([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return getattr(stopped.value, "code", str(stopped.value)) or 0, out, err

    return run


def test_the_command(invoke, network, tmp_path, monkeypatch):
    file, figure = tmp_path / "network.npz", tmp_path / "sweep.svg"
    save_network(file, network)
    status, out, _ = invoke("sweep", file, "--images", 40, "--deltas=-0.5,0,1", "--figure", figure)
    assert status == 0 and "+1" in out and "Off-chip" in out and f"Figure: {figure}" in out
    assert f"Fidelity: {network.fidelity.describe()}." in out
    assert ET.fromstring(figure.read_text()).tag.endswith("svg")
    status, out, _ = invoke("sweep", file, "--images", 40, "--deltas", "0.5", "--json", "-")
    assert json.loads(out)["fidelity"] == network.fidelity.to_dict()
    point, = json.loads(out)["points"]
    assert point["delta"] == 0.5 and point["rtl_cycles"] is None

    def disagree(*arguments, **options):
        return tuple(replace(p, equal=False) for p in sweep(*arguments, **options))

    monkeypatch.setattr("hwgate.evaluation.thresholds.sweep", disagree)
    status, out, err = invoke("sweep", file, "--images", 4, "--deltas", "0")
    assert status == 1 and err.endswith("Hardware and models differ; hwgate compare shows where\n")


@pytest.mark.parametrize("options,sentence", [
    (["--images", 0], "Image count must be in 1..450, not 0"),
    (["--images", 5, "--costed", 6], "Count of costed images must be in 1..5, not 6"),
    (["--deltas", "0;1"], "Deltas must be numbers with commas in between, not '0;1'"),
    (["--data", "faces"], "There is no data set 'faces'; there are cifar10, digits, mnist"),
])
def test_options_that_cannot_be_used(invoke, network, tmp_path, options, sentence):
    file = tmp_path / "network.npz"
    save_network(file, network)
    assert invoke("sweep", file, *options)[0] == sentence
