"""Place and route by nextpnr-ecp5: the clock that a netlist reaches, over several seeds."""

import json
import re
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from hwgate.boards.netlist import Netlist, shorter
from hwgate.boards.parts import Part
from hwgate.boards.timing import Hop, TimingPath
from hwgate.boards.tools import find_nextpnr, run_tool
from hwgate.errors import ToolError, UserError, expect

__all__ = ["Routed", "Routing", "read_report", "route"]

#: Names that nextpnr appends to those of cells it splits, and gives to cells it adds.
_SPLIT = re.compile(r"\$(CCU2|DPRAM|RAMW|PACKER|nextpnr)\w*$")

_PLACED = re.compile(r"at (?:iteration|it) #(\d+)")
_ARCS = re.compile(r"^Info: +\d+ \| +\d+ +\d+ \| +\d+ +\d+ \| +(\d+)\|")


@dataclass(frozen=True)
class Routed:
    """Result of one seed.

    Parameters
    ----------
    seed : int
    mhz : float
        Highest clock of the routed design.
    used, available : mapping
        Resources by nextpnr's names.
    path : TimingPath
        The critical path, by blocks of the netlist.
    """

    seed: int
    mhz: float
    used: Mapping[str, int]
    available: Mapping[str, int]
    path: TimingPath

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary, ready for JSON."""
        return {"seed": self.seed, "mhz": round(self.mhz, 2), "used": dict(self.used),
                "path": self.path.to_dict()}


@dataclass(frozen=True)
class Routing:
    """Results of all seeds, at least one."""

    seeds: tuple[Routed, ...]

    @property
    def mhz(self) -> tuple[float, float, float]:
        """Lowest, median and highest clock."""
        found = [seed.mhz for seed in self.seeds]
        return min(found), median(found), max(found)

    @property
    def slowest(self) -> Routed:
        """The seed with the lowest clock."""
        return min(self.seeds, key=lambda seed: seed.mhz)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary, ready for JSON."""
        return {"mhz": dict(zip(("minimum", "median", "maximum"),
                                (round(mhz, 2) for mhz in self.mhz), strict=True)),
                "seeds": [seed.to_dict() for seed in self.seeds]}


def route(netlist: Netlist, text: str, part: Part, *, seeds: int = 3, mhz: float = 100.0,
          jobs: int = 1, folder: Path | None = None,
          progress: Callable[[str], None] = lambda words: None) -> Routing:
    """Place and route a netlist with the seeds 1 to ``seeds``.

    Parameters
    ----------
    netlist : Netlist
        Tells the blocks of the critical path.
    text : str
        The same netlist as Yosys wrote it.
    part : Part
    seeds, jobs : int
        How many runs in all, and at the same time.
    mhz : float
        Clock to aim at; missing it is no error.
    folder : Path, optional
        Where logs and reports stay.
    progress : callable
        Told what is going on, from several threads.

    Raises
    ------
    ToolError
        If nextpnr is missing or fails, as it does where the netlist does not fit the part.
    UserError
        If there is no seed or job, or the clock is not positive.
    """
    for what, value in (("Seed count", seeds), ("Job count", jobs)):
        expect(what, value, int)
        if value < 1:
            raise UserError(f"{what} must be at least 1, not {value}")
    if not mhz > 0:
        raise UserError(f"Clock to aim at must be positive, not {mhz:g} MHz")
    program = find_nextpnr()
    lock = threading.Lock()
    state: dict[int, str] = {}

    def one(seed: int, work: Path) -> Routed:
        def line(words: str) -> None:
            if told := _told(words):
                with lock:
                    state[seed] = told
                    progress("; ".join(f"seed {at}: {state[at]}" for at in sorted(state)))

        report = f"seed{seed}.json"
        run_tool("nextpnr-ecp5", [
            program, *part.arguments, "--json", "netlist.json", "--freq", f"{mhz:g}",
            "--seed", str(seed), "--timing-allow-fail", "--lpf-allow-unconstrained",
            "--report", report], work / f"seed{seed}.log", line, folder=work)
        line("Program finished")
        return read_report((work / report).read_text(), netlist, seed)

    with tempfile.TemporaryDirectory(prefix="hwgate-") as name:
        work = (folder or Path(name)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        (work / "netlist.json").write_text(text)
        with ThreadPoolExecutor(jobs) as pool:
            try:
                return Routing(tuple(pool.map(lambda seed: one(seed, work), range(1, seeds + 1))))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def read_report(text: str, netlist: Netlist, seed: int) -> Routed:
    """Result of one seed from the report that nextpnr wrote.

    Raises
    ------
    ToolError
        If it does not tell a clock.
    """
    try:
        report = json.loads(text)
        mhz = min(at["achieved"] for at in report["fmax"].values())
        used = {name: at["used"] for name, at in report["utilization"].items()}
        available = {name: at["available"] for name, at in report["utilization"].items()}
        clocked = [at["path"] for at in report["critical_paths"]
                   if "<async>" not in (at["from"], at["to"])]
        path = _path(max(clocked, key=lambda steps: sum(step["delay"] for step in steps)), netlist)
    except (IndexError, KeyError, TypeError, ValueError):
        raise ToolError(f"nextpnr-ecp5 must report a clock and a critical path, and did not for "
                        f"seed {seed}") from None
    return Routed(seed, mhz, used, available, path)


def _path(steps: Sequence[Mapping[str, Any]], netlist: Netlist) -> TimingPath:
    """The critical path, one hop for each cell of the netlist."""
    hops: list[Hop] = []
    at = 0.0
    for step in steps:
        at += step["delay"]
        cell = netlist.cells.get(_SPLIT.sub("", step["to"]["cell"]))
        if cell is None:
            continue
        if hops and hops[-1].cell == cell.name:
            hops[-1] = Hop(cell.name, cell.kind, cell.block, hops[-1].port, round(at, 3))
        else:
            hops.append(Hop(cell.name, cell.kind, cell.block, step["to"]["port"], round(at, 3)))
    return TimingPath(at, shorter(hops[0].block), shorter(hops[-1].block), tuple(hops))


def _told(line: str) -> str:
    """What a line of the log says about progress, in a few words; empty if nothing."""
    if found := _ARCS.search(line):
        return f"routing, {int(found[1]):,} arcs left"
    if found := _PLACED.search(line):
        return f"placing, step {found[1]}"
    for begin, words in (("Info: Packing", "packing"), ("Info: Routing", "routing"),
                         ("Program finished", "done")):
        if line.startswith(begin):
            return words
    return ""
