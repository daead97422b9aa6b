"""A flat ECP5 netlist as Yosys wrote it: its cells, the block of each, and what they take.

Registers, memories and multipliers say which instance they come from. Logic belongs to the block
that most of what it leads to belongs to; without such a block, to the innermost that holds it all.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

from hwgate.boards.cells import KINDS, Arc, Cell, arcs, endpoints, starts
from hwgate.boards.yosys import DESIGN
from hwgate.errors import UserError

__all__ = ["GLUE", "SHELL", "Netlist", "Resources", "shorter"]

#: Block of cells that belong to no instance of the design, or to several alike.
GLUE = "top level"

#: Block of the registers around the design, which no board has.
SHELL = "around the design"

#: Instance of Amaranth that holds a module which several instances share.
_INNER = "instance"


@dataclass(frozen=True)
class Resources:
    """What cells take of an FPGA.

    Parameters
    ----------
    lut4 : int
        Look-up tables of four inputs that hold logic.
    carry : int
        Cells of carry chains, two look-up tables each.
    lut_ram : int
        Memories of 16 words of 4 bits, six look-up tables each.
    flip_flops, multipliers, block_ram : int
        Flip-flops, multipliers of 18x18 bits, memories of 18 Kbit.
    """

    lut4: int = 0
    carry: int = 0
    lut_ram: int = 0
    flip_flops: int = 0
    multipliers: int = 0
    block_ram: int = 0

    @property
    def luts(self) -> int:
        """Places of look-up tables, whatever they hold."""
        return self.lut4 + 2 * self.carry + 6 * self.lut_ram

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(*(getattr(self, part.name) + getattr(other, part.name)
                           for part in fields(self)))

    def to_dict(self) -> dict[str, int]:
        """All by name, ready for JSON."""
        return {"luts": self.luts, **{part.name: getattr(self, part.name)
                                      for part in fields(self)}}


@dataclass(frozen=True)
class Netlist:
    """Cells of a design, by name."""

    cells: Mapping[str, Cell]

    @classmethod
    def read(cls, text: str) -> "Netlist":
        """A netlist from the JSON text of Yosys.

        Raises
        ------
        UserError
            If this is no netlist, it has cells that no ECP5 has, or logic runs in a circle.
        """
        try:
            modules = json.loads(text)["modules"].values()
            top = next(at for at in modules if int(at["attributes"].get("top", "0"), 2))
            scopes = {_path(at["attributes"]["hdlname"]): name for name, at in top["cells"].items()
                      if "hdlname" in at["attributes"]} | {(DESIGN,): DESIGN}
            cells = {name: Cell(name, at["type"], _own_block(name, at, scopes),
                                _nets(at["connections"]), at.get("parameters", {}))
                     for name, at in top["cells"].items() if at["type"] != "$scopeinfo"}
        except (AttributeError, KeyError, StopIteration, TypeError, ValueError):
            raise UserError("Netlist must be JSON of Yosys with a top module") from None
        unknown = sorted({cell.kind for cell in cells.values()} - KINDS.keys())
        if unknown:
            raise UserError(f"Netlist has cells {', '.join(unknown)}; hwgate knows those of an "
                            f"ECP5, which are {', '.join(KINDS)}")
        return cls(_with_blocks(cls(cells)))

    @cached_property
    def into(self) -> dict[int, list[tuple[Cell, Arc]]]:
        """Ways to each net within a cycle."""
        found = defaultdict(list)
        for cell in self.cells.values():
            for arc in arcs(cell):
                found[arc.target].append((cell, arc))
        return dict(found)

    @cached_property
    def drivers(self) -> dict[int, tuple[str, str]]:
        """Kind and port of the cell that drives each net."""
        found = {arc.target: (cell.kind, arc.out) for ways in self.into.values()
                 for cell, arc in ways}
        for cell in self.cells.values():
            found |= {start.net: (cell.kind, start.port) for start in starts(cell)}
        return found

    @cached_property
    def pins(self) -> Counter[int]:
        """Ports on each net."""
        return Counter(net for cell in self.cells.values() for nets in cell.nets.values()
                       for net in nets)

    @cached_property
    def order(self) -> list[int]:
        """Nets that logic drives or takes, each after those that it follows from.

        Raises
        ------
        UserError
            If logic runs in a circle.
        """
        graph = {net: {arc.source for _, arc in ways} for net, ways in self.into.items()}
        try:
            return list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            circle = set(error.args[1])
            names = sorted({cell.name for net in circle for cell, arc in self.into.get(net, ())
                            if arc.source in circle})
            raise UserError(f"Logic must not run in a circle, as it does through cells "
                            f"{', '.join(names[:4])}"
                            + (f" and {len(names) - 4} more" if len(names) > 4 else "")) from None

    @cached_property
    def by_block(self) -> dict[str, Resources]:
        """What each block takes without the blocks inside of it."""
        counts: dict[str, Counter[str]] = {}
        for cell in self.cells.values():
            if part := KINDS[cell.kind]:
                counts.setdefault(cell.block, Counter())[part] += 1
        return {block: Resources(**count) for block, count in sorted(counts.items())}

    @property
    def total(self) -> Resources:
        """What the design takes, without what is around it."""
        return sum((taken for block, taken in self.by_block.items() if block != SHELL),
                   Resources())

    def tree(self, depth: int = 2) -> dict[str, Resources]:
        """What each block takes, with all inside of it, down to blocks of ``depth`` names."""
        found: dict[str, Resources] = {}
        for block, taken in self.by_block.items():
            names = shorter(block, depth).split(".")
            for length in range(1, len(names) + 1):
                name = ".".join(names[:length])
                found[name] = found.get(name, Resources()) + taken
        return dict(sorted(found.items()))


def shorter(block: str, depth: int = 2) -> str:
    """The first names of a block."""
    return ".".join(block.split(".")[:depth])


def _with_blocks(netlist: Netlist) -> dict[str, Cell]:
    """Cells with the blocks of logic filled in, from the registers backward."""
    leads: dict[int, Counter[str]] = defaultdict(Counter)
    clocked = set()
    for cell in netlist.cells.values():
        ends = endpoints(cell)
        if ends or starts(cell):
            clocked.add(cell.name)
        for end in ends:
            leads[end.net][cell.block] += 1
    blocks: dict[int, str] = {}
    for net in reversed(netlist.order):
        if net in leads:
            blocks[net] = _held(leads[net])
            for source in {arc.source for _, arc in netlist.into.get(net, ())}:
                leads[source][blocks[net]] += 1
    found = {}
    for name, cell in netlist.cells.items():
        if name not in clocked:
            to = Counter(blocks[arc.target] for arc in {arc.target: arc for arc in arcs(cell)
                                                        }.values() if arc.target in blocks)
            cell = replace(cell, block=_held(to) if to else cell.block)
        found[name] = cell
    return found


def _held(votes: Counter[str]) -> str:
    """Block with more than half of the votes, else the innermost block around all."""
    (first, count), *_ = votes.most_common(1)
    if 2 * count > votes.total():
        return first
    paths = [block.split(".") for block in votes if block != SHELL]
    shared = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return ".".join(shared) or GLUE


def _own_block(name: str, cell: Mapping[str, Any], scopes: Mapping[tuple[str, ...], str]) -> str:
    """Block that a cell says it is from, or else that its name says.

    Flip-flops are named after one of the signals that they drive, of any block; those that do not
    say where they are from are those around the design.
    """
    if "scopename" in cell["attributes"]:
        return _readable(_path(cell["attributes"]["scopename"]))
    path = () if cell["type"] == "TRELLIS_FF" else tuple(name.split("."))
    while path and path not in scopes:
        path = path[:-1]
    return _readable(path)


def _path(hdlname: str) -> tuple[str, ...]:
    return tuple(hdlname.split(" "))


def _readable(path: Sequence[str]) -> str:
    """A path of instances as people write it."""
    if path[:1] != (DESIGN,):
        return SHELL
    # Amaranth numbers names that would otherwise be the same in generated Verilog.
    return ".".join(re.sub(r"\$\d+$", "", part) for part in path[1:] if part != _INNER) or GLUE


def _nets(connections: Mapping[str, Iterable[int | str]]) -> dict[str, tuple[int, ...]]:
    found = {port: tuple(bit for bit in bits if isinstance(bit, int))
             for port, bits in connections.items()}
    return {port: nets for port, nets in found.items() if nets}
