"""Place and route: its reports, its progress and its failures, with a program that plays it."""

import json
import sys

import pytest

from hwgate.boards.netlist import Netlist
from hwgate.boards.parts import PARTS
from hwgate.boards.routing import read_report, route
from hwgate.errors import ToolError, UserError
from support.netlists import SmallNetlist

SMALL = SmallNetlist("a", "b").register("a.r", "x", "q").add("b.c", "CCU2C", A0="q", S0="s")
SMALL.lut("l", "s", "d").register("b.r", "d", "y")
NETLIST = Netlist.read(SMALL.text())
CELLS = [("a.r", "Q"), ("b.c$CCU2_COMB0", "A"), ("$nextpnr_CCU2C_3$CCU2_COMB0", "FCI"),
         ("l", "A"), ("b.r", "DI")]
REPORT = {
    "fmax": {"clk": {"achieved": 50.0, "constraint": 100}},
    "utilization": {"TRELLIS_FF": {"used": 2, "available": 10}},
    "critical_paths": [
        {"from": "<async>", "to": "posedge clk", "path": [{"delay": 99.0, "to": {}}]},
        {"from": "posedge clk", "to": "posedge clk", "path": [
            {"delay": 4.0, "to": {"cell": f"design.{cell}", "port": port}}
            for cell, port in CELLS]}]}

#: Plays nextpnr: says how far it is, and writes a report with a clock of the seed.
PROGRAM = f"""#!{sys.executable}
import json, sys
options = dict(zip(sys.argv[1:], sys.argv[2:]))
seed = int(options["--seed"])
if seed == BAD:
    print("ERROR: Unable to place cell")
    sys.exit(1)
assert options["--json"] == "netlist.json", "a package of YoWASP sees its folder only"
json.load(open(options["--json"]))
print("Info:   3000 |      203       2796 |   30   970 |    100550|       0.96       7.29|")
report = REPORT
report["fmax"]["clk"]["achieved"] = 40.0 + seed
json.dump(report, open(options["--report"], "w"))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    def write(bad=0):
        path = tmp_path / "nextpnr"
        path.write_text(PROGRAM.replace("BAD", str(bad)).replace("REPORT", repr(REPORT)))
        path.chmod(0o755)
        monkeypatch.setenv("NEXTPNR_ECP5", str(path))
    return write


def test_the_critical_path_is_told_by_blocks():
    found = read_report(json.dumps(REPORT), NETLIST, 7)
    assert (found.seed, found.mhz, found.used, found.available) == (
        7, 50.0, {"TRELLIS_FF": 2}, {"TRELLIS_FF": 10})
    assert found.path.describe() == "a > b (1 LUT, 1 carry)"
    assert found.path.nanoseconds == 20
    assert [(hop.cell, hop.at) for hop in found.path.hops] == [
        ("design.a.r", 4), ("design.b.c", 8), ("design.l", 16), ("design.b.r", 20)]


@pytest.mark.parametrize("text", ["", "{}", json.dumps({**REPORT, "fmax": {}}),
                                  json.dumps({**REPORT, "critical_paths": []})])
def test_a_report_without_a_clock_is_refused(text):
    with pytest.raises(ToolError, match="^nextpnr-ecp5 must report a clock and a critical path"):
        read_report(text, NETLIST, 1)


def test_seeds_run_side_by_side_and_say_where_they_are(program, tmp_path):
    program()
    told = []
    found = route(NETLIST, SMALL.text(), PARTS["LFE5U-25F"], seeds=3, jobs=2,
                  folder=tmp_path / "kept", progress=told.append)
    assert found.mhz == (41, 42, 43) and found.slowest.seed == 1
    assert any("seed 2: routing, 100,550 arcs left" in words for words in told)
    assert told[-1].count("done") == 3
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"netlist.json", *(
        f"seed{seed}.{kind}" for seed in (1, 2, 3) for kind in ("json", "log"))}


def test_a_seed_that_fails_says_why(program):
    program(bad=2)
    with pytest.raises(ToolError, match="(?s)^nextpnr-ecp5 failed with exit status 1:.*Unable to "
                                        "place cell$"):
        route(NETLIST, SMALL.text(), PARTS["LFE5U-25F"], seeds=3)


@pytest.mark.parametrize("options, sentence", [
    ({"seeds": 0}, "Seed count must be at least 1, not 0"),
    ({"jobs": 0}, "Job count must be at least 1, not 0"),
    ({"seeds": "3"}, "Seed count must be an integer, not '3'"),
    ({"mhz": 0.0}, "Clock to aim at must be positive, not 0 MHz")])
def test_bad_amounts_are_refused(options, sentence):
    with pytest.raises(UserError, match=f"^{sentence}$"):
        route(NETLIST, SMALL.text(), PARTS["LFE5U-25F"], **options)
