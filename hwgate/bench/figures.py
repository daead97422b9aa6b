"""Figures of the bench, drawn from its JSON."""

from collections.abc import Mapping
from math import log2
from typing import Any

from hwgate.bench.gating import BUSY
from hwgate.machine.counters import LANE_COUNTERS
from hwgate.show.figures import COLOURS, Line, Panel, bars, lines

__all__ = ["PUBLISHED_EFFICIENCY", "TARGET_EFFICIENCY", "cycles_figure", "efficiency_figure",
           "figures", "sweep_figure"]

#: MAC reduction and gating efficiency of the published accelerator (Hua et al., NeurIPS 2019).
PUBLISHED_EFFICIENCY = (2.8, 0.857)

#: What this accelerator shall reach at a MAC reduction of 2.5 to 3.
TARGET_EFFICIENCY = 0.92

#: Work is blue; the losses, from the most common on, are warm, then grey.
_WORK = (COLOURS["blue"], COLOURS["sky"])
_LOSSES = (COLOURS["orange"], COLOURS["vermilion"], COLOURS["purple"], COLOURS["green"], "#f0e442",
           COLOURS["black"])
_IDLE = "#b8c2cc"

_PERCENT = tuple((share / 100, f"{share} %") for share in range(50, 101, 10))


def figures(bench: Mapping[str, Any]) -> dict[str, str]:
    """SVG text by file name."""
    return {"bench-cycles.svg": cycles_figure(bench),
            "bench-efficiency.svg": efficiency_figure(bench),
            "bench-sweep.svg": sweep_figure(bench)}


def cycles_figure(bench: Mapping[str, Any]) -> str:
    """Stacked bars: what the lanes do in each gated layer, gated and dense."""
    first = bench["where_cycles_go"][0]["batch"]
    rows: list[tuple[str, str, Mapping[str, float] | None]] = []
    for gates in ("gated", "dense"):
        runs = [run for run in bench["where_cycles_go"] if run["gates"] == gates]
        for run in runs:
            if run["batch"] == first:
                rows.append((f"{gates} program", "", None))
                rows += [_row(layer["name"], layer["counters"]) for layer in run["layers"]
                         if layer["gated"] and gates == "gated"]
            rows.append(_row(f"all, {_images(run['batch'])}", run["total"]))
    losses = [name for name in LANE_COUNTERS if name not in (*BUSY, "idle")]
    colours = {**dict(zip(BUSY, _WORK, strict=True)),
               **{name: _LOSSES[index % len(_LOSSES)] for index, name in enumerate(losses)},
               "idle": _IDLE}
    return bars("Where the cycles go: the gated layers of ResNet-20",
                f"lane cycles by counter, layers with {_images(first)}; {_array(bench)}; "
                "right: base + conditional",
                rows, colours)


def efficiency_figure(bench: Mapping[str, Any]) -> str:
    """Gating efficiency over density, and speed-up over MAC reduction."""
    by_density, by_reduction = [], []
    for batch, curve in bench["efficiency_curves"].items():
        name = f"{_images(int(batch))} ({_source(curve[0]['source'])})"
        by_density.append(Line(name, [(at["density"], at["gating_efficiency"]) for at in curve]))
        by_reduction.append(Line(name, [(at["mac_reduction"], at["speedup"]) for at in curve]))
    target = Line(f"target {TARGET_EFFICIENCY:.0%}",
                  [(0, TARGET_EFFICIENCY), (1, TARGET_EFFICIENCY)], dashed=True)
    reduction, published = PUBLISHED_EFFICIENCY
    theory = Line("speed-up = reduction", [(1, 1), (4, 4)], dashed=True)
    point = Line(f"published: {published:.0%} at {reduction:g}x",
                 [(reduction, reduction * published)], joined=False)
    shares = tuple((n / 5, f"{20 * n} %") for n in range(6))
    times = tuple((n, f"{n}x") for n in range(1, 5))
    return lines("Gating efficiency = speed-up / MAC reduction, gated layers of ResNet-20", (
        Panel("Gating efficiency", "density: share of open gates", "speed-up / MAC reduction",
              [*by_density, target], shares, _PERCENT),
        Panel("Speed-up", "MAC reduction", "speed-up", [*by_reduction, theory, point], times,
              times)),
        f"{_array(bench)}; speed-up over the dense program on the same accelerator")


def sweep_figure(bench: Mapping[str, Any]) -> str:
    """Dense utilisation and gating efficiency over lanes and R."""
    utilisation, efficiency = [], []
    batches = sorted({entry["batch"] for entry in bench["sweep"]})
    for channels in sorted({entry["channels"] for entry in bench["sweep"]}):
        for batch in batches:
            chosen = [entry for entry in bench["sweep"]
                      if (entry["channels"], entry["batch"]) == (channels, batch)]
            name = f"R = {channels}, {_images(batch)}"
            utilisation.append(Line(name, [(log2(entry["lanes"]),
                                            entry["dense_utilisation"]["total"])
                                           for entry in chosen]))
            efficiency.append(Line(name, [(log2(entry["lanes"]),
                                           entry["resnet20"]["gating_efficiency"])
                                          for entry in chosen]))
    lanes = sorted({entry["lanes"] for entry in bench["sweep"]})
    ticks = tuple((log2(count), str(count)) for count in lanes)
    return lines("Lanes and channels of a group", (
        Panel("Dense utilisation, c16 + c32 + c64", "lanes", "MACs / (multipliers x cycles)",
              utilisation, ticks, _PERCENT),
        Panel("Gating efficiency", "lanes", "speed-up / MAC reduction", efficiency, ticks,
              _PERCENT)), "cost model, equal to the RTL where both ran; a lane has 9R multipliers")


def _row(name: str, counters: Mapping[str, int]) -> tuple[str, str, Mapping[str, float]]:
    total = sum(counters.values())
    shares = {part: count / total for part, count in counters.items()}
    return name, f"{100 * sum(shares[part] for part in BUSY):.1f} %", shares


def _array(bench: Mapping[str, Any]) -> str:
    at = bench["accelerator"]
    return (f"{at['lanes']} lanes, R = {at['channels']}, "
            f"{bench['memory']['bytes_per_cycle']} bytes a cycle")


def _images(batch: int) -> str:
    return f"{batch} image" + ("s" if batch > 1 else "")


def _source(source: str) -> str:
    return "RTL" if source == "rtl" else source
