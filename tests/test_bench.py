"""The bench: its layers, the peers' figures, and what it writes."""

import json

import numpy as np
import pytest

import fakes
from hwgate.bench import MACS, PEERS, SHAPES, dense_layer, main
from hwgate.comparison import compare
from hwgate.config import preset
from hwgate.errors import UserError
from hwgate.evaluate import Pair


@pytest.mark.parametrize("name", SHAPES)
def test_layers_have_the_published_size_and_use_their_range(name):
    network = dense_layer(name, preset("cifar"))
    layer, = network.layers
    assert layer.macs == layer.base_macs == MACS
    images = np.random.default_rng(1).integers(-128, 128, (1, *layer.in_shape)).astype(np.int8)
    output = network.run(images)[0].output
    assert output.max() > 100
    assert np.mean(output == 127) < 0.05  # ReLU: about half is zero, little saturates


def test_an_unknown_layer_is_refused():
    with pytest.raises(UserError, match="no layer 'c128'; there are c16, c32, c64"):
        dense_layer("c128", preset("cifar"))


def test_peers_have_their_published_utilisation():
    totals = [round(100 * peer.utilisation()[-1], 1) for peer in PEERS]
    assert totals == [94.6, 86.9, 89.2, 94.9, 87.2]


@pytest.fixture
def faked(monkeypatch):
    def fake(network, config, images, *, dense, cycles=None):
        rtl, model = (fakes.run(network, len(images), source=source, dense=dense)
                      for source in ("rtl", "model"))
        if cycles is not None:
            rtl = fakes.edit(rtl, 0, cycles=cycles)
        return Pair(rtl, model, compare(rtl, model))

    def install(**options):
        monkeypatch.setattr("hwgate.bench.simulate_and_estimate",
                            lambda *args, **more: fake(*args, **more, **options))

    return install


def test_figures_are_written(faked, tmp_path, capsys):
    faked()
    target = tmp_path / "bench.json"
    assert main(["--output", str(target)]) == 0
    figures = json.loads(target.read_text())
    assert set(figures["dense_utilisation"]) == {"c16", "c32", "c64", "total"}
    assert figures["dense_utilisation"]["c16"] == pytest.approx(MACS / (144 * (MACS // 144 + 140)))
    assert figures["simulation"]["cycles_per_second"] > 0
    out = capsys.readouterr().out
    assert "NNgen" in out
    assert "…" not in out


def test_a_difference_ends_with_1(faked, tmp_path, capsys):
    faked(cycles=20000)
    assert main(["--output", str(tmp_path / "bench.json")]) == 1
    assert "layer c16: the cycles are 20000 in the RTL" in capsys.readouterr().out


def test_an_unknown_preset_is_one_sentence(tmp_path, capsys):
    assert main(["--preset", "none", "--output", str(tmp_path / "bench.json")]) == 2
    assert capsys.readouterr().err.startswith("There is no preset 'none'")
    assert not (tmp_path / "bench.json").exists()
