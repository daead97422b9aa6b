"""What an accelerator takes of an FPGA and how fast it is there, for tables, pages and JSON."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hwgate.boards.netlist import SHELL, Netlist, Resources
from hwgate.boards.parts import Part
from hwgate.boards.routing import Routing
from hwgate.boards.timing import Timing, estimate
from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig
from hwgate.show.sheet import Sheet

__all__ = ["Synthesis", "left_out", "markdown", "sentences", "sheets"]

#: Kinds of resources as tables name them.
_TITLES = {"luts": "LUT\nplaces", "lut4": "LUT4", "carry": "Carry", "lut_ram": "LUT\nRAM",
           "flip_flops": "Flip-flops", "multipliers": "Multipliers",
           "block_ram": "Block\nRAM"}

#: Slow paths that tables show.
_MOST = 12


@dataclass(frozen=True)
class Synthesis:
    """One accelerator on one FPGA.

    Parameters
    ----------
    config : AcceleratorConfig
    part : Part
    netlist : Netlist
    timing : Timing
        The estimate.
    routing : Routing, optional
        Seeds that were placed and routed.
    """

    config: AcceleratorConfig
    part: Part
    netlist: Netlist
    timing: Timing
    routing: Routing | None = None

    @classmethod
    def of(cls, config: AcceleratorConfig, part: Part, netlist: Netlist) -> "Synthesis":
        """With the estimate of its paths."""
        return cls(config, part, netlist, estimate(netlist))

    @property
    def share(self) -> dict[str, float]:
        """Share of the part by kind of resource; what exceeds 1 does not fit."""
        taken = self.netlist.total.to_dict()
        return {kind: taken[kind] / there for kind, there in self.part.resources.items()}

    @property
    def fits(self) -> bool:
        """Whether the part has enough of everything."""
        return all(share <= 1 for share in self.share.values())

    @property
    def nanoseconds(self) -> float:
        """Of the slowest path: the median over seeds, or else the estimate."""
        return 1000 / self.routing.mhz[1] if self.routing else self.timing.nanoseconds

    @property
    def peak_gops(self) -> float:
        """Multiplications and additions at that clock, in units of a billion a second."""
        return 2 * self.config.multipliers / self.nanoseconds if self.nanoseconds else 0.0

    @property
    def blocks(self) -> dict[str, Resources]:
        """What each block takes, with all inside of it; all lanes together if there are more."""
        found: dict[str, Resources] = {}
        for name, taken in self.netlist.tree().items():
            if self.config.lanes > 1:
                name = re.sub(r"^lane\d+", "lanes", name)
            found[name] = found.get(name, Resources()) + taken
        return {name: taken for name, taken in sorted(found.items()) if name != SHELL}

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary, ready for JSON."""
        total = self.netlist.total.to_dict()
        return {
            "accelerator": {**self.config.to_dict(), "multipliers": self.config.multipliers},
            "part": {"name": self.part.name, "resources": dict(self.part.resources)},
            "total": total, "share": self.share, "fits": self.fits,
            "per_multiplier": {kind: count / self.config.multipliers
                               for kind, count in total.items()},
            "blocks": {name: taken.to_dict() for name, taken in self.netlist.tree(3).items()
                       if name != SHELL},
            "estimate": self.timing.to_dict(),
            "routed": self.routing.to_dict() if self.routing else None,
            "nanoseconds": round(self.nanoseconds, 3), "peak_gops": round(self.peak_gops, 3)}


def left_out(config: AcceleratorConfig, features: Sequence[str]) -> AcceleratorConfig:
    """The accelerator without these features.

    Raises
    ------
    UserError
        If it has no such feature, or cannot be without it.
    """
    switches = getattr(config, "features", None)
    known = [switch.name for switch in fields(switches)] if switches is not None else []
    for name in features:
        if name not in known:
            raise UserError(f"Feature {name!r} cannot be left out of the accelerator; "
                            f"{', '.join(known) or 'none'} can")
    if switches is None:
        return config
    changes: dict[str, Any] = {"features": replace(switches, **dict.fromkeys(features, False))}
    return replace(config, **changes)


def sheets(found: Synthesis, without: Mapping[str, Synthesis] | None = None) -> list[Sheet]:
    """All tables; ``without`` has at most one accelerator, by what it is left without."""
    made = [_blocks(found), _paths(found)]
    if found.routing:
        made.append(_seeds(found.routing))
    return [*made, *(_price(found, name, other) for name, other in (without or {}).items())]


def sentences(found: Synthesis) -> list[str]:
    """What fits, and how fast it is."""
    short = [f"{kind.replace('_', ' ')} {share:.0%}" for kind, share in found.share.items()
             if share > 1]
    per = found.netlist.total.lut4 / found.config.multipliers
    path = found.timing.paths[0].describe() if found.timing.paths else "none"
    said = [f"{found.config.describe()}.",
            f"{'Fits' if found.fits else 'Does not fit'} the {found.part.name}"
            + (f": {', '.join(short)}." if short else "."),
            f"{per:.0f} LUT4 for each of {found.config.multipliers} multipliers of the lanes.",
            f"Estimated before placement: {found.timing.nanoseconds:.1f} ns, "
            f"{found.timing.mhz:.1f} MHz; slowest path: {path}."]
    if found.routing:
        low, middle, high = found.routing.mhz
        said.append(f"Placed and routed with {len(found.routing.seeds)} seeds: {low:.1f} / "
                    f"{middle:.1f} / {high:.1f} MHz (minimum, median, maximum); critical path of "
                    f"the slowest: {found.routing.slowest.path.describe()}.")
    return [*said, f"Peak at {1000 / found.nanoseconds:.1f} MHz: {found.peak_gops:.2f} GOPS, a "
                   f"multiplication and an addition counted as two."] if found.nanoseconds else said


def markdown(found: Synthesis, without: Mapping[str, Synthesis] | None = None) -> str:
    """Sentences and tables as a part of a page."""
    said = "\n".join(f"- {sentence}" for sentence in sentences(found))
    return "\n\n".join([said, *(sheet.for_page() for sheet in sheets(found, without))])


def _blocks(found: Synthesis) -> Sheet:
    def row(name: str, taken: Resources) -> tuple[str, ...]:
        return (name, *(f"{count:,}" for count in taken.to_dict().values()))

    share = found.share
    rows = [row(name, taken) for name, taken in found.blocks.items()]
    rows.append(row("total", found.netlist.total))
    rows.append((f"share of {found.part.name}", *(f"{share[kind]:.1%}" if kind in share else ""
                                                  for kind in _TITLES)))
    return Sheet("Resources, each block with all inside of it",
                 ("Block", *_TITLES.values()), rows, bold="total")


def _paths(found: Synthesis) -> Sheet:
    return Sheet("Slowest paths from block to block, estimated before placement",
                 ("From", "To", "Through", "ns"),
                 [(path.start, path.end, path.describe(), f"{path.nanoseconds:.1f}")
                  for path in found.timing.paths[:_MOST]], left=3, folded=(2,))


def _seeds(routing: Routing) -> Sheet:
    return Sheet("Placed and routed", ("Seed", "Critical path", "MHz", "ns"),
                 [(str(seed.seed), seed.path.describe(), f"{seed.mhz:.1f}",
                   f"{1000 / seed.mhz:.1f}") for seed in routing.seeds], left=2, folded=(1,))


def _price(found: Synthesis, name: str, other: Synthesis) -> Sheet:
    """What the features cost that another accelerator is without."""
    first, second = found.netlist.total.to_dict(), other.netlist.total.to_dict()
    rows = [(title.replace("\n", " "), f"{first[kind]:,}", f"{second[kind]:,}",
             f"{first[kind] - second[kind]:,}") for kind, title in _TITLES.items()]
    rows.append(("ns", f"{found.nanoseconds:.1f}", f"{other.nanoseconds:.1f}",
                 f"{found.nanoseconds - other.nanoseconds:.1f}"))
    return Sheet(f"The price of {name}", ("", "with", "without", "difference"), rows)
