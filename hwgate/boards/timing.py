"""How long the paths between registers take: an estimate in seconds, before placement.

Delays of cells are those of the FPGA. What a net takes is estimated from the number of its pins.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hwgate.boards.cells import Cell, endpoints, starts, wire
from hwgate.boards.netlist import SHELL, Netlist, shorter

__all__ = ["Hop", "Timing", "TimingPath", "estimate"]


@dataclass(frozen=True)
class Hop:
    """A cell on a path: where the signal comes in, and when it has come out, in nanoseconds."""

    cell: str
    kind: str
    block: str
    port: str
    at: float


@dataclass(frozen=True)
class TimingPath:
    """The slowest way from registers of one block to those of another.

    Parameters
    ----------
    nanoseconds : float
    start, end : str
        Blocks.
    hops : sequence of Hop
        From the register that the signal starts at, to the one that takes it.
    """

    nanoseconds: float
    start: str
    end: str
    hops: tuple[Hop, ...]

    @property
    def blocks(self) -> list[str]:
        """Blocks on the way, each where the path first enters it, and the one at its end."""
        found = list(dict.fromkeys(shorter(hop.block) for hop in self.hops))
        return found if found[-1:] == [self.end] else [*found, self.end]

    def describe(self) -> str:
        """One line for people."""
        kinds = [hop.kind for hop in self.hops[1:-1]]
        counts = [f"{kinds.count(kind)} {word}" for kind, word in (
            ("LUT4", "LUT"), ("CCU2C", "carry"), ("MULT18X18D", "multiplier"),
            ("TRELLIS_DPR16X4", "LUT-RAM")) if kind in kinds]
        return f"{' > '.join(self.blocks)} ({', '.join(counts) or 'a wire'})"

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary, ready for JSON."""
        return {"nanoseconds": round(self.nanoseconds, 3), "from": self.start, "to": self.end,
                "blocks": self.blocks, "hops": [asdict(hop) for hop in self.hops]}


@dataclass(frozen=True)
class Timing:
    """Slowest path of each pair of blocks, the slowest first."""

    paths: tuple[TimingPath, ...]

    @property
    def nanoseconds(self) -> float:
        """Of the slowest path; 0 if there is none."""
        return self.paths[0].nanoseconds if self.paths else 0.0

    @property
    def mhz(self) -> float:
        """Highest clock."""
        return 1000 / self.nanoseconds if self.paths else float("inf")

    def to_dict(self, most: int = 20) -> dict[str, Any]:
        """Nested plain dictionary, ready for JSON, with the slowest paths."""
        return {"nanoseconds": round(self.nanoseconds, 3),
                "mhz": round(self.mhz, 2) if self.paths else None,
                "paths": [path.to_dict() for path in self.paths[:most]]}


def estimate(netlist: Netlist) -> Timing:
    """Estimate the paths of a netlist, those from and to the registers around it left out.

    Raises
    ------
    UserError
        If logic runs in a circle.
    """
    # Time, cell, its input and the net there, of the latest change of each net.
    latest: dict[int, tuple[float, str, str, int | None]] = {}
    for cell in netlist.cells.values():
        for start in starts(cell):
            latest[start.net] = (start.delay, cell.name, start.port, None)
    for net in netlist.order:
        for cell, arc in netlist.into.get(net, ()):
            if arc.source in latest:
                at = latest[arc.source][0] + _wire(netlist, arc.source, cell, arc.port) + arc.delay
                if net not in latest or at > latest[net][0]:
                    latest[net] = (at, cell.name, arc.port, arc.source)
    begins = _beginnings(netlist, latest)
    worst: dict[tuple[str, str], tuple[float, str, str, int]] = {}
    for cell in netlist.cells.values():
        for end in endpoints(cell):
            if end.net not in latest:
                continue
            pair = (begins[end.net], shorter(cell.block))
            at = latest[end.net][0] + _wire(netlist, end.net, cell, end.port) + end.setup
            if SHELL not in pair and (pair not in worst or at > worst[pair][0]):
                worst[pair] = (at, cell.name, end.port, end.net)
    paths = [TimingPath(at, *pair, _hops(netlist, latest, net, (name, port, at)))
             for pair, (at, name, port, net) in worst.items()]
    return Timing(tuple(sorted(paths, key=lambda path: (-path.nanoseconds, path.start, path.end))))


def _wire(netlist: Netlist, net: int, cell: Cell, port: str) -> float:
    return wire(netlist.drivers[net], cell, port, netlist.pins[net])


def _beginnings(netlist: Netlist, latest: Mapping[int, tuple[float, str, str, int | None]]
                ) -> dict[int, str]:
    """Block in which the slowest path to each net begins."""
    found: dict[int, str] = {}
    for net in dict.fromkeys([*latest, *netlist.order]):
        if net in latest and latest[net][3] is None:
            found[net] = shorter(netlist.cells[latest[net][1]].block)
    for net in netlist.order:
        if net in latest and (source := latest[net][3]) is not None:
            found[net] = found[source]
    return found


def _hops(netlist: Netlist, latest: Mapping[int, tuple[float, str, str, int | None]],
          net: int | None, end: tuple[str, str, float]) -> tuple[Hop, ...]:
    """Cells on the slowest path to a net, and the one at its end."""
    hops = [end]
    while net is not None:
        at, cell, port, net = latest[net]
        hops.append((cell, port, at))
    return tuple(Hop(name, netlist.cells[name].kind, netlist.cells[name].block, port, round(at, 3))
                 for name, port, at in reversed(hops))
