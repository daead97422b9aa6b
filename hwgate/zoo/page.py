"""Tables and figures of the zoo's networks, for the page in docs/ and for the terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.table import Table

from hwgate.figures import Line, Panel, lines, maps
from hwgate.tables import new_table
from hwgate.zoo.measure import Amounts

__all__ = ["TITLES", "architecture", "conditions", "figures", "parts", "tables"]

#: Architectures for people.
TITLES = {"digits": "Digits", "lenet": "LeNet", "resnet18": "ResNet-18", "resnet20": "ResNet-20",
          "resnet18-postact": "ResNet-18, post-activation",
          "resnet20-postact": "ResNet-20, post-activation", "vgg16": "VGG-16"}

_TRAINED = ("Network", "Architecture", "Data", "Gates", "Epochs", "Seed", "Float", "int8",
            "int8, counted again", "MAC reduction")
_RUN = ("Network", "RTL", "MAC reduction", "Speed-up", "Gating efficiency", "Off-chip reduction",
        "Levers")

#: One network: facts, and what was measured if it was.
Found = Mapping[str, Any]


def architecture(found: Found) -> str:
    """Architecture of a network, with its width unless that is 1."""
    width = "" if found["width"] == 1 else f", width {found['width']:g}"
    return f"{TITLES.get(found['architecture'], found['architecture'])}{width}"


def conditions(amounts: Amounts) -> str:
    """How the figures were counted, in a few sentences."""
    return (
        f"Float and int8: all test images, counted at the end of the training. Counted again: the "
        f"golden model, the first {amounts.images:,} test images. RTL: the first {amounts.rtl} "
        f"test images as one batch, gated and dense; right answers, and whether every output, "
        f"partial sum, decision, cycle, counter and byte of every layer equals those of golden and "
        f"cost model. The baseline of speed-up and off-chip reduction is the same network with all "
        f"gates forced open, on the same accelerator, with the same levers. Memory: 30 cycles "
        f"latency, a beat every cycle. Densities and decision maps: the images of the RTL. "
        f"Moved thresholds: accuracy on the first {amounts.sweep} test images, speed-up of the "
        f"cost model on the first one.")


def tables(networks: Sequence[Found]) -> tuple[Table, Table]:
    """Both tables for the terminal."""
    made = []
    for title, columns, row in (("Trained networks", _TRAINED, _trained),
                                ("On the accelerator", _RUN, _run)):
        table = new_table(title, *columns, left=1)
        for column in table.columns:
            column.no_wrap = False
        for found in networks:
            table.add_row(*row(found))
        made.append(table)
    return made[0], made[1]


def parts(networks: Sequence[Found], amounts: Amounts, pictures: Iterable[str]) -> dict[str, str]:
    """Generated parts of the page by name, with pictures at these places beside it."""
    return {"networks": _markdown(_TRAINED, [_trained(found) for found in networks]),
            "accelerator": _markdown(_RUN, [_run(found) for found in networks]),
            "conditions": conditions(amounts),
            "figures": "\n\n".join(f"![{_caption(place)}]({place})" for place in pictures)}


def figures(networks: Sequence[Found]) -> dict[str, str]:
    """SVG text by file name; of networks that were measured."""
    measured = [found for found in networks if "hardware" in found]
    gated = [found for found in measured if found["gates"]]
    drawn = {}
    if measured:
        drawn["accuracy.svg"] = lines(
            "Accuracy against speed-up", _panels(measured, "speed-up in RTL", "accuracy, int8, %",
                                                 _accuracy, (None, 100)),
            "networks as they were trained; speed-up over all gates open, same accelerator")
    if gated:
        drawn["sweep.svg"] = lines(
            "Thresholds moved without training", _panels(gated, "speed-up, cost model",
                                                         "accuracy, int8, %", _sweep, (None, 102)),
            "points, from left to right: moved by "
            + ", ".join(f"{at['delta']:+g}" for at in gated[0]["sweep"])
            + " deviations of the base psums")
        drawn["density.svg"] = lines(
            "Density per layer",
            [replace(panel, x_ticks=_numbers(panel.lines)) for panel in _panels(
                gated, "gated layer", "open gates, %", _density, (0, None))],
            "share of open decisions")
    for found in gated:
        top = max(1, max(np.max(values) for row in found["maps"] for values in row)) / 100
        drawn[f"maps-{found['name']}.svg"] = maps(
            f"Decision maps of {found['name']}", "share of channels with an open gate, by pixel",
            [(f"image {n + 1}", [np.array(values) / 100 for values in row])
             for n, row in enumerate(found["maps"])],
            [_short(layer["name"]) for layer in found["layers"]], top)
    return drawn


def _panels(networks: Sequence[Found], x: str, y: str,
            points: Callable[[Sequence[Found]], list[Line]],
            limits: tuple[float | None, float | None]) -> list[Panel]:
    """A panel of each architecture with the lines that ``points`` makes of its networks."""
    groups: dict[str, list[Found]] = {}
    for found in networks:
        groups.setdefault(f"{architecture(found)}, {found['data']}", []).append(found)
    return [Panel(title, x, y, points(members), y_limits=limits)
            for title, members in groups.items()]


def _accuracy(networks: Sequence[Found]) -> list[Line]:
    ordered = sorted(networks, key=lambda found: (found["hardware"]["speedup"], found["name"]))
    return [Line("networks of one architecture",
                 [(found["hardware"]["speedup"], 100 * found["integers"]["accuracy"])
                  for found in ordered],
                 [found["name"].removeprefix(f"{found['architecture']}-") for found in ordered])]


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


def _trained(found: Found) -> list[str]:
    gates, tuned = found["gates"], found["tuning"]
    words = "none"
    if gates:
        words = f"G = {gates['groups']}, T = {gates['target']:g}"
        words += ", grouping" * gates["grouping"]
        words += f", {gates['granularity']}" * (gates["granularity"] != "activation")
        words += f", tau = {gates['tau']:g}" if gates["tau"] else ""
    epochs = f"{found['epochs']}" + (f" + {tuned} in int8" if tuned else "")
    again = found.get("recount")
    return [found["name"], architecture(found), found["data"], words, epochs,
            str(found["seed"]), _accurate(found["float"]), _accurate(found["integers"]),
            _accurate(again) if again else "-", f"{found['integers']['reduction']:.2f}x"]


def _run(found: Found) -> list[str]:
    at = found.get("hardware")
    if at is None:
        return [found["name"], *["-"] * (len(_RUN) - 1)]
    tau = found["gates"]["tau"] if found["gates"] else 0
    levers = [f"{at['images']} images a batch",
              f"{at['map_bytes'] >> 10} KiB of maps on chip" if at["map_bytes"] else
              "maps off chip", f"tau = {tau:g}" if tau else "no tau"]
    return [found["name"], f"{at['right']} of {at['images']} right, "
            + ("all equal" if at["equal"] else "NOT EQUAL"), f"{at['mac_reduction']:.2f}x",
            f"{at['speedup']:.2f}x", f"{at['gating_efficiency']:.1%}",
            f"{at['offchip_reduction']:.2f}x", ", ".join(levers)]


def _accurate(score: Mapping[str, Any]) -> str:
    return f"{score['accuracy']:.2%} of {score['images']:,}"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _caption(place: str) -> str:
    name = place.rpartition("/")[2].removesuffix(".svg")
    return {"accuracy": "Accuracy against speed-up", "sweep": "Moved thresholds",
            "density": "Density per layer"}.get(
                name, f"Decision maps of {name.removeprefix('maps-')}")


def _short(layer: str) -> str:
    """A layer's name on two lines if it is long."""
    head, _, tail = layer.rpartition(".")
    return f"{head}\n{tail}" if len(layer) > 8 and head else layer
