"""Tables and figures of the zoo's networks, for the page in docs/ and for the terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from rich.table import Table

from hwgate.show.figures import Line, Panel, lines, maps
from hwgate.show.tables import new_table
from hwgate.zoo.buffers import BATCH, KINDS
from hwgate.zoo.measure import Amounts

__all__ = ["TITLES", "architecture", "conditions", "figures", "parts", "tables"]

#: Architectures for people.
TITLES = {"digits": "Digits", "lenet": "LeNet", "resnet18": "ResNet-18", "resnet20": "ResNet-20",
          "resnet18-postact": "ResNet-18, post-activation",
          "resnet20-postact": "ResNet-20, post-activation", "vgg16": "VGG-16"}

_TRAINED = ("Network", "Architecture", "Data", "Gates", "Epochs", "Seed", "Float, held-out",
            "int8, held-out", "Float, test", "int8, test", "int8, counted again",
            "Against ungated, held-out / test", "MAC reduction")
_RUN = ("Network", "Levers", "RTL", "MAC reduction", "Speed-up", "Gating efficiency",
        "Off-chip reduction", "kB an image, gated / dense")
_BUFFERS = ("Network", "Pixels a tile", "Window memory, words", "Images a tile", "Tiles",
            "kB an image, gated", "dense", "Off-chip reduction", "RTL")

#: What a terminal has room for of the first table; the page shows all.
_SHOWN = (0, 3, 4, 7, 9, 10, 11, 12)

#: What accuracy is drawn against.
_SAVINGS = {"mac_reduction": "MAC reduction", "speedup": "speed-up over all gates open",
            "offchip_reduction": "off-chip reduction"}

#: Most layers in a figure of decision maps.
_MOST_MAPS = 8

#: One network: facts, and what was measured if it was.
Found = Mapping[str, Any]


def architecture(found: Found) -> str:
    """Architecture of a network, with its width unless that is 1."""
    width = "" if found["width"] == 1 else f", width {found['width']:g}"
    return f"{TITLES.get(found['architecture'], found['architecture'])}{width}"


def conditions(amounts: Amounts) -> str:
    """How the figures were counted, in a few sentences."""
    return (
        f"Held-out: training images that the network was not trained on. Test: of MNIST all 10,000 "
        f"test images, of CIFAR-10 the first 1,000, whose standard error is 0.9 points. Counted "
        f"again: the shipped integers, the first {amounts.images:,} test images. Against ungated: "
        f"integers against those of the ungated network of the same architecture and data that was "
        f"trained for as many epochs in all (if none was, the next number above, or else the "
        f"most), in points. RTL: right answers among the first test images, and whether every "
        f"output, partial sum, decision, cycle, counter and byte of every layer equals those of "
        f"golden and cost model, gated and dense. Reductions, speed-up and bytes: cost model, the "
        f"first {max(amounts.model, amounts.rtl)} test images, those of the RTL among them. The "
        f"baseline is the same network with all gates forced open, on the same accelerator, with "
        f"the same levers. Memory: 30 cycles latency, a beat every cycle. Densities and decision "
        f"maps: the same images. Moved thresholds: accuracy on the first {amounts.sweep} test "
        f"images, speed-up of the cost model on the first one.")


def tables(networks: Sequence[Found]) -> tuple[Table, ...]:
    """All tables for the terminal."""
    made = []
    trained = [[row[n] for n in _SHOWN] for row in (_TRAINED, *_trained_rows(networks))]
    for title, columns, rows in (("Trained networks", trained[0], trained[1:]),
                                 ("On the accelerator", _RUN, _run_rows(networks)),
                                 ("Tiles and buffers", _BUFFERS, _buffer_rows(networks))):
        table = new_table(title, *columns, left=1)
        for column in table.columns[1:]:
            column.no_wrap = False
        table.columns[0].no_wrap = True
        for row in rows:
            table.add_row(*row)
        if rows:
            made.append(table)
    return tuple(made)


def parts(networks: Sequence[Found], amounts: Amounts, pictures: Iterable[str]) -> dict[str, str]:
    """Generated parts of the page by name, with pictures at these places beside it."""
    return {"networks": _markdown(_TRAINED, _trained_rows(networks)),
            "accelerator": _markdown(_RUN, _run_rows(networks)),
            "buffers": _markdown(_BUFFERS, _buffer_rows(networks)),
            "conditions": conditions(amounts),
            "figures": "\n\n".join(f"![{_caption(place)}]({place})" for place in pictures)}


def figures(networks: Sequence[Found]) -> dict[str, str]:
    """SVG text by file name; of networks that were measured."""
    measured = [found for found in networks if "hardware" in found]
    gated = [found for found in measured if found["gates"]]
    drawn = {}
    if gated:
        panels = _panels(gated, {words: partial(_accuracy, networks, saving)
                                 for saving, words in _SAVINGS.items()},
                         "accuracy, int8, %", (None, 100))
        drawn["accuracy.svg"] = lines(
            "Accuracy against savings",
            [replace(panel, y_limits=(_below(panel.lines), 100)) for panel in panels],
            "batch of 1, no levers; held-out images where there are any; a baseline is drawn at "
            "the saving of its gated network", columns=len(_SAVINGS))
        drawn["sweep.svg"] = lines(
            "Thresholds moved without training",
            _panels(gated, {"speed-up, cost model": _sweep}, "accuracy, int8, %", (None, 102)),
            "points, from left to right: moved by "
            + ", ".join(f"{at['delta']:+g}" for at in gated[0]["sweep"])
            + " deviations of the base psums")
        drawn["density.svg"] = lines(
            "Density per layer",
            [replace(panel, x_ticks=_numbers(panel.lines)) for panel in _panels(
                gated, {"gated layer": _density}, "open gates, %", (0, None))],
            "share of open decisions")
    curves = [found for found in gated if found["buffers"]]
    if curves:
        drawn["buffers.svg"] = lines(
            "Off-chip reduction over tiles and buffers", [
                Panel(title, title, "dense / gated bytes",
                      [Line(found["name"], [(at[axis], at["bytes_dense"] / at["bytes"])
                                            for at in found["buffers"] if at["kind"] == kind])
                       for found in curves], logarithmic=True)
                for kind, axis, title in (("pixels", "pixels", KINDS["pixels"]),
                                          ("window", "window_words", KINDS["window"]),
                                          ("images", "per_tile", KINDS["images"]))
                if any(at["kind"] == kind for found in curves for at in found["buffers"])],
            f"a gate for each activation, no other lever, batch of {BATCH}", columns=3)
    for found in gated:
        chosen = np.unique(np.linspace(0, len(found["layers"]) - 1, _MOST_MAPS).round()).astype(int)
        top = max(1, max(np.max(row[n]) for row in found["maps"] for n in chosen)) / 100
        drawn[f"maps-{found['name']}.svg"] = maps(
            f"Decision maps of {found['name']}", "share of channels with an open gate, by pixel",
            [(f"image {number}", [np.array(row[n]) / 100 for n in chosen])
             for number, row in enumerate(found["maps"], 1)],
            [_short(found["layers"][n]["name"]) for n in chosen], top)
    return drawn


def _panels(networks: Sequence[Found], axes: Mapping[str, Callable[[Sequence[Found]], list[Line]]],
            y: str, limits: tuple[float | None, float | None]) -> list[Panel]:
    """Panels of each architecture, one for each x axis with the lines that it makes of networks."""
    groups: dict[str, list[Found]] = {}
    for found in networks:
        groups.setdefault(f"{architecture(found)}, {found['data']}", []).append(found)
    return [Panel(title, x, y, points(members), y_limits=limits)
            for title, members in groups.items() for x, points in axes.items()]


def _accuracy(networks: Sequence[Found], saving: str, members: Sequence[Found]) -> list[Line]:
    """Networks of one architecture over what they save, each with its ungated baseline."""
    split = next(name for name in ("integers_validation", "integers")
                 if all(name in found["scores"] for found in members))
    levels = {found["name"]: 100 * found["scores"][split]["accuracy"] for found in networks
              if split in found["scores"]}
    points = sorted((_plain(found)[saving], levels[found["name"]],
                     found["name"].removeprefix(f"{found['architecture']}-"))
                    for found in members)
    drawn = [Line("gated", [(x, y) for x, y, _ in points], [label for *_, label in points],
                  joined=False)]
    ungated = sorted((_plain(found)[saving], levels[found["baseline"]]) for found in members
                     if found["baseline"] in levels)
    return [*drawn, Line("ungated, of as many epochs where there is one", ungated,
                         joined=False)] if ungated else drawn


def _below(drawn: Sequence[Line]) -> float:
    """A whole number at least 1 below all points."""
    return float(np.floor(min(y for line in drawn for _, y in line.points)) - 1)


def _sweep(networks: Sequence[Found]) -> list[Line]:
    return [Line(found["name"], [(at["speedup"], 100 * at["accuracy"]) for at in found["sweep"]])
            for found in networks]


def _density(networks: Sequence[Found]) -> list[Line]:
    return [Line(found["name"], [(n + 1, 100 * layer["density"])
                                 for n, layer in enumerate(found["layers"])])
            for found in networks]


def _numbers(drawn: Sequence[Line]) -> list[tuple[float, str]]:
    """Ticks at whole numbers, with room on both sides."""
    most = max(len(line.points) for line in drawn)
    return [(0.5, ""), *((n, str(n)) for n in range(1, most + 1)), (most + 0.5, "")]


def _plain(found: Found) -> Found:
    """What was measured without levers."""
    first: Found = found["hardware"][0]
    return first


def _gates(found: Found) -> str:
    gates = found["gates"]
    if not gates:
        return "none"
    words = [f"G = {gates['groups']}"]
    if gates["base_channels"]:
        words.append(f"base of {gates['base_channels']} channels at least")
    if gates["target"] is not None:
        words.append(f"T = {gates['target']:g}")
    if gates["budget"]:
        words.append(f"{gates['share']:g} of the {gates['budget']}")
    if gates["granularity"] != "activation":
        words.append(gates["granularity"] + f" of {gates['slice']}" * (
            gates["granularity"] == "slice"))
    if gates["tau"]:
        words.append(f"tau = {gates['tau']:g}")
    return ", ".join(words) + ", grouping" * gates["grouping"]


def _trained_rows(networks: Sequence[Found]) -> list[list[str]]:
    rows = []
    for found in networks:
        scores, against = found["scores"], found["against"]
        epochs = f"{found['epochs']}" + (f" + {found['tuning']} in int8" if found["tuning"] else "")
        if found["start"]:
            epochs += (f", from {found['start'].removesuffix('/model.safetensors')}; "
                       f"{found['total']} in all")
        counts = [_accurate(scores.get(name)) for name in (
            "validation", "integers_validation", "test", "integers")]
        rows.append([
            found["name"], architecture(found), found["data"], _gates(found), epochs,
            str(found["seed"]), *counts, _accurate(found.get("recount")),
            " / ".join(f"{against[split]:+.1f}" if split in against else "-"
                       for split in ("validation", "test"))
            + f", {found['baseline']} of {found['baseline_total']} epochs" if against else "-",
            f"{scores['integers']['reduction']:.2f}x" if found["gates"] else "-"])
    return rows


def _run_rows(networks: Sequence[Found]) -> list[list[str]]:
    rows = []
    for found in networks:
        for at in found.get("hardware", []):
            buffers = at["accelerator"]["buffers"]
            levers = [f"batch of {at['batch']}"]
            levers += [f"{buffers[name] >> 10} KiB of {what} on chip" for name, what in (
                ("map_bytes", "maps"), ("weight_bytes", "weights")) if buffers[name]]
            if buffers["compressed_chunks"]:
                levers.append(f"zeros left out ({buffers['compressed_chunks']:,} chunks)")
            if found["gates"] and found["gates"]["tau"]:
                levers.append(f"tau = {found['gates']['tau']:g}")
            equal = "all equal" if at["equal"] else "NOT EQUAL"
            ratios = ["-"] * 4
            if found["gates"]:
                ratios = [f"{at['mac_reduction']:.2f}x", f"{at['speedup']:.2f}x",
                          f"{at['gating_efficiency']:.1%}", f"{at['offchip_reduction']:.2f}x"]
            rows.append([found["name"], ", ".join(levers),
                         f"{at['right']} of {at['rtl_images']} right, {equal}", *ratios,
                         " / ".join(f"{at[kind] / at['images'] / 1000:,.0f}"
                                    for kind in ("bytes", "bytes_dense"))])
    return rows


def _buffer_rows(networks: Sequence[Found]) -> list[list[str]]:
    return [[found["name"], f"{at['pixels']:,}", f"{at['window_words']:,}", str(at["per_tile"]),
             f"{at['tiles']:,}",
             *(f"{at[kind] / BATCH / 1000:,.0f}" for kind in ("bytes", "bytes_dense")),
             f"{at['bytes_dense'] / at['bytes']:.2f}x",
             {None: "-", True: "equal", False: "NOT EQUAL"}[at["equal"]]]
            for found in networks for at in found.get("buffers", [])]


def _accurate(score: Mapping[str, Any] | None) -> str:
    return f"{score['accuracy']:.2%} of {score['images']:,}" if score else "-"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _caption(place: str) -> str:
    name = place.rpartition("/")[2].removesuffix(".svg")
    return {"accuracy": "Accuracy against savings", "sweep": "Moved thresholds",
            "density": "Density per layer",
            "buffers": "Off-chip reduction over tiles and buffers"}.get(
                name, f"Decision maps of {name.removeprefix('maps-')}")


def _short(layer: str) -> str:
    """A layer's name on two lines if it is long."""
    head, _, tail = layer.rpartition(".")
    return f"{head}\n{tail}" if len(layer) > 8 and head else layer
