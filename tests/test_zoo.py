"""The zoo's networks: what they score is what their results say, and the hardware runs them."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fakes
import hwgate
import hwgate.zoo.measure as measuring
from hwgate import zoo
from hwgate.comparison import compare
from hwgate.datasets import DataSet, Split, load_dataset
from hwgate.errors import UserError
from hwgate.zoo.command import main
from hwgate.zoo.measure import Amounts
from hwgate.zoo.page import figures, parts

DOCS = Path(__file__).parents[1] / "docs"

needs_mnist = pytest.mark.skipif(
    not [*Path(os.environ.get("HWGATE_DATA", "nowhere")).glob("mnist*")],
    reason="needs the variable HWGATE_DATA, a folder with MNIST")

needs_data = pytest.mark.skipif("HWGATE_DATA" not in os.environ,
                                reason="needs the variable HWGATE_DATA, a folder of data sets")


def test_unknown_networks_are_named():
    with pytest.raises(UserError, match=f"^The zoo has no network 'alexnet'; it has "
                                        f"{', '.join(zoo.names())}$"):
        zoo.load("alexnet")


@pytest.mark.parametrize("name", zoo.names())
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


SMALL = ("--images", "4", "--rtl", "2", "--sweep", "2", "mnist")


def test_figures_are_kept(fast, tmp_path, capsys, monkeypatch):
    options = (*SMALL, "--cache", str(tmp_path), "--json", "-")
    assert main(list(options)) == 0
    found = json.loads(capsys.readouterr().out)
    mnist, = found["networks"]
    assert found["amounts"] == {"images": 4, "rtl": 2, "sweep": 2}
    assert fast == [(False, 2), (True, 2)]
    hardware = mnist["hardware"]
    assert hardware["equal"] and hardware["images"] == 2
    assert hardware["speedup"] == hardware["cycles_rtl_dense"] / hardware["cycles_rtl"] > 1
    assert (mnist["recount"]["images"], mnist["integers"]["images"]) == (4, 10_000)
    assert len(mnist["maps"]) == 2 and len(mnist["maps"][0]) == len(mnist["layers"]) == 3
    assert [point["delta"] for point in mnist["sweep"]] == [-0.5, 0]
    assert main(list(options)) == 0 and len(fast) == 2
    assert json.loads(capsys.readouterr().out) == found
    monkeypatch.setitem(measuring._SOURCES, "hwgate.bench", ())
    assert main(list(options)) == 0 and len(fast) == 4
    assert main(["--images", "3", *options[2:]]) == 0 and len(fast) == 6


def test_a_difference_ends_with_1(fast, tmp_path, monkeypatch, capsys):
    honest = hwgate.simulate
    monkeypatch.setattr(hwgate, "simulate", lambda *args: fakes.edit(honest(*args), 0, cycles=7))
    assert main([*SMALL, "--cache", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "NOT EQUAL" in " ".join(out.split()) and "the cycles are 7 in the RTL" in out


def example(name="r20-t1", gates=True, **changes):
    """Figures of a network that does not exist."""
    score = {"images": 10_000, "accuracy": 0.9, "reduction": 2.5 if gates else 1.0}
    return {
        "name": name, "architecture": "resnet20", "width": 1, "data": "cifar10", "epochs": 30,
        "tuning": 2, "seed": 3, "teacher": "", "float": score, "integers": score,
        "gates": {"groups": 4, "grouping": True, "granularity": "pixel", "tau": 0.1,
                  "target": 1.0} if gates else None,
        "recount": {**score, "images": 500}, "layers": [{"name": "layer1.0.conv1", "density": 0.2}
                                                        ] * gates,
        "maps": [[[[0, 50], [100, 0]]]] * gates,
        "sweep": [{"delta": 0.5, "speedup": 2.0, "accuracy": 0.8}] * gates,
        "hardware": {"images": 8, "right": 7, "equal": True, "said": "", "map_bytes": 1 << 16,
                     "mac_reduction": 2.5, "speedup": 2.4 if gates else 1.0,
                     "gating_efficiency": 0.96, "offchip_reduction": 1.2}, **changes}


def test_parts_of_the_page():
    networks = [example(), example("r20-dense", gates=False), example("r20-t2", width=0.5)]
    drawn = figures(networks)
    assert set(drawn) == {"accuracy.svg", "sweep.svg", "density.svg", "maps-r20-t1.svg",
                          "maps-r20-t2.svg"}
    for words in ("ResNet-20, cifar10", "ResNet-20, width 0.5, cifar10", "r20-dense"):
        assert words in drawn["accuracy.svg"]
    made = parts(networks, Amounts(), ["results/sweep.svg", "results/maps-r20-t1.svg"])
    assert ("| r20-t1 | ResNet-20 | cifar10 | G = 4, T = 1, grouping, pixel, tau = 0.1 | "
            "30 + 2 in int8 | 3 | 90.00% of 10,000 | 90.00% of 10,000 | 90.00% of 500 | 2.50x |"
            ) in made["networks"]
    assert ("| r20-t1 | 7 of 8 right, all equal | 2.50x | 2.40x | 96.0% | 1.20x | 8 images a "
            "batch, 64 KiB of maps on chip, tau = 0.1 |") in made["accelerator"]
    assert "| r20-dense | ResNet-20 | cifar10 | none |" in made["networks"]
    assert "the first 8 test images as one batch" in made["conditions"]
    assert made["figures"] == ("![Moved thresholds](results/sweep.svg)\n\n"
                               "![Decision maps of r20-t1](results/maps-r20-t1.svg)")


def test_the_page_is_renewed(tmp_path, monkeypatch, capsys):
    page = tmp_path / "results.md"
    text = (DOCS / "results.md").read_text()
    page.write_text(text)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "maps-gone.svg").write_text("")
    monkeypatch.setattr("hwgate.zoo.command.cached", lambda name, *_: example(name))
    assert main(["--page", str(page)]) == 0
    assert {f.name for f in (tmp_path / "results").iterdir()} >= {"accuracy.svg", "maps-mnist.svg"}
    assert not (tmp_path / "results" / "maps-gone.svg").exists()
    renewed = page.read_text()
    assert "| mnist | ResNet-20 |" in renewed and "## What was published" in renewed
    assert main(["--page", str(page)]) == 0 and page.read_text() == renewed
    capsys.readouterr()


def test_the_page_in_docs_shows_every_network():
    text = (DOCS / "results.md").read_text()
    for name in zoo.names():
        assert text.count(f"\n| {name} |") == 2 and f"maps-{name}.svg" in text
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
    (["alexnet"], f"The zoo has no network 'alexnet'; it has {', '.join(zoo.names())}"),
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
