"""The cells of an ECP5: what each takes of the FPGA, and how long signals take through it.

Delays are nanoseconds of speed grade 6, as Project Trellis measured them for nextpnr-ecp5, rounded.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import NamedTuple

__all__ = ["Arc", "Cell", "Endpoint", "KINDS", "Start", "arcs", "endpoints", "starts", "wire"]

#: Field of :class:`hwgate.boards.netlist.Resources` of each kind of cell; none for what comes with
#: look-up tables.
KINDS: dict[str, str | None] = {
    "LUT4": "lut4", "PFUMX": None, "L6MUX21": None, "CCU2C": "carry",
    "TRELLIS_DPR16X4": "lut_ram", "TRELLIS_FF": "flip_flops", "MULT18X18D": "multipliers",
    "DP16KD": "block_ram"}

_REGISTER = 0.52         # clock to output of a flip-flop
_LUT = 0.24
_FIVE, _SIX = 0.19, 0.24  # through the multiplexers that make LUTs of five and six inputs
_SELECT = 0.17           # from their select input
_RAM = 5.6               # clock to output of block RAM
_RAM_REGISTER = 0.57     # of its output register
_PRODUCT = 3.93          # factors to product
_FACTOR_REGISTER = 3.86  # clock to product where the factors have registers
_PRODUCT_SETUP = 3.49    # factors to the register of the product
_PRODUCT_REGISTER = 0.76
_CARRY = {("operand", "COUT"): 0.45, ("CIN", "COUT"): 0.07, ("CIN", "S0"): 0.44,
          ("CIN", "S1"): 0.40, ("0", "S0"): 0.24, ("0", "S1"): 0.85, ("1", "S1"): 0.24}

_CHAIN = 0.44            # between a carry chain and other logic

#: Ports that a signal reaches inside of a slice.
_DIRECT = {("PFUMX", "ALUT"), ("PFUMX", "BLUT"), ("L6MUX21", "D0"), ("L6MUX21", "D1")}

#: Kinds whose outputs reach a flip-flop inside of a slice.
_LOGIC = {"LUT4", "PFUMX", "L6MUX21", "CCU2C", "TRELLIS_DPR16X4"}

#: Nanoseconds of a net that crosses the FPGA, and for each doubling of its pins. Fitted to what
#: nextpnr routed on the slow paths of an accelerator with one lane.
_ROUTE, _DOUBLING = 0.65, 0.15


@dataclass(frozen=True)
class Cell:
    """One cell; ``nets`` are the numbers of the nets at each port, without constants."""

    name: str
    kind: str
    block: str
    nets: Mapping[str, Sequence[int]]
    parameters: Mapping[str, str]

    def at(self, *ports: str) -> Iterator[tuple[str, int]]:
        """Ports and nets at ports of these names."""
        return ((port, net) for port in ports for net in self.nets.get(port, ()))

    def like(self, pattern: str) -> Iterator[tuple[str, int]]:
        """Ports and nets at ports whose name matches as a whole."""
        return ((port, net) for port, nets in self.nets.items() if re.fullmatch(pattern, port)
                for net in nets)


class Arc(NamedTuple):
    """A way through a cell, from a net at an input to a net at an output."""

    port: str
    source: int
    out: str
    target: int
    delay: float


class Start(NamedTuple):
    """A net that a cell drives this long after the clock."""

    port: str
    net: int
    delay: float


class Endpoint(NamedTuple):
    """A net that a cell takes with the clock, this long before it."""

    port: str
    net: int
    setup: float = 0.0


def wire(driver: tuple[str, str], cell: Cell, port: str, pins: int) -> float:
    """Nanoseconds from an output to an input, estimated before placement.

    Parameters
    ----------
    driver : (str, str)
        Kind of the cell that drives the net, and port of it.
    cell, port
        Where the net leads to.
    pins : int
        Ports on the net, the driver among them.
    """
    if (cell.kind, port) in _DIRECT or port == "DI" and driver[0] in _LOGIC:
        return 0.0
    if driver[1] == "COUT" and port == "CIN":
        return 0.0
    chain = _CHAIN * (driver[1] == "COUT" or port == "CIN")
    return chain + _ROUTE + _DOUBLING * log2(max(pins, 1))


def starts(cell: Cell) -> list[Start]:
    """Nets that follow the clock."""
    if cell.kind == "TRELLIS_FF":
        return [Start(port, net, _REGISTER) for port, net in cell.at("Q")]
    if cell.kind == "DP16KD":
        return [Start(port, net, _RAM_REGISTER if cell.parameters.get(
                    f"REGMODE_{port[2]}") == "OUTREG" else _RAM)
                for port, net in cell.like(r"DO[AB]\d+")]
    if cell.kind == "MULT18X18D" and _product_registered(cell):
        return [Start(port, net, _PRODUCT_REGISTER) for port, net in cell.like(r"P\d+")]
    if cell.kind == "MULT18X18D":
        return [Start(port, net, _FACTOR_REGISTER) for port, net in cell.like(r"P\d+")
                if any(_factor_registered(cell, side) for side in "AB")]
    return []


def endpoints(cell: Cell) -> list[Endpoint]:
    """Nets that are taken with the clock, the clock itself left out."""
    if cell.kind == "TRELLIS_FF":
        found = cell.at("DI", "M", "CE", "LSR")
    elif cell.kind == "DP16KD":
        found = cell.like(r"(?!DO|CLK)\w+")
    elif cell.kind == "TRELLIS_DPR16X4":
        found = cell.at("DI", "WAD", "WRE")
    elif cell.kind == "MULT18X18D":
        found = (at for at in cell.like(r"[AB]\d+|CE\d|RST\d")
                 if at[0][0] not in "AB" or _factor_registered(cell, at[0][0])
                 or _product_registered(cell))
    else:
        return []
    return [Endpoint(port, net, _PRODUCT_SETUP if cell.kind == "MULT18X18D" and port[0] in "AB"
                     and not _factor_registered(cell, port[0]) else 0.0) for port, net in found]


def arcs(cell: Cell) -> list[Arc]:
    """Ways through a cell within one cycle."""
    if cell.kind == "LUT4":
        return _all(cell, cell.at("A", "B", "C", "D"), cell.at("Z"), _LUT)
    if cell.kind == "TRELLIS_DPR16X4":
        return _all(cell, cell.at("RAD"), cell.at("DO"), _LUT)
    if cell.kind == "PFUMX":
        return (_all(cell, cell.at("ALUT", "BLUT"), cell.at("Z"), _FIVE)
                + _all(cell, cell.at("C0"), cell.at("Z"), _SELECT))
    if cell.kind == "L6MUX21":
        return (_all(cell, cell.at("D0", "D1"), cell.at("Z"), _SIX)
                + _all(cell, cell.at("SD"), cell.at("Z"), _SELECT))
    if cell.kind == "CCU2C":
        return [arc for (source, target), delay in _CARRY.items() for arc in _all(
                    cell, cell.like({"operand": "[ABCD][01]", "CIN": "CIN"}.get(
                        source, f"[ABCD]{source}")), cell.at(target), delay)]
    if cell.kind == "MULT18X18D" and not _product_registered(cell):
        sides = "".join(side for side in "AB" if not _factor_registered(cell, side))
        return _all(cell, cell.like(rf"[{sides}]\d+") if sides else (), cell.like(r"P\d+"),
                    _PRODUCT)
    return []


def _factor_registered(cell: Cell, side: str) -> bool:
    return cell.parameters.get(f"REG_INPUT{side}_CLK", "NONE") != "NONE"


def _product_registered(cell: Cell) -> bool:
    # Place and route takes no notice of the register in the middle.
    return cell.parameters.get("REG_OUTPUT_CLK", "NONE") != "NONE"


def _all(cell: Cell, sources: Iterable[tuple[str, int]], targets: Iterable[tuple[str, int]],
         delay: float) -> list[Arc]:
    """From every source to every target."""
    ends = list(targets)
    return [Arc(port, source, out, target, delay) for port, source in sources
            for out, target in ends]
