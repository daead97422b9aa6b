"""Yosys in a process of its own: ``python -m hwgate.boards.yosys FOLDER TOP``.

Reads ``FOLDER/design.v`` and writes ``FOLDER/netlist.json``, the flat ECP5 netlist of module TOP
between registers. A line that begins with :data:`STEP` tells each step; all others are the log of
Yosys.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["LEAST_DSP_BITS", "SHELL", "STEP", "main", "shell"]

#: Module around the design.
SHELL = "shell"

#: Instance of the design in it.
DESIGN = "design"

#: How a line of progress begins.
STEP = "hwgate step: "

#: Bits of both factors from which on a product takes a multiplier block.
LEAST_DSP_BITS = 8

_MULTIPLIERS = " ".join(f"-D DSP_{side}_{what}" for side in "AB" for what in (
    "MAXWIDTH=18", f"MINWIDTH={LEAST_DSP_BITS}")) + " -D DSP_NAME=$__MUL18X18"

#: Steps after the design is read, and their commands. Products find their multiplier blocks before
#: the standard flow does, which would give one to each product by a constant of two bits, too.
_SYNTHESIS = (
    ("one flat netlist", ("proc -latches error", "flatten -scopename", "opt_expr", "opt_clean",
                          "opt -nodffe -nosdff", "wreduce", "peepopt", "opt_clean")),
    ("multiplier blocks", (f"techmap -map +/mul2dsp.v {_MULTIPLIERS}",
                           "chtype -set $mul t:$__soft_mul",
                           "techmap -map +/lattice/dsp_map_18x18.v", "opt_clean")),
    *((words, (f"synth_ecp5 -top {SHELL} -nodsp -no-rw-check -run {labels}",))
      for words, labels in (
        ("words and memories", "coarse:map_ram"), ("block RAM", "map_ram:map_gates"),
        ("carry chains", "map_gates:map_ffs"), ("flip-flops", "map_ffs:map_luts"),
        ("look-up tables", "map_luts:map_cells"), ("names", "map_cells:json"))),
)


def shell(top: str, ports: Sequence[tuple[str, int, bool]], *, unused: str = "monitor__") -> str:
    """Verilog of module :data:`SHELL`: registers around a module, so that few pins suffice.

    Inputs come from a shift register and outputs go into registers, of which one pin shows the
    parity: every path is one from register to register, and none can be left out.

    Parameters
    ----------
    top : str
        The module, with inputs ``clk`` and ``rst``.
    ports : sequence of (str, int, bool)
        Name, bits and whether it is an input, of each port.
    unused : str
        How outputs begin that stay open, so that what only they need is left out.
    """
    wires: dict[bool, list[tuple[str, int]]] = {True: [], False: []}
    for name, bits, is_input in ports:
        if name not in ("clk", "rst") and not name.startswith(unused):
            wires[is_input].append((name, bits))
    connections = [".clk(clk)", ".rst(reset)"]
    totals = {}
    for is_input, signal in ((True, "from"), (False, "result")):
        low = 0
        for name, bits in wires[is_input]:
            connections.append(f".\\{name} ({signal}[{low + bits - 1}:{low}])")
            low += bits
        totals[signal] = max(low, 1)
    words = -(-totals["result"] // 16)
    inner = ",\n    ".join(connections)
    return f"""
module {SHELL}(input clk, input rst, input in, output reg out);
  reg reset;
  reg [{totals["from"] - 1}:0] from;
  wire [{totals["result"] - 1}:0] result;
  reg [{16 * words - 1}:0] to;
  reg [{words - 1}:0] parity;
  integer k;
  always @(posedge clk) begin
    reset <= rst;
    from <= {{from, in}};
    to <= result;
    for (k = 0; k < {words}; k = k + 1) parity[k] <= ^to[16 * k +: 16];
    out <= ^parity;
  end
  \\{top} {DESIGN} (
    {inner});
endmodule
"""


def main(arguments: Sequence[str]) -> int:
    """Synthesize; Yosys ends the process by itself if it fails."""
    from pyosys import libyosys

    folder, top = Path(arguments[0]), arguments[1]
    design = libyosys.Design()

    def run(*commands: str) -> None:
        for command in commands:
            libyosys.run_pass(command, design)

    steps = len(_SYNTHESIS) + 2
    _tell(1, steps, "reading")
    run(f"read_verilog {folder / 'design.v'}", f"hierarchy -check -top {top}")
    module = design.top_module()
    wires = [module.wire(name) for name in module.ports]
    (folder / "shell.v").write_text(shell(
        top, [(_plain(wire.name), wire.width, wire.port_input) for wire in wires]))
    run(f"read_verilog {folder / 'shell.v'}", f"synth_ecp5 -top {SHELL} -run begin:coarse")
    for number, (words, commands) in enumerate(_SYNTHESIS, 2):
        _tell(number, steps, words)
        run(*commands)
    _tell(steps, steps, "writing")
    run(f"write_json {folder / 'netlist.json'}")
    return 0


def _plain(name: Any) -> str:
    """A name without the backslash of what a designer named."""
    return name.str().removeprefix("\\")


def _tell(number: int, steps: int, words: str) -> None:
    print(f"{STEP}{number}/{steps} {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
