"""What the tables say, and features left out."""

from dataclasses import dataclass, field, replace

import pytest

from hwgate.boards.netlist import Netlist
from hwgate.boards.parts import PARTS, find_part
from hwgate.boards.report import Synthesis, left_out, markdown, sentences, sheets
from hwgate.boards.routing import Routed, Routing
from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig, preset
from support.netlists import SmallNetlist


@pytest.fixture
def small():
    small = SmallNetlist("lane0", "lane1", "lane0.dot", "lane1.dot", "loader")
    small.register("loader.r", "d", "q").lut("x", "q", "d")
    for lane in range(2):
        for n in range(20):
            small.add(f"lane{lane}.dot.m{n}", "MULT18X18D", A0="q", P0=f"p{lane}{n}",
                      scope=f"lane{lane}.dot")
    return small


@pytest.fixture
def found(small):
    return Synthesis.of(preset("tiny", lanes=2), PARTS["LFE5U-85F"], Netlist.read(small.text()))


def _routed(found, *clocks):
    return replace(found, routing=Routing(tuple(
        Routed(seed, mhz, {}, {}, found.timing.paths[0]) for seed, mhz in enumerate(clocks, 1))))


def test_lanes_are_one_row(found):
    rows = {row[0]: row for row in sheets(found)[0].rows}
    assert list(rows) == ["lanes", "lanes.dot", "loader", "total", "share of LFE5U-85F"]
    assert rows["lanes"][6] == rows["lanes.dot"][6] == rows["total"][6] == "40"
    assert found.to_dict()["blocks"]["lane1.dot"]["multipliers"] == 20


def test_what_does_not_fit_is_told(found):
    assert found.fits and "Fits the LFE5U-85F." in sentences(found)
    less = replace(found, part=PARTS["LFE5U-25F"])
    assert not less.fits and "Does not fit the LFE5U-25F: multipliers 143%." in sentences(less)
    assert less.to_dict()["fits"] is False


def test_the_clock_is_the_median_of_seeds(found):
    assert found.nanoseconds == found.timing.nanoseconds
    routed = _routed(found, 40.0, 50.0, 80.0)
    assert routed.nanoseconds == pytest.approx(20)
    assert routed.peak_gops == pytest.approx(2 * 36 / 20)
    said = " ".join(sentences(routed))
    assert "3 seeds: 40.0 / 50.0 / 80.0 MHz (minimum, median, maximum)" in said
    assert "Peak at 50.0 MHz: 3.60 GOPS" in said
    assert routed.to_dict()["routed"]["mhz"] == {"minimum": 40, "median": 50, "maximum": 80}
    assert sheets(routed)[2].rows[0] == ("1", "loader (1 LUT)", "40.0", "25.0")


def test_the_price_of_a_feature_is_a_difference(found, small):
    small.lut("more", "q", "e").register("loader.r2", "e", "q2")
    more = replace(found, netlist=Netlist.read(small.text()))
    price = {row[0]: row[1:] for row in sheets(more, {"gate": found})[-1].rows}
    assert price["LUT4"] == ("2", "1", "1") and price["Flip-flops"] == ("2", "1", "1")
    assert price["ns"][2] == "0.0"
    assert "The price of gate:" in markdown(more, {"gate": found})


def test_without_switches_no_feature_can_be_left_out():
    with pytest.raises(UserError, match=r"^Feature 'nothing' cannot be left out of the accelerator;"
                                        r" "):
        left_out(preset("tiny"), ["nothing"])


def test_a_switch_leaves_its_feature_out():
    @dataclass(frozen=True)
    class Switches:
        gate: bool = True
        tau: bool = True

    @dataclass(frozen=True, kw_only=True)
    class Switched(AcceleratorConfig):
        features: Switches = field(default_factory=Switches)

    assert left_out(Switched(), ["gate"]).features == Switches(gate=False)
    with pytest.raises(UserError, match="^Feature 'gat' cannot be left out of the accelerator; "
                                        "gate, tau can$"):
        left_out(Switched(), ["gat"])


@pytest.mark.parametrize("name", ["LFE5U-12F", "", None, 3])
def test_parts_are_named(name):
    with pytest.raises(UserError, match="^There is no part .*; there are LFE5U-25F, LFE5U-45F, "):
        find_part(name)
