"""The FPGAs that hwgate synthesizes for."""

from collections.abc import Mapping
from dataclasses import dataclass

from hwgate.errors import UserError, shown

__all__ = ["PARTS", "Part", "find_part"]


@dataclass(frozen=True)
class Part:
    """One FPGA: what it has, and how the place and route tool calls it.

    Parameters
    ----------
    name : str
    resources : mapping
        Amount of each kind; the names are those of :class:`hwgate.boards.netlist.Resources`.
    arguments : sequence of str
        Of nextpnr-ecp5.
    """

    name: str
    resources: Mapping[str, int]
    arguments: tuple[str, ...]


def _ecp5(size: int, luts: int, block_ram: int, multipliers: int) -> Part:
    """A part of Lattice's family ECP5, speed grade 6, with two flip-flops to a pair of LUT4."""
    return Part(f"LFE5U-{size}F",
                {"luts": luts, "flip_flops": luts, "multipliers": multipliers,
                 "block_ram": block_ram},
                (f"--{size}k", "--package", "CABGA381", "--speed", "6"))


#: By name; from Lattice's ECP5 family data sheet. The 12F is a 25F with another name.
PARTS = {part.name: part for part in (
    _ecp5(25, 24_288, 56, 28), _ecp5(45, 43_848, 108, 72), _ecp5(85, 83_640, 208, 156))}


def find_part(name: str) -> Part:
    """Part of this name.

    Raises
    ------
    UserError
        If there is none.
    """
    if not isinstance(name, str) or name not in PARTS:
        raise UserError(f"There is no part {shown(name)}; there are {', '.join(PARTS)}")
    return PARTS[name]
