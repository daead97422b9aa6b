"""Evaluation figures, the HTML report and the tables."""

import re
import xml.etree.ElementTree as ET
import zlib
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from hwgate.cost.energy import HOROWITZ_45NM, energy, sram
from hwgate.errors import UserError
from hwgate.machine.counters import LANE_COUNTERS, STREAMS
from hwgate.show.report import _COLOURS, Pictures, decision_map, png, render, write_report
from hwgate.show.tables import (
    counter_table,
    evaluation_table,
    fidelity_table,
    stream_table,
    summary_table,
)
from support import fakes

ACCURACY = {"float": 0.975, "quantized": 0.95, "rtl": 0.95}


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return Pictures(rng.random((4, 1, 8, 8)), np.arange(4))


def _print(*tables):
    out = StringIO()
    console = Console(file=out, width=110)
    for table in tables:
        console.print(table)
    return out.getvalue()


def test_figures_follow_their_definitions():
    evaluation = fakes.evaluation()
    total = evaluation.total
    gated, dense = evaluation.gated.rtl, evaluation.dense.rtl
    assert evaluation.equal
    assert total.mac_reduction == pytest.approx(gated.macs_dense / gated.macs)
    assert total.speedup == pytest.approx(dense.cycles / gated.cycles)
    assert total.gating_efficiency == pytest.approx(total.speedup / total.mac_reduction)
    assert total.offchip_reduction == pytest.approx(dense.bytes_total / gated.bytes_total)
    assert total.utilisation == pytest.approx(gated.macs / (144 * gated.cycles))
    assert sum(layer.cycles_rtl for layer in evaluation.layers) == gated.cycles - gated.end_cycles
    decisions = [gated.layers[i].activations.decision for i in (1, 2)]
    assert total.density == pytest.approx(
        sum(d.sum() for d in decisions) / sum(d.size for d in decisions))
    assert evaluation.cycles_per_second == pytest.approx(gated.cycles + dense.cycles)


def test_dictionary_has_the_promised_names():
    content = fakes.evaluation().to_dict()
    names = {"mismatches", "cycles_model", "cycles_rtl", "cycles_model_dense", "cycles_rtl_dense",
             "bytes_model", "bytes_rtl", "bytes_model_dense", "bytes_rtl_dense", "macs_dense",
             "macs_gated", "mac_reduction", "speedup", "gating_efficiency", "offchip_reduction"}
    assert names <= set(content["totals"])
    assert [layer["name"] for layer in content["layers"]] == ["stem", "conv1", "conv2",
                                                              "classifier"]
    assert all(names | {"density"} <= set(layer) for layer in content["layers"])
    assert content["simulation"]["cycles_per_second"] > 0


def test_report_stands_alone_and_is_well_formed(pictures):
    evaluation = replace(fakes.evaluation(), fidelity=fakes.FIDELITY)
    text = render(evaluation, accuracy=ACCURACY, pictures=pictures, facts=["A <fact>."])
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "//" not in re.sub(r"data:image/(png|svg\+xml);base64,[A-Za-z0-9+/=]+", "", text)
    assert "A &lt;fact&gt;." in text
    # Each image, a map of each of two gated layers, and the fidelity.
    assert text.count("<img") == 4 * 3 + 1

    class Checker(HTMLParser):
        open: tuple = ()

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img"):
                self.open = (*self.open, tag)

        def handle_endtag(self, tag):
            assert self.open[-1] == tag
            self.open = self.open[:-1]

    checker = Checker()
    checker.feed(text)
    assert checker.open == ()


def test_report_has_every_figure(pictures):
    evaluation = fakes.evaluation()
    text = render(evaluation, accuracy=ACCURACY, pictures=pictures)
    for row in (*evaluation.layers, evaluation.total):
        for name in ("cycles_rtl", "cycles_rtl_dense", "bytes_model", "macs_gated"):
            assert f"{getattr(row, name):,}" in text
    assert "97.5%" in text
    assert "Energy" not in text
    assert set(_COLOURS) == {*LANE_COUNTERS, *STREAMS}


def test_report_shows_energy_if_there_is_one():
    evaluation = fakes.evaluation()
    model = replace(evaluation.gated.model, energy={"multipliers": 2e-6, "off-chip": 3e-6})
    evaluation = replace(evaluation, gated=replace(evaluation.gated, model=model))
    text = render(evaluation)
    assert "5.000" in text
    assert "decision maps" not in text
    assert evaluation.to_dict()["energy"]["gated"]["off-chip"] == 3e-6


def test_report_shows_how_closely_the_integers_follow():
    evaluation = replace(fakes.evaluation(), fidelity=fakes.FIDELITY)
    text = render(evaluation)
    assert "Fidelity: 93.8% of 32 calibration images answered as by the float model" in text
    assert "below the limit, and ignored" in text
    drawn = b64decode(re.search(r"data:image/svg\+xml;base64,([^\"]+)", text)[1])
    words = {"".join(node.itertext()) for node in
             ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")}
    assert {"stem", "conv1", "conv2", "classifier", "own", "through", "42.2", "7.8", "-21.0",
            "200.0", "refused below 10 dB", "warned of below 15 dB"} <= words
    assert evaluation.to_dict()["fidelity"] == fakes.FIDELITY.to_dict()


def test_report_says_that_nobody_measured_the_fidelity():
    evaluation = fakes.evaluation()
    text = render(evaluation)
    assert "this network was not compared with a float model" in text
    assert "image/svg+xml" not in text and "signal to noise" not in text
    assert evaluation.to_dict()["fidelity"] is None


def test_report_of_different_runs_names_the_first_difference():
    evaluation = fakes.evaluation(cycles=1)
    text = render(evaluation)
    assert "verdict bad" in text
    assert "Gated program. Not equal: 0 outputs" in text
    assert "layer conv1: the cycles are 1 in the RTL" in text
    assert 'class="bad"' in text


def test_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "folder" / "report.html"
    write_report(target, fakes.evaluation())
    assert target.read_text().startswith("<!DOCTYPE html>")
    target.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(UserError, match=r"report\.html cannot be written: No space"):
        write_report(target, fakes.evaluation())
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_decision_map_lays_the_share_of_open_channels_over_the_image():
    picture = np.full((8, 8, 3), 255.0)
    decision = np.zeros((4, 4, 4), bool)
    decision[:, 1, 2] = True  # pixel (1, 2) of the layer is 2 x 2 pixels of the image
    decision[0, 3, 3] = True
    shown = decision_map(picture, decision)
    assert shown.shape == (8, 8, 3)
    assert (shown[2:4, 4:6] == shown[2, 4]).all()
    assert (shown[:2] == 255).all()
    assert shown[2, 4, 2] < shown[7, 7, 2] < 255


def test_png_decodes_to_the_pixels():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    data = b64decode(png(pixels).partition(",")[2])
    assert data.startswith(b"\x89PNG")
    start = data.index(b"IDAT")
    size = int.from_bytes(data[start - 4:start], "big")
    rows = zlib.decompress(data[start + 4:start + 4 + size])
    assert rows == b"\0" + pixels[0].tobytes() + b"\0" + pixels[1].tobytes()


def test_tables_show_every_layer_and_the_totals():
    evaluation = fakes.evaluation()
    text = _print(evaluation_table(evaluation), summary_table(evaluation, ACCURACY),
                  counter_table(evaluation.gated.rtl), stream_table(evaluation.gated.rtl))
    assert "…" not in text
    for layer in evaluation.layers:
        assert f"{layer.cycles_rtl:,}" in text
    for word in (*LANE_COUNTERS, *STREAMS, "Speed-up", "97.50%"):
        assert word in text


def test_ratios_below_the_limits_are_marked():
    rows = [line.split() for line in
            _print(fidelity_table(fakes.FIDELITY, fakes.network().config.formats)).splitlines()]
    assert ["stem", "42.2", "42.2"] in rows and ["classifier", "200.0", "3.0"] in rows
    assert ["conv1", "7.8", "-3.5", "below", "10"] in rows
    assert ["conv2", "12.5", "-21.0", "below", "15"] in rows


def test_energy_adds_published_figures():
    joules = energy({"multipliers": ("multiply8", 1e12), "off-chip": ("dram", 1000 / 8),
                     "psums": (sram(4096), 10)})
    assert joules == pytest.approx({"multipliers": 0.2, "off-chip": 1.625e-7, "psums": 1e-10})
    assert [sram(size) for size in (1, 8192, 8193, 1 << 20)] == ["sram_8k", "sram_8k", "sram_32k",
                                                                 "sram_1m"]
    assert all(cost.joules > 0 and cost.source for cost in HOROWITZ_45NM.values())
    with pytest.raises(UserError, match="no energy for 'magic'; there is for add32, add8"):
        energy({"x": ("magic", 1)})
    with pytest.raises(UserError, match="at most 1048576 bytes"):
        sram((1 << 20) + 1)
