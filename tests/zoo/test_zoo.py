"""The zoo's networks: what they score is what their results say, and the hardware runs them."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import hwgate
import hwgate.zoo.measure as measuring
from hwgate import zoo
from hwgate.data.datasets import DataSet, Split, load_dataset
from hwgate.errors import UserError
from hwgate.machine.config import preset
from hwgate.results.comparison import compare
from hwgate.zoo import networks
from hwgate.zoo.command import main
from hwgate.zoo.facts import facts
from hwgate.zoo.measure import Amounts, curved
from hwgate.zoo.page import figures, parts
from support import fakes
from support.shares import rest_slow

DOCS = Path(__file__).parents[2] / "docs"

needs_mnist = pytest.mark.skipif(
    not [*Path(os.environ.get("HWGATE_DATA", "nowhere")).glob("mnist*")],
    reason="needs the variable HWGATE_DATA, a folder with MNIST")

needs_data = pytest.mark.skipif("HWGATE_DATA" not in os.environ,
                                reason="needs the variable HWGATE_DATA, a folder of data sets")


def test_unknown_networks_are_named():
    with pytest.raises(UserError, match=f"^The zoo has no network 'alexnet'; it has "
                                        f"{', '.join(zoo.names())}$"):
        zoo.load("alexnet")


@pytest.mark.parametrize("name", rest_slow(
    list(dict.fromkeys(["mnist", "resnet20-postact-s4", *zoo.names()]))))
def test_a_network_runs_as_modelled(name):
    network = zoo.load(name)
    rng = np.random.default_rng(0)
    images = rng.integers(-128, 128, (2, *network.image_shape)).astype(np.int8)
    program = hwgate.compile(network)
    comparison = compare(hwgate.simulate(program, images), hwgate.estimate(program, images))
    assert comparison.equal, comparison.describe()


@needs_mnist
@pytest.mark.slow
def test_mnist_scores_what_its_results_say():
    """On all 10,000 test images, with the integers."""
    network, scores = zoo.load("mnist"), zoo.results("mnist")["scores"]["integers"]
    data = load_dataset("mnist")
    images, labels = data.unit(data.test.images).numpy(), data.test.labels.numpy()
    assert scores["images"] == len(labels) == 10_000
    right = sum(int((network(images[at:at + 500]).argmax(axis=1) == labels[at:at + 500]).sum())
                for at in range(0, len(labels), 500))
    assert right / len(labels) == scores["accuracy"] == 0.9922


@pytest.fixture
def fast(monkeypatch):
    """Random test images for the zoo, and an RTL that is the cost model; returns its runs."""
    calls = []

    def data(name):
        rng = np.random.default_rng(0)
        parts = [Split(torch.from_numpy(rng.integers(0, 256, (n, 1, 28, 28)).astype(np.uint8)),
                       torch.from_numpy(rng.integers(0, 10, n))) for n in (2, 2, 6)]
        return DataSet(name, tuple("0123456789"), *parts)

    def simulate(program, images, timing=None):
        calls.append((program.dense, len(images)))
        return replace(hwgate.estimate(program, images, timing), source="rtl", seconds=1.0)

    monkeypatch.setattr(measuring, "load_dataset", data)
    monkeypatch.setattr(hwgate, "simulate", simulate)
    monkeypatch.setattr(measuring, "DELTAS", (-0.5, 0.0))
    return calls


SMALL = ("--images", "4", "--model", "3", "--rtl", "2", "--sweep", "2", "mnist")


def test_figures_are_kept(fast, tmp_path, capsys, monkeypatch):
    options = (*SMALL, "--cache", str(tmp_path), "--json", "-")
    assert main(list(options)) == 0
    found = json.loads(capsys.readouterr().out)
    mnist, = found["networks"]
    assert found["amounts"] == {"images": 4, "model": 3, "rtl": 2, "sweep": 2}
    # Two images one by one, of each set of levers some batches, and points of the curve.
    ran = len(fast)
    assert fast[:4] == [(False, 1), (True, 1)] * 2
    plain, *others = mnist["hardware"]
    assert [plain[what] for what in ("name", "batch", "rtl_images", "images")] == ["plain", 1, 2, 3]
    assert plain["speedup"] == plain["cycles_dense"] / plain["cycles"] > 1
    assert {at["name"] for at in others} >= {"on chip + compressed"}
    assert all(at["equal"] and at["offchip_reduction"] > 0 for at in mnist["hardware"])
    checked = [at for at in mnist["buffers"] if at["equal"] is not None]
    assert len(mnist["buffers"]) > len(checked) > 0 and all(at["equal"] for at in checked)
    assert (mnist["recount"]["images"], mnist["scores"]["integers"]["images"]) == (4, 10_000)
    assert len(mnist["maps"]) == 3 and len(mnist["maps"][0]) == len(mnist["layers"]) == 3
    assert [point["delta"] for point in mnist["sweep"]] == [-0.5, 0]
    assert main(list(options)) == 0 and len(fast) == ran
    assert json.loads(capsys.readouterr().out) == found
    monkeypatch.setitem(measuring._SOURCES, "hwgate.bench", ())
    assert main(list(options)) == 0 and len(fast) == 2 * ran
    assert main(["--images", "3", *options[2:]]) == 0 and len(fast) == 3 * ran


def test_a_difference_ends_with_1(fast, tmp_path, monkeypatch, capsys):
    honest = hwgate.simulate
    monkeypatch.setattr(hwgate, "simulate", lambda *args: fakes.edit(honest(*args), 0, cycles=7))
    assert main([*SMALL, "--cache", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "NOT EQUAL" in " ".join(out.split()) and "the cycles are 7 in the RTL" in out


def example(name="r20-t1", gates=True, runs=True, **changes):
    """Figures of a network that does not exist."""
    def score(accuracy, images):
        return {"images": images, "accuracy": accuracy, "reduction": 2.5 if gates else 1.0}

    accelerator = preset("resident").to_dict()
    run = {"name": "plain", "batch": 8, "accelerator": accelerator, "images": 32, "rtl_images": 8,
           "right": 7, "equal": True, "said": "", "mac_reduction": 2.5, "bytes": 3_200_000,
           "bytes_dense": 6_400_000, "speedup": 2.4, "gating_efficiency": 0.96,
           "offchip_reduction": 2.0}
    measured = {
        "recount": score(0.9, 500), "layers": [{"name": "layer1.0.conv1", "density": 0.2}] * gates,
        "maps": [[[[0, 50], [100, 0]]]] * gates, "hardware": [run],
        "sweep": [{"delta": 0.5, "speedup": 2.0, "accuracy": 0.8}] * gates,
        "buffers": [{"kind": "pixels", "per_tile": 1, "window_words": 512, "pixels": 64,
                     "output_words": 512, "equal": True, "bytes": 800_000,
                     "bytes_dense": 1_600_000, "tiles": 99}] * gates}
    return {
        "name": name, "architecture": "resnet20", "width": 1, "data": "cifar10", "epochs": 30,
        "total": 54, "tuning": 2, "seed": 3, "teacher": "", "start": "r20-dense" if gates else "",
        "scores": {"validation": score(0.88, 5000), "integers_validation": score(0.87, 5000),
                   "test": score(0.91, 1000), "integers": score(0.9, 1000)},
        "gates": {"groups": 4, "base_channels": 8, "grouping": True,
                  "granularity": "slice", "slice": 2, "tau": 0.1, "target": 1.0,
                  "budget": "cycles", "share": 0.4} if gates else None,
        "runs": runs, "floats": True, "baseline": "r20-dense" if gates else None,
        "baseline_total": 60 if gates else None,
        "against": {"validation": -0.5, "test": 0.3} if gates else {},
        **(measured if runs else {}), **changes}


def test_parts_of_the_page():
    networks = [example(), example("r20-dense", gates=False), example("r20-t2", width=0.5),
                example("r20-half-dense", gates=False, runs=False)]
    drawn = figures(networks)
    assert set(drawn) == {"accuracy.svg", "sweep.svg", "density.svg", "buffers.svg",
                          "maps-r20-t1.svg", "maps-r20-t2.svg"}
    for words in ("ResNet-20, cifar10", "ResNet-20, width 0.5, cifar10", "r20-t1",
                  "ungated, of as many epochs", "MAC reduction", "speed-up", "off-chip reduction"):
        assert words in drawn["accuracy.svg"]
    made = parts(networks, Amounts(), ["results/sweep.svg", "results/maps-r20-t1.svg"])
    assert ("| r20-t1 | ResNet-20 | cifar10 | G = 4, base of 8 channels at least, T = 1, "
            "0.4 of the cycles, slice of 2, tau = 0.1, grouping | "
            "30 + 2 in int8, from r20-dense; 54 in all | 3 | "
            "88.00% of 5,000 | 87.00% of 5,000 | 91.00% of 1,000 | 90.00% of 1,000 | "
            "90.00% of 500 | -0.5 / +0.3, r20-dense of 60 epochs | 2.50x |"
            ) in made["networks"]
    assert ("| r20-t1 | batch of 8, 64 KiB of maps on chip, 64 KiB of weights on chip, tau = 0.1 | "
            "7 of 8 right, all equal | 2.50x | 2.40x | 96.0% | 2.00x | 100 / 200 |"
            ) in made["accelerator"]
    assert "| r20-t1 | 64 | 512 | 1 | 99 | 100 | 200 | 2.00x | equal |" in made["buffers"]
    assert "| r20-dense | ResNet-20 | cifar10 | none |" in made["networks"]
    assert "r20-half-dense" in made["networks"] and "half-dense" not in made["accelerator"]
    assert "the first 32 test images" in made["conditions"]
    assert made["figures"] == ("![Moved thresholds](results/sweep.svg)\n\n"
                               "![Decision maps of r20-t1](results/maps-r20-t1.svg)")


def test_accuracy_is_drawn_against_each_saving(monkeypatch):
    drawn = {}
    monkeypatch.setattr("hwgate.zoo.page.lines", lambda title, panels, *_, **__: drawn.update(
        {title: panels}) or "")
    gated = example()
    gated["hardware"][0]["offchip_reduction"] = 0.9
    dense = example("r20-dense", gates=False)
    dense["scores"]["integers_validation"]["accuracy"] = 0.91
    figures([gated, dense])
    panels = drawn["Accuracy against savings"]
    assert [(panel.x, *(line.points for line in panel.lines)) for panel in panels] == [
        ("MAC reduction", [(2.5, 87)], [(2.5, 91)]),
        ("speed-up over all gates open", [(2.4, 87)], [(2.4, 91)]),
        ("off-chip reduction", [(0.9, 87)], [(0.9, 91)])]
    assert {panel.y_limits for panel in panels} == {(86, 100)}


def test_what_baselines_are(tmp_path, monkeypatch):
    """The ungated training of the same architecture, width and data; facts say the difference."""
    kept = json.loads((zoo.path("mnist") / "results.json").read_text())

    def add(name, accuracy, network=True, **changes):
        made = json.loads(json.dumps(kept))
        for path, value in changes.items():
            section, key = path.split("__")
            made["recipe"][section][key] = value
        for score in made["scores"].values():
            score["accuracy"] = accuracy
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(made))
        if network:
            (tmp_path / name / "network.npz").write_bytes(b"")

    add("gated", 0.9)
    add("dense", 0.95, gate__groups=0)
    add("less", 0.97, network=False, gate__groups=0, optimizer__epochs=11)
    add("wide", 0.99, gate__groups=0, network__width=2.0)
    monkeypatch.setattr(networks, "_FOLDER", tmp_path)
    assert zoo.trained() == ("dense", "gated", "less", "wide")
    assert zoo.names() == ("dense", "gated", "wide")
    assert zoo.baseline("gated") == "dense" and zoo.baseline("dense") is None
    found = facts("gated")
    assert found["against"] == {"validation": pytest.approx(-5), "test": pytest.approx(-5)}
    assert not facts("less")["runs"] and not found["floats"]
    assert found["gates"]["groups"] == 8 and found["gates"]["base_channels"] == 0, "not in the file"
    with pytest.raises(UserError, match="^The zoo has no network 'less'; it has dense, gated, "
                       "wide$"):
        zoo.load("less")
    assert curved(("dense", "gated")) == ("gated",)

    add("more", 0.8, optimizer__epochs=3, loss__start="runs/gated/model.safetensors")
    assert (zoo.epochs("gated"), zoo.epochs("more")) == (12, 15)
    assert zoo.baseline("more") == "dense", "the most epochs, where none has enough"
    add("much", 0.8, gate__groups=0, optimizer__epochs=20, loss__start="dense")
    add("next", 0.8, gate__groups=0, optimizer__epochs=4, loss__start="dense")
    assert (zoo.epochs("much"), zoo.epochs("next")) == (32, 16)
    assert zoo.baseline("more") == "next", "the next number above"
    assert zoo.baseline("gated") == "dense" and zoo.baseline("next") is None
    assert (facts("more")["total"], facts("more")["baseline_total"]) == (15, 16)
    add("narrow", 0.8, gate__base_channels=4)
    assert facts("narrow")["gates"]["base_channels"] == 4
    add("lost", 0.8, loss__start="runs/gone/model.safetensors")
    with pytest.raises(UserError, match="^The zoo has no network 'gone'"):
        zoo.epochs("lost")


def test_the_page_is_renewed(tmp_path, monkeypatch, capsys):
    page = tmp_path / "results.md"
    text = (DOCS / "results.md").read_text()
    page.write_text(text)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "maps-gone.svg").write_text("")
    monkeypatch.setattr("hwgate.zoo.command.cached", lambda name, *_, **__: example(name))
    assert main(["--page", str(page)]) == 0
    assert {f.name for f in (tmp_path / "results").iterdir()} >= {"accuracy.svg", "maps-mnist.svg"}
    assert not (tmp_path / "results" / "maps-gone.svg").exists()
    renewed = page.read_text()
    assert "| mnist | ResNet-20 |" in renewed and "## What was published" in renewed
    assert main(["--page", str(page)]) == 0 and page.read_text() == renewed
    capsys.readouterr()


def test_the_page_in_docs_shows_every_network():
    text = (DOCS / "results.md").read_text()
    for name in zoo.trained():
        known = facts(name)
        assert text.count(f"\n| {name} |") > known["runs"]
        assert (f"maps-{name}.svg" in text) == (known["runs"] and known["gates"] is not None)
    for place in re.findall(r"\]\((results/[^)]+)\)", text):
        assert (DOCS / place).is_file()


def test_what_needs_no_data_works_without(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("HWGATE_DATA", raising=False)
    assert main(["--no-run"]) == 0
    out = capsys.readouterr().out
    assert "99.22%" in out and "4.47x" in out
    assert main(["mnist", "--cache", str(tmp_path)]) == 2
    assert "HWGATE_DATA" in capsys.readouterr().err


@pytest.mark.parametrize("options, sentence", [
    (["alexnet"], f"The zoo has no network 'alexnet'; it has {', '.join(zoo.trained())}"),
    (["--rtl", "0"], "RTL image count must be at least 1, not 0"),
    (["--page", "p.md", "mnist"],
     "A page shows all networks as they run; leave out names and --no-run"),
    (["--page", "nowhere.md"], "Page nowhere.md cannot be read: No such file or directory")])
def test_bad_options_are_one_sentence(options, sentence, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(options) == 2
    assert capsys.readouterr().err == f"{sentence}\n"


@needs_data
@pytest.mark.slow
def test_the_page_in_docs_is_what_the_networks_give(tmp_path, capsys):
    page = tmp_path / "results.md"
    page.write_text((DOCS / "results.md").read_text())
    assert main(["--page", str(page), "--cache", str(tmp_path)]) == 0
    assert page.read_text() == (DOCS / "results.md").read_text()
    capsys.readouterr()
