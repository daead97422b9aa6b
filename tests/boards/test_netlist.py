"""Reading netlists: what cells take, and the block that each belongs to."""

import json

import pytest

from hwgate.boards.netlist import GLUE, SHELL, Netlist, Resources
from hwgate.errors import UserError
from support.netlists import SmallNetlist


def _blocks(small):
    return {name.removeprefix("design."): cell.block
            for name, cell in Netlist.read(small.text()).cells.items()}


@pytest.fixture
def small():
    return SmallNetlist("lane0", "lane0.instance", "lane0.instance.issue", "loader")


def test_registers_tell_their_block_and_logic_follows(small):
    small.register("lane0.instance.issue.a", "d1", "q1").register("loader.b", "d2", "q2")
    small.lut("loader.named_after_its_input", "q2", "d1")
    small.lut("x", "q1", "d2")
    blocks = _blocks(small)
    assert blocks["lane0.instance.issue.a"] == "lane0.issue"
    assert blocks["loader.named_after_its_input"] == "lane0.issue"
    assert blocks["x"] == "loader"


def test_a_name_counts_where_no_attribute_does(small):
    small.add("lane0.instance.issue.storage.0.1", "TRELLIS_DPR16X4", DO="o")
    assert _blocks(small) == {"lane0.instance.issue.storage.0.1": "lane0.issue"}


def test_numbers_that_tell_modules_apart_are_no_part_of_a_block():
    small = SmallNetlist("lane0.instance.gate$243")
    assert _blocks(small.register("lane0.instance.gate$243.a", "d", "q")) == {
        "lane0.instance.gate$243.a": "lane0.gate"}


def test_shared_logic_belongs_to_most_or_to_all(small):
    for n, block in enumerate(("lane0.instance.issue", "lane0.instance.issue", "loader")):
        small.register(f"{block}.r{n}", f"d{n}", f"q{n}")
        small.lut(f"last{n}", "shared", f"d{n}")
    small.lut("most", "q0", "shared")
    assert _blocks(small)["most"] == "lane0.issue"
    small.register("loader.r3", "d3", "q3").lut("last3", "shared", "d3")
    assert _blocks(small)["most"] == GLUE
    small = SmallNetlist("lane0.gate", "lane0.dot")
    small.register("lane0.gate.a", "d", "q1").register("lane0.dot.b", "d", "q2")
    assert _blocks(small.lut("x", "q1", "d"))["x"] == "lane0"


def test_what_is_around_the_design_is_told_apart(small):
    netlist = Netlist.read(small.add("loader.b", "TRELLIS_FF", DI="d", Q="q").text())
    assert netlist.by_block == {SHELL: Resources(flip_flops=1)}
    assert netlist.total == Resources()


def test_resources_add_up(small):
    small.register("lane0.instance.issue.a", "d", "q").lut("lane0.x", "q", "d")
    small.add("lane0.instance.m", "MULT18X18D", A0="q", P0="p")
    small.add("loader.c", "CCU2C", A0="p", S0="s").add("loader.m", "TRELLIS_DPR16X4", RAD="s")
    small.add("loader.r", "DP16KD", ADA0="s", DOA0="o").add("lane0.f", "PFUMX", ALUT="d", Z="z")
    netlist = Netlist.read(small.text())
    assert netlist.total == Resources(1, 1, 1, 1, 1, 1)
    assert netlist.total.luts == 1 + 2 + 6
    tree = netlist.tree()
    assert tree["lane0"].flip_flops == tree["lane0.issue"].flip_flops == 1
    assert "lane0.issue" not in netlist.tree(1)
    assert sum((taken for name, taken in tree.items() if "." not in name),
               Resources()) == netlist.total


def test_logic_in_a_circle_is_refused(small):
    small.lut("a", "y", "x").lut("b", "x", "y").register("loader.r", "y", "q")
    with pytest.raises(UserError, match=r"Logic must not run in a circle, as it does through "
                                        r"cells design\.a, design\.b$"):
        Netlist.read(small.text())


def test_a_carry_chain_through_its_own_sum_is_no_circle(small):
    small.add("c", "CCU2C", A0="q", S0="s", A1="x", S1="t").lut("l", "s", "x")
    small.register("loader.r", "t", "q")
    assert _blocks(small)["c"] == "loader"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"modules": {}}', '{"modules": 3}',
                                  '{"modules": {"a": {"attributes": {"top": "2"}}}}'])
def test_what_is_no_netlist_is_refused(text):
    with pytest.raises(UserError, match="^Netlist must be JSON of Yosys with a top module$"):
        Netlist.read(text)


def test_cells_of_another_family_are_named(small):
    with pytest.raises(UserError, match="^Netlist has cells SB_LUT4; hwgate knows those of an "
                                        "ECP5, which are LUT4, "):
        Netlist.read(small.add("a", "SB_LUT4", O="x").text())


def test_constants_are_no_nets(small):
    cell = Netlist.read(small.lut("a", "0 1", "z").text()).cells["design.a"]
    assert list(cell.nets) == ["Z"]
    assert json.loads(small.text())["modules"]["shell"]["cells"]["design.a"]["connections"]["A"]
