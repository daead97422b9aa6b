"""The bench: its layers and its network, the peers' figures, and what it writes and draws."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import hwgate
from hwgate.bench import MACS, PEERS, SHAPES, dense_layer, main, measure
from hwgate.bench.gating import (
    BUSY,
    REFERENCE_DENSITY,
    Gating,
    bench_images,
    gated_resnet20,
    lane_cycles,
    lost,
)
from hwgate.errors import UserError
from hwgate.machine.config import preset
from hwgate.machine.counters import LANE_COUNTERS
from hwgate.quant.network import QuantizedNetwork
from support import fakes
from support.shares import rest_slow

CIFAR = preset("cifar")
PAGE = Path(__file__).parents[2] / "docs" / "where-the-cycles-go.md"


@pytest.mark.parametrize("name", SHAPES)
def test_layers_have_the_published_size_and_use_their_range(name):
    network = dense_layer(name, CIFAR)
    layer, = network.layers
    assert layer.macs == layer.base_macs == MACS
    images = np.random.default_rng(1).integers(-128, 128, (1, *layer.in_shape)).astype(np.int8)
    output = network.run(images)[0].output
    assert output.max() > 100
    assert np.mean(output == 127) < 0.05  # ReLU: about half is zero, little saturates


def test_an_unknown_layer_is_refused():
    with pytest.raises(UserError, match="no layer 'c128'; there are c16, c32, c64"):
        dense_layer("c128", CIFAR)


def test_peers_have_their_published_utilisation():
    totals = [round(100 * peer.utilisation()[-1], 1) for peer in PEERS]
    assert totals == [94.6, 86.9, 89.2, 94.9, 87.2]


@cache
def resnet20(density):
    """The network of the bench."""
    return gated_resnet20(CIFAR, density)


@pytest.mark.parametrize("density,low,high", rest_slow([
    (REFERENCE_DENSITY, 2.5, 3), (0.0, 4, 4), (1.0, 1, 1)]))
def test_the_network_does_as_many_macs_as_its_density_says(density, low, high):
    network = resnet20(density)
    gated, dense = (hwgate.estimate(hwgate.compile(network, dense=dense), bench_images(1))
                    for dense in (False, True))
    found = Gating(network, gated, dense)
    assert low <= found.mac_reduction <= high
    assert found.density == pytest.approx(density, abs=0.03)
    assert found.speedup == sum(layer.cycles for layer in dense.layers if "conv1" in layer.name
                                and "." in layer.name) / sum(
        layer.cycles for layer in gated.layers if layer.gated)
    assert 0.5 < found.gating_efficiency < 1.01 and 0.5 < found.utilisation < 1
    assert len(found.pairs) == 9


def test_the_network_is_always_the_same():
    one, other = resnet20(REFERENCE_DENSITY), gated_resnet20(CIFAR, REFERENCE_DENSITY)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert np.array_equal(a.weight, b.weight) and np.array_equal(a.bias, b.bias)
        assert a.threshold is b.threshold is None or np.array_equal(a.threshold, b.threshold)


def test_lost_cycles_are_those_without_a_window():
    run = fakes.run(fakes.network())
    total = lane_cycles(run.layers)
    assert list(total) == list(LANE_COUNTERS)
    assert sum(total.values()) == run.multipliers // 36 * sum(x.cycles for x in run.layers)
    assert set(total) - set(lost(total)) == set(BUSY)


def fake(monkeypatch, change=lambda run: run):
    """Runs of another network, with made-up cycles, and a short programme; returns the calls.

    ``change`` edits the runs of the RTL.
    """
    calls = []

    def runner(source):
        def run(program, images):
            calls.append((source, program.config.lanes, program.config.channels, len(images)))
            made = fakes.run(program.network, len(images), source=source, dense=program.dense)
            return change(made) if source == "rtl" else made
        return run

    def compile(network, config, dense=False):
        return SimpleNamespace(network=network, config=config, dense=dense)

    for name, value in (("DENSITIES", (0.0, 0.5, 1.0)), ("LANES", (2, 4)), ("_REPEATS", 1),
                        ("SPOT_CHECKS", ((2, 4),)), ("dense_layer", _small),
                        ("gated_resnet20", lambda config, *_, **__: fakes.network(config))):
        monkeypatch.setattr(measure, name, value)
    for name, value in (("simulate", runner("rtl")), ("estimate", runner("model")),
                        ("compile", compile)):
        monkeypatch.setattr(hwgate, name, value, raising=False)
    return calls


def _small(name, config):
    """A layer of the bench with fewer rows, so that made-up runs are made quickly."""
    layer, = dense_layer(name, config).layers
    channels, edge, _ = layer.in_shape
    return QuantizedNetwork(config, (replace(layer, in_shape=(channels, 4, edge)),))


@pytest.fixture(scope="module")
def bench_file(tmp_path_factory):
    """Figures of one faked bench, and the calls it made."""
    target = tmp_path_factory.mktemp("bench") / "bench.json"
    with pytest.MonkeyPatch.context() as monkeypatch:
        calls = fake(monkeypatch)
        assert main(["--output", str(target)]) == 0
    return target, calls


def test_figures_are_written(bench_file, capsys):
    target, calls = bench_file
    figures = json.loads(target.read_text())
    assert set(figures["dense_utilisation"]) == {"c16", "c32", "c64", "total"}
    assert figures["dense_utilisation"]["c16"] == pytest.approx(
        MACS / 8 / (144 * (MACS // 8 // 144 + 100 + 40)))
    assert [peer["name"] for peer in figures["peers"]] == [peer.name for peer in PEERS]
    reference = figures["resnet20"]
    assert {"utilisation", "mac_reduction", "speedup", "gating_efficiency"} <= set(reference)
    assert (reference["batch"], reference["source"]) == (1, "rtl")
    assert [(x["batch"], x["source"]) for x in reference["batches"]] == [(1, "rtl"), (8, "model")]
    assert reference["gating_efficiency"] == pytest.approx(
        reference["speedup"] / reference["mac_reduction"])
    assert figures["simulation"]["cycles_per_second"] > 0
    assert figures["simulation"]["model_speedup"] > 0
    assert [point["target"] for point in figures["efficiency_curve"]] == [0, 0.5, 1]
    assert all({"density", "mac_reduction", "speedup", "gating_efficiency"} <= set(point)
               for point in figures["efficiency_curve"])
    assert set(figures["lost_cycles"]) == set(LANE_COUNTERS) - set(BUSY)
    assert set(figures["lost_cycles_by_group"]) == {"conv1", "conv2"}
    for name, count in figures["lost_cycles"].items():
        assert count == sum(part[name] for part in figures["lost_cycles_by_group"].values())
    swept = {(x["lanes"], x["channels"], x["batch"]) for x in figures["sweep"]}
    assert swept == {(lanes, r, n) for lanes in (2, 4) for r in (4, 8) for n in (1, 8)}
    assert figures["sweep_spot_checks"][0]["equal"] and figures["equal"]
    assert {call[1:] for call in calls if call[0] == "rtl"} == {(4, 4, 1), (4, 4, 4), (2, 4, 1)}
    assert main(["--from", str(target)]) == 0
    out = capsys.readouterr().out
    assert "NNgen" in out and "2 x R4" in out and "…" not in out


def test_full_runs_more_in_rtl(monkeypatch, tmp_path):
    calls = fake(monkeypatch)
    assert main(["--full", "--output", str(tmp_path / "bench.json")]) == 0
    assert {call[1:] for call in calls if call[0] == "rtl"} >= {
        (4, 4, 8), (2, 4, 1), (4, 8, 1), (2, 8, 1)}


def test_a_difference_ends_with_1(monkeypatch, tmp_path, capsys):
    fake(monkeypatch, lambda run: fakes.edit(run, 0, cycles=20000))
    assert main(["--output", str(tmp_path / "bench.json")]) == 1
    out = capsys.readouterr().out
    assert "layer c16: the cycles are 20000 in the RTL" in out and "do not agree" in out


def test_json_goes_to_stdout(bench_file, capsys):
    target, calls = bench_file
    made = len(calls)
    assert main(["--from", str(target), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(target.read_text())
    assert len(calls) == made


def test_figures_are_drawn_and_stay_the_same(bench_file, tmp_path):
    target, _ = bench_file
    names = ["bench-cycles.svg", "bench-efficiency.svg", "bench-sweep.svg"]
    first = [(target.parent / name).read_text() for name in names]
    assert main(["--from", str(target), "--figures", str(tmp_path / "again")]) == 0
    assert first == [(tmp_path / "again" / name).read_text() for name in names]
    for text in first:
        assert ElementTree.fromstring(text).tag.endswith("svg") and len(text) < 100_000


def test_the_page_is_renewed_between_its_markers(bench_file, tmp_path):
    target, _ = bench_file
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: begin -->\nstale\n<!-- bench: end -->\nafter\n")
    assert main(["--from", str(target), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!--") and text.endswith("<!-- bench: end -->\nafter\n")
    assert "stale" not in text and "| NNgen 1.3.4 |" in text and "conv2" in text
    assert page.with_suffix(".svg").read_text() == (target.parent / "bench-cycles.svg").read_text()
    assert main(["--from", str(target), "--page", str(page)]) == 0 and page.read_text() == text


def test_the_page_in_docs_can_be_renewed():
    text = PAGE.read_text()
    assert text.count("<!-- bench: begin -->") == text.count("<!-- bench: end -->") == 1
    assert f"]({PAGE.stem}.svg)" in text and PAGE.with_suffix(".svg").is_file()
    # A counter that the accelerator counts is explained, but for those that do work.
    assert all(f"| `{name}` |" in text for name in LANE_COUNTERS if name not in BUSY)


@pytest.mark.parametrize("arguments,sentence", [
    (["--preset", "none"], "There is no preset 'none'"),
    (["--from", "missing.json"], "File missing.json cannot be read: No such file or directory"),
    (["--from", "broken.json"], "File broken.json must hold the figures of this bench; run it "
                                "without --from"),
])
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("[1]")
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(sentence)
    assert not (tmp_path / "build").exists()


def test_a_page_without_markers_is_one_sentence(bench_file, tmp_path, capsys):
    target, _ = bench_file
    (tmp_path / "page.md").write_text("nothing\n")
    assert main(["--from", str(target), "--page", str(tmp_path / "page.md")]) == 2
    assert capsys.readouterr().err.startswith("The page must have the markers")


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "gating efficiency = speed-up / MAC reduction" in out and "examples:" in out
