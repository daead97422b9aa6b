"""Figures: what they show, where, and that the same data gives the same text."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from hwgate.show.figures import COLOURS, Line, Panel, bars, levels, lines, maps

SVG = "{http://www.w3.org/2000/svg}"
LINES = [Line("a < b", [(0, 0.5), (1, 1)], ["first", ""]), Line("c", [(0.5, 0.75)], joined=False)]
PANEL = Panel("panel", "x of it", "y of it", LINES, ((0, "zero"), (1, "one")),
              ((0.5, "l"), (1, "h")))


def words(text):
    return {"".join(node.itertext()).strip() for node in ET.fromstring(text).iter(f"{SVG}text")}


def marks(text, colour):
    """Places of the marks of a colour."""
    return [(float(use.get("x")), float(use.get("y"))) for use in ET.fromstring(text).iter(
        f"{SVG}use") if f"fill: {colour}" in use.get("style", "")]


def test_lines_place_their_points():
    text = lines("A & B", [PANEL], "below")
    assert {"A & B", "below", "panel", "a < b", "c", "first", "x of it", "y of it", "zero", "one",
            "l", "h"} <= words(text)
    both = marks(text, COLOURS["blue"])
    middle = marks(text, COLOURS["vermilion"])[0]
    assert both[0][0] < both[1][0] and both[0][1] > both[1][1]
    assert middle == pytest.approx(np.mean(both[:2], axis=0), abs=0.1)


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_labels_lie_beside_the_points_near_them(scale, logarithmic):
    """To the upper right of their point, or to its upper left where another one is there."""
    points = [(1.0, 1.0), (1.1, scale), (3.9, 3 * scale), (4.0, 3.1 * scale), (4.1, 0)]
    text = lines("t", [Panel("", "", "", [Line("all", points, list("abcde"), joined=False)],
                             logarithmic=logarithmic)])
    found = dict(zip("abcde", marks(text, COLOURS["blue"])[:5], strict=True))
    sides = {}
    for node in ET.fromstring(text).iter(f"{SVG}text"):
        if node.text in found:
            ends = "text-anchor: end" in node.get("style")
            sides[node.text] = not ends, float(node.get("y")) < found[node.text][1]
    right, left = (True, True), (False, True)
    assert sides == {"a": left if scale == 1 else right, "b": right, "c": left, "d": right,
                     "e": right}


def test_a_line_looks_alike_in_every_panel():
    other = Panel("other", "", "", [LINES[1], Line("limit", [(0, 0), (1, 1)], dashed=True)])
    text = lines("t", [PANEL, other])
    # A mark in each panel and one in the legend; the reference has none.
    assert len(marks(text, COLOURS["vermilion"])) == 3
    assert len(marks(text, COLOURS["blue"])) == 3 and "stroke-dasharray" in text
    assert "limit" in words(text)


def test_bars_are_as_wide_as_their_shares():
    text = bars("a < b", "sub", [("one", "note", {"x": 0.25, "y": 0.75, "z": 0}),
                                 ("head", "", None)],
                {"x": "#000001", "y": "#000002", "z": "#000003"})
    wide = {}
    for path in ET.fromstring(text).iter(f"{SVG}path"):
        for colour in ("#000001", "#000002", "#000003"):
            if f"fill: {colour}" in path.get("style", "") and "clip-path" in path.attrib:
                places = [float(p.split()[0]) for p in
                          path.get("d").replace("M", "").replace("L", "\n").split("\n")
                          if p.strip()]
                wide[colour] = max(wide.get(colour, 0), max(places) - min(places))
    assert wide["#000002"] == pytest.approx(3 * wide["#000001"])
    assert {"one", "note", "head", "x", "y", "100 %"} <= words(text) and "z" not in words(text)


def test_levels_are_as_long_as_their_values_up_to_the_edges():
    text = levels("t < u", "sub", "dB", [("one", {"x": 10, "y": 20}), ("two", {"x": -40, "y": 90})],
                  {"x": "#000001", "y": "#000002"}, {"limit": 15.0}, 40)
    spans = {}
    for path in ET.fromstring(text).iter(f"{SVG}path"):
        colour = path.get("style", "").partition(";")[0].removeprefix("fill: ")
        if colour in ("#000001", "#000002") and "clip-path" in path.attrib:
            places = [float(p.split()[0]) for p in
                      path.get("d").replace("M", "").replace("L", "\n").split("\n") if p.strip()]
            spans.setdefault(colour, []).append((min(places), max(places)))
    (zero, ten), (lowest, below) = spans["#000001"]
    (start, twenty), (_, edge) = spans["#000002"]
    assert zero == start == below and twenty - zero == pytest.approx(2 * (ten - zero), rel=1e-4)
    assert edge - zero == pytest.approx(4 * (ten - zero), rel=1e-4)  # 40 of 90
    assert zero - lowest == pytest.approx(ten - zero, rel=1e-4)  # -10 of -40
    assert {"t < u", "sub", "dB", "one", "two", "x", "y", "limit", "10.0", "-40.0",
            "90.0"} <= words(text)
    dashed = [float(node.get("d").split()[1]) for node in ET.fromstring(text).iter(f"{SVG}path")
              if "stroke-dasharray" in node.get("style", "") and "clip-path" in node.attrib]
    assert dashed == [pytest.approx(zero + 1.5 * (ten - zero), rel=1e-4)]


def test_maps_have_a_picture_each():
    values = [np.eye(4), np.zeros((2, 3))]
    text = maps("t", "s", [("one", values), ("two", values)], ["l < 1", "l2"], 0.5)
    images = list(ET.fromstring(text).iter(f"{SVG}image"))
    assert len(images) == 4 + 1  # and the scale
    assert {"one", "two", "l < 1", "l2", "50%"} <= words(text)


@pytest.mark.parametrize("draw", [
    lambda: lines("t", [PANEL, PANEL, PANEL]), lambda: bars("t", "s", [("r", "n", {"x": 1.0})],
                                                            {"x": "#123456"}),
    lambda: maps("t", "s", [("r", [np.eye(3)])], ["c"], 1.0),
    lambda: levels("t", "s", "x", [("r", {"x": 1.0})], {"x": "#123456"}, {"l": 2.0}, 4)])
def test_the_same_data_gives_the_same_text(draw):
    first = draw()
    assert draw() == first and "<dc:date>" not in first


def test_the_library_is_loaded_when_a_figure_is_drawn():
    code = ("import sys, hwgate.show.figures, hwgate.cli.main, hwgate.bench\n"
            "print('matplotlib' in sys.modules)")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
