"""The bench's figures as tables: for the terminal, and for the page in docs/."""

import re
from collections.abc import Mapping
from typing import Any

from hwgate.bench.gating import BUSY
from hwgate.errors import UserError
from hwgate.machine.counters import LANE_COUNTERS
from hwgate.show.sheet import Sheet

__all__ = ["facts", "page", "sheets"]

_BEGIN, _END = "<!-- bench: begin -->", "<!-- bench: end -->"


def sheets(bench: Mapping[str, Any]) -> dict[str, Sheet]:
    """All tables, by name."""
    return {"dense": _dense(bench), "resnet20": _resnet20(bench), "curve": _curve(bench),
            "lost": _lost(bench), "sweep": _sweep(bench)}


def facts(bench: Mapping[str, Any]) -> list[str]:
    """Sentences on the speed of the simulation and on what was compared."""
    speed, checks = bench["simulation"], bench["sweep_spot_checks"]
    checked = ", ".join(f"{at['lanes']} x R{at['channels']}" for at in checks if at["equal"])
    return [
        f"Simulation: {speed['cycles_per_second']:,.0f} RTL cycles per second on one core; the "
        f"cost model is {speed['model_speedup']:.0f} times faster "
        f"({speed['rtl_seconds']:.2f} s against {speed['model_seconds']:.3f} s, whole calls).",
        "RTL and cost model " + ("agree" if bench["equal"] else "do not agree")
        + " on every output, cycle, counter and byte of all that both ran"
        + (f"; of the lanes and R swept: {checked}." if checked else ".")]


def page(text: str, bench: Mapping[str, Any]) -> str:
    """A page of docs/ with the block between its two markers written anew.

    Raises
    ------
    UserError
        If the page has no such block.
    """
    if not re.search(f"{_BEGIN}.*{_END}", text, re.DOTALL):
        raise UserError(f"The page must have the markers {_BEGIN} and {_END}")
    tables = "\n\n".join(sheet.for_page() for sheet in sheets(bench).values())
    lines = "\n".join(f"- {fact}" for fact in facts(bench))
    head, rest = text.split(_BEGIN, 1)
    return f"{head}{_BEGIN}\n{tables}\n\n{lines}\n{_END}{rest.split(_END, 1)[1]}"


def _dense(bench: Mapping[str, Any]) -> Sheet:
    columns = list(bench["dense_utilisation"])
    multipliers = bench["accelerator"]["multipliers"]
    rows = [(f"hwgate, {_images(batch)}", "RTL, AXI included", multipliers,
             run["dense_utilisation"]) for batch, run in bench["batches"].items()]
    rows += [(peer["name"], peer["what"], peer["multipliers"], peer["dense_utilisation"])
             for peer in bench["peers"]]
    return Sheet("Dense utilisation = MACs / (multipliers x cycles)",
                 ("System", "What", "Mult.", *columns),
                 [(name, kind, str(count), *(_percent(shares[column]) for column in columns))
                  for name, kind, count, shares in rows], left=2, bold="hwgate")


def _resnet20(bench: Mapping[str, Any]) -> Sheet:
    return Sheet("ResNet-20, untrained thresholds; figures of gating over the gated layers",
                 ("Batch", "Source", "Dense use", "Open", "MAC reduction", "Speed-up",
                  "Efficiency", "Whole net"),
                 [(_images(run["batch"]), _source(run["source"]), _percent(run["utilisation"]),
                   _percent(run["density"]), _times(run["mac_reduction"]), _times(run["speedup"]),
                   _percent(run["gating_efficiency"]), _times(run["network"]["speedup"]))
                  for run in bench["resnet20"]["batches"]], left=2)


def _curve(bench: Mapping[str, Any]) -> Sheet:
    curves = bench["efficiency_curves"]
    columns = [f"{name}\n{_images(batch)}" for batch in curves
               for name in ("Open", "Reduction", "Speed-up", "Efficiency")]
    return Sheet("Gating efficiency over density: "
                 + ", ".join(f"{_images(batch)} {_source(curve[0]['source'])}"
                             for batch, curve in curves.items()),
                 columns,
                 [tuple(text for point in points for text in
                        (_percent(point["density"]), _times(point["mac_reduction"]),
                         _times(point["speedup"]), _percent(point["gating_efficiency"])))
                  for points in zip(*curves.values(), strict=True)], left=0)


def _lost(bench: Mapping[str, Any]) -> Sheet:
    rows = []
    for run in bench["where_cycles_go"]:
        parts = run["groups"] if run is bench["where_cycles_go"][0] else {}
        for name, cycles in {**parts, "all": run["total"]}.items():
            total = max(sum(cycles.values()), 1)
            rows.append((f"{run['gates']}, {_images(run['batch'])}", name,
                         *(f"{100 * cycles[counter] / total:.1f}" for counter in LANE_COUNTERS)))
    return Sheet(f"Where the cycles go: lane cycles of the gated layers, percent; only "
                 f"{' and '.join(BUSY)} do work",
                 ("Program", "Layers", *LANE_COUNTERS), rows, left=2)


def _sweep(bench: Mapping[str, Any]) -> Sheet:
    batches = sorted({entry["batch"] for entry in bench["sweep"]})
    found = {(entry["channels"], entry["lanes"], entry["batch"]): entry
             for entry in bench["sweep"]}
    rows = []
    for channels, lanes in dict.fromkeys(key[:2] for key in found):
        entries = [found[channels, lanes, batch] for batch in batches]
        cycles = entries[0]["lane_cycles"]
        losses = {name: count for name, count in cycles.items() if name not in BUSY}
        worst = max(losses, key=lambda name: losses[name])
        rows.append((str(channels), str(lanes), str(entries[0]["multipliers"]),
                     *(text for entry in entries for text in
                       (_percent(entry["dense_utilisation"]["total"]),
                        _percent(entry["resnet20"]["gating_efficiency"]))),
                     f"{worst} {_percent(losses[worst] / max(sum(cycles.values()), 1))}"))
    return Sheet("Lanes and R, cost model; with R = 8 the gated network is twice as wide",
                 ("R", "Lanes", "Mult.", *(f"{name}\n{_images(batch)}" for batch in batches
                                           for name in ("Dense use", "Efficiency")),
                  f"Largest loss\ngated, {_images(batches[0])}"), rows, left=0)


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def _images(batch: int | str) -> str:
    return f"{batch} image" + ("s" if int(batch) > 1 else "")


def _source(source: str) -> str:
    return "RTL" if source == "rtl" else source
