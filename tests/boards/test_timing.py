"""The estimate of paths, on netlists small enough to add up by hand."""

import pytest

from hwgate.boards.cells import wire
from hwgate.boards.netlist import Netlist
from hwgate.boards.timing import estimate
from support.netlists import SmallNetlist

#: A net with two pins, clock to output of a flip-flop, and a look-up table.
NET, Q, LUT = 0.65 + 0.15, 0.52, 0.24


def _timing(small):
    return estimate(Netlist.read(small.text()))


def _chain(levels):
    """A register of block a, look-up tables, and a register of block b."""
    small = SmallNetlist("a", "b").register("a.r", "x", "n0")
    for level in range(levels):
        small.lut(f"l{level}", f"n{level}", f"n{level + 1}")
    return small.register("b.r", f"n{levels}", "y")


@pytest.mark.parametrize("levels", [1, 2, 7])
def test_each_level_of_logic_takes_its_time(levels):
    timing = _timing(_chain(levels))
    assert timing.nanoseconds == pytest.approx(Q + levels * (NET + LUT))
    path, = timing.paths
    assert (path.start, path.end) == ("a", "b")
    assert [hop.kind for hop in path.hops] == ["TRELLIS_FF", *["LUT4"] * levels, "TRELLIS_FF"]
    assert path.hops[-1].at == pytest.approx(timing.nanoseconds, abs=1e-3)
    assert path.describe() == f"a > b ({levels} LUT)"
    assert timing.mhz == pytest.approx(1000 / timing.nanoseconds)


def test_one_level_more_is_seen():
    assert _timing(_chain(5)).nanoseconds - _timing(_chain(4)).nanoseconds > 1


def test_a_wire_alone():
    timing = _timing(_chain(0))
    assert timing.nanoseconds == pytest.approx(Q + NET)
    assert timing.paths[0].describe() == "a > b (a wire)"


def test_a_carry_chain_is_quick_inside_and_slow_at_its_end():
    small = SmallNetlist("a").register("a.r", "x", "q").add("c0", "CCU2C", A0="q", COUT="k0")
    for n in range(4):
        small.add(f"c{n + 1}", "CCU2C", CIN=f"k{n}", COUT=f"k{n + 1}")
    small.add("c5", "CCU2C", CIN="k4", S1="s").register("a.s", "s", "x")
    inside = Q + NET + 0.45 + 4 * 0.07 + 0.40
    assert _timing(small).nanoseconds == pytest.approx(inside)
    small.lut("l", "k4", "z").register("a.z", "z", "y")
    leaves = Q + NET + 0.45 + 4 * 0.07 + 0.44 + 0.65 + 0.15 * 1.585 + LUT
    assert _timing(small).nanoseconds == pytest.approx(leaves, abs=1e-3)


def test_wide_look_up_tables_have_no_net_inside():
    small = SmallNetlist("a").register("a.r", "x", "q").lut("l", "q", "n")
    small.add("p", "PFUMX", ALUT="n", Z="m").add("s", "L6MUX21", D0="m", Z="x")
    assert _timing(small).nanoseconds == pytest.approx(Q + NET + LUT + 0.19 + 0.24)


@pytest.mark.parametrize("mode, delay", [("NOREG", 5.6), ("OUTREG", 0.57)])
def test_block_ram_is_slow_without_its_output_register(mode, delay):
    small = SmallNetlist("a", "b").register("b.r", "d", "q")
    small.add("a.m", "DP16KD", ADA0="q", DOB3="d", parameters={"REGMODE_B": mode})
    times = {(path.start, path.end): path.nanoseconds for path in _timing(small).paths}
    assert times["a", "b"] == pytest.approx(delay + NET)
    assert times["b", "a"] == pytest.approx(Q + NET)


def test_a_multiplier_is_crossed_unless_it_has_registers():
    def of(**parameters):
        small = SmallNetlist("a", "b").register("a.r", "x", "q").register("b.r", "p", "y")
        small.add("b.m", "MULT18X18D", A0="q", B0="q", P0="p", scope="b", parameters=parameters)
        return {(path.start, path.end): path.nanoseconds for path in _timing(small).paths}

    pair = 0.65 + 0.15 * 1.585
    assert of() == {("a", "b"): pytest.approx(Q + pair + 3.93 + NET, abs=1e-3)}
    both = {"REG_INPUTA_CLK": "CLK0", "REG_INPUTB_CLK": "CLK0"}
    assert of(**both) == {("a", "b"): pytest.approx(Q + pair, abs=1e-3),
                          ("b", "b"): pytest.approx(3.86 + NET)}
    assert of(**both, REG_OUTPUT_CLK="CLK0")["b", "b"] == pytest.approx(0.76 + NET)
    assert of(REG_OUTPUT_CLK="CLK0")["a", "b"] == pytest.approx(Q + pair + 3.49, abs=1e-3)


def test_memories_of_look_up_tables_are_read_without_a_clock():
    small = SmallNetlist("a").register("a.r", "o", "q")
    small.add("a.m", "TRELLIS_DPR16X4", RAD="q", DO="o", WAD="q", DI="o", scope="a")
    assert _timing(small).paths[0].describe() == "a (1 LUT-RAM)"
    assert _timing(small).nanoseconds > Q + LUT + NET


def test_a_net_takes_longer_to_many():
    few, many = (wire(("TRELLIS_FF", "Q"), Netlist.read(_chain(1).text()).cells["design.l0"], "A",
                      pins) for pins in (2, 64))
    assert many - few == pytest.approx(5 * 0.15)


def test_the_slowest_pair_is_first_and_the_shell_is_left_out():
    small = _chain(2).register("b.second", "n0", "y2")
    timing = _timing(small)
    assert [path.nanoseconds for path in timing.paths] == sorted(
        (path.nanoseconds for path in timing.paths), reverse=True)
    outside = _chain(2).text().replace("design b", "outside b")
    assert not estimate(Netlist.read(outside)).paths


def test_what_json_holds():
    found = _timing(_chain(1)).to_dict()
    assert found["paths"][0]["from"] == "a" and found["paths"][0]["blocks"] == ["a", "b"]
    assert found["paths"][0]["hops"][1]["cell"] == "design.l0"
    assert _timing(SmallNetlist()).to_dict() == {"nanoseconds": 0.0, "mhz": None, "paths": []}
