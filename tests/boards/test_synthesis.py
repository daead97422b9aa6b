"""Yosys in its own process: small modules through the whole flow, the cache, and failures."""

import sys
from importlib.util import find_spec

import pytest

from hwgate.boards import tools
from hwgate.boards.netlist import Netlist
from hwgate.boards.synthesis import synthesize, synthesize_verilog
from hwgate.boards.timing import estimate
from hwgate.boards.tools import find_nextpnr, run_tool, yosys_version
from hwgate.boards.yosys import shell
from hwgate.errors import ToolError, UserError

needs_yosys = pytest.mark.skipif(not find_spec("pyosys"), reason="Yosys is not installed: pip "
                                                                 "install 'hwgate[fpga]'")

#: Two blocks: a product of eight bits, and a small one beside a memory that the other reads.
DESIGN = """
module product(input clk, input signed [7:0] a, b, output reg signed [15:0] o);
  always @(posedge clk) o <= a * b;
endmodule
module small(input clk, input [2:0] a, b, output reg [5:0] o);
  always @(posedge clk) o <= a * b;
endmodule
module \\my.top (input clk, input rst, input [7:0] \\in.a , input [7:0] b, output [15:0] o,
                 output [5:0] p, output [7:0] monitor__q);
  reg [7:0] q;
  always @(posedge clk) q <= q + b;
  assign monitor__q = q;
  product wide(.clk(clk), .a(\\in.a ), .b(b), .o(o));
  small narrow(.clk(clk), .a(b[2:0]), .b(b[5:3]), .o(p));
endmodule
"""


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HWGATE_CACHE", str(tmp_path / "cache"))


@needs_yosys
def test_a_module_becomes_a_netlist(empty_cache):
    told = []
    text = synthesize_verilog(DESIGN, "my.top", told.append)
    netlist = Netlist.read(text)
    tree = netlist.tree()
    assert tree["wide"].multipliers == 1 and netlist.total.multipliers == 1
    assert tree["narrow"].flip_flops == 6 and tree["narrow"].luts > 6
    assert netlist.total.flip_flops <= 6 + 16, "what only a monitor shows is left out"
    assert not estimate(netlist).paths, "these blocks meet the registers around the design only"
    assert told[0] == "synthesis 1/10 reading" and told[-1] == "synthesis 10/10 writing"
    told.clear()
    assert synthesize_verilog(DESIGN, "my.top", told.append) == text and not told


@needs_yosys
def test_verilog_that_is_none_is_refused_with_the_log(empty_cache):
    with pytest.raises(ToolError, match="(?s)^Yosys failed with exit status 1:.*ERROR: .*syntax"):
        synthesize_verilog("module top(", "top")


def test_the_shell_connects_every_port_once():
    text = shell("t", [("clk", 1, True), ("rst", 1, True), ("a.b", 3, True), ("c", 1, True),
                       ("o", 20, False), ("monitor__x", 99, False)])
    assert ".\\a.b (from[2:0])" in text and ".\\c (from[3:3])" in text
    assert ".\\o (result[19:0])" in text and "reg [31:0] to" in text and "monitor" not in text


def test_yosys_missing_says_what_to_install(monkeypatch):
    def missing(name):
        raise tools.PackageNotFoundError(name)

    monkeypatch.setattr(tools, "version", missing)
    with pytest.raises(ToolError, match=r"^Yosys is missing; install it with: pip install "
                                        r"'hwgate\[fpga\]'$"):
        yosys_version()


def test_nextpnr_is_found_or_missed(monkeypatch, tmp_path):
    monkeypatch.delenv("NEXTPNR_ECP5", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"^nextpnr-ecp5 is missing; install it with: pip install "
                                        r"'hwgate\[fpga\]'$"):
        find_nextpnr()
    own = tmp_path / "nextpnr-ecp5"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert find_nextpnr() == str(own)
    monkeypatch.setenv("NEXTPNR_ECP5", "nowhere")
    with pytest.raises(ToolError, match=r"^The program \$NEXTPNR_ECP5=nowhere is missing; "):
        find_nextpnr()


def test_a_tool_is_stopped_with_who_waits_for_it(tmp_path):
    def line(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tool("Python", [sys.executable, "-uc", "print(1); import time; time.sleep(60)"],
                 tmp_path / "log", line)


@pytest.mark.parametrize("value", [None, "tiny", 3])
def test_only_a_configuration_can_be_synthesized(value):
    with pytest.raises(UserError, match="^Configuration must be an AcceleratorConfig"):
        synthesize(value)
