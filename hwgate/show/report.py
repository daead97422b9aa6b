"""The HTML report: one file that needs no network."""

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from hwgate.evaluation.against_dense import DEFINITIONS, Evaluation
from hwgate.files.atomic import write_atomic
from hwgate.machine.counters import LANE_COUNTERS, STREAMS
from hwgate.quant.fidelity import limits
from hwgate.results.run import LayerResult
from hwgate.show.figures import COLOURS, levels
from hwgate.show.output import fidelity_line

__all__ = ["Pictures", "decision_map", "png", "render", "write_report"]

#: Colours of lane counters and streams; distinct for colour-blind readers too.
_COLOURS = {"base": "#2f6f9f", "conditional": "#7fb3d5", "weights": "#e69f00", "windows": "#f5c76b",
            "output": "#b5651d", "gate": "#cc79a7", "turnaround": "#8c8c8c", "idle": "#dcdcdc",
            "program": "#4d4d4d", "residual": "#56a37a"}

#: Open gates are drawn in this colour over the image.
_OPEN = np.array([214, 64, 28])

#: Signal to noise, in dB a bit, at which the axis ends; rounding alone leaves less.
_MOST_DB = 7.0

#: Share of the image that a fully open pixel hides.
_OPACITY = 0.85

#: Contrast that the image keeps under a decision map.
_UNDERLAY = 0.4


@dataclass(frozen=True)
class Pictures:
    """Images shown under the decision maps.

    Parameters
    ----------
    images : float (N, C, H, W)
        In the order of the run; only the first ones are drawn. C is 1 or 3.
    labels : (N,) or None
        True class of each image.
    """

    images: NDArray[Any]
    labels: NDArray[Any] | None = None


@dataclass(frozen=True)
class _Part:
    name: str
    colour: str
    left: float
    width: float
    amount: float


@dataclass(frozen=True)
class _Bar:
    run: str
    total: int
    parts: tuple[_Part, ...]

    @property
    def end(self) -> float:
        return self.parts[-1].left + self.parts[-1].width if self.parts else 0.0


def png(pixels: NDArray[np.uint8]) -> str:
    """Data URI of an (H, W, 3) image."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels, np.uint8))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _paper(image: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    """(H, W, 3) in 0..255; one channel is drawn as ink on paper."""
    scaled = (np.asarray(image, np.float64) - low) / max(high - low, 1e-9)
    if scaled.shape[0] == 3:
        return 255 * scaled.transpose(1, 2, 0)
    return np.repeat((255 - 235 * scaled.mean(axis=0))[..., None], 3, axis=2)


def decision_map(picture: NDArray[Any], decision: NDArray[np.bool_],
                 top: float = 1.0) -> NDArray[np.uint8]:
    """Share of open channels of each pixel, laid over its image.

    Parameters
    ----------
    picture : float (H, W, 3)
        0..255.
    decision : bool (Co, h, w)
        At the layer's own resolution.
    top : float
        Share that gets the full colour, above 0.

    Returns
    -------
    uint8 (h', w', 3)
        Large enough to show every pixel of both.
    """
    share = decision.mean(axis=0)
    shape = [max(a, b) for a, b in zip(picture.shape[:2], share.shape, strict=True)]

    def grow(values: NDArray[Any]) -> NDArray[Any]:
        rows, columns = (np.arange(n) * m // n
                         for n, m in zip(shape, values.shape[:2], strict=True))
        return values[rows][:, columns]

    alpha = _OPACITY * np.minimum(grow(share) / top, 1)[..., None]
    faint = 255 - _UNDERLAY * (255 - grow(picture))
    return np.round((1 - alpha) * faint + alpha * _OPEN).clip(0, 255).astype(np.uint8)


def _bars(runs: Mapping[str, LayerResult], amounts: Mapping[str, Mapping[str, float]],
          totals: Mapping[str, int], longest: int) -> tuple[_Bar, ...]:
    """Stacked bars of one layer; widths are in percent of the longest bar of the chart."""
    bars = []
    for run in runs:
        left, parts = 0.0, []
        for name, amount in amounts[run].items():
            width = 100 * amount / longest
            parts.append(_Part(name, _COLOURS[name], left, width, amount))
            left += width
        bars.append(_Bar(run, totals[run], tuple(parts)))
    return tuple(bars)


def _charts(evaluation: Evaluation) -> list[dict[str, Any]]:
    dense, gated = evaluation.dense.rtl, evaluation.gated.rtl

    def cycles(layer: LayerResult) -> dict[str, float]:
        return {name: sum(lane[name] for lane in layer.lanes) / len(layer.lanes)
                for name in LANE_COUNTERS}

    charts = []
    for title, unit, docs, split, total in (
            ("Cycles", "mean of the lanes; every cycle of a lane has one cause", LANE_COUNTERS,
             cycles, lambda layer: layer.cycles),
            ("Off-chip bytes", "counted on the bus", STREAMS,
             lambda layer: dict(layer.bytes), lambda layer: layer.bytes_total)):
        longest = max(total(layer) for run in (dense, gated) for layer in run.layers)
        rows = []
        for a, b in zip(dense.layers, gated.layers, strict=True):
            runs = {"dense": a, "gated": b}
            rows.append((a.name, _bars(runs, {run: split(layer) for run, layer in runs.items()},
                                       {run: total(layer) for run, layer in runs.items()},
                                       longest)))
        used = {part.name for _, bars in rows for bar in bars for part in bar.parts if part.width}
        legend = [(name, doc, _COLOURS[name]) for name, doc in docs.items() if name in used]
        charts.append({"title": title, "unit": unit, "rows": rows, "legend": legend})
    return charts


def _fidelity(evaluation: Evaluation) -> str | None:
    """Picture of each layer's ratios, as a data URI."""
    if evaluation.fidelity is None:
        return None
    formats = evaluation.config.formats
    refused, doubtful = limits(formats)
    drawn = levels(
        "Integers against the float model, layer by layer", "", "signal to noise, dB",
        [(layer.name, {"own": layer.own, "through": layer.through})
         for layer in evaluation.fidelity.layers],
        {"own": COLOURS["blue"], "through": COLOURS["orange"]},
        {f"refused below {refused:.4g} dB": refused,
         f"warned of below {doubtful:.4g} dB": doubtful},
        _MOST_DB * min(formats.activation, formats.weight))
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()}"


def _energy(evaluation: Evaluation) -> list[tuple[str, float, float]]:
    """Contributor, dense joules and gated joules; the last row is the total."""
    dense, gated = evaluation.dense.model.energy, evaluation.gated.model.energy
    rows = [(name, dense.get(name, 0.0), gated.get(name, 0.0)) for name in {**dense, **gated}]
    return [*rows, ("total", sum(dense.values()), sum(gated.values()))] if rows else []


def _gallery(evaluation: Evaluation, pictures: Pictures, most: int) -> dict[str, Any]:
    run = evaluation.gated.rtl
    gated = [layer for layer in run.layers if layer.gated]
    count = min(most, len(pictures.images), evaluation.images)
    low, high = float(np.min(pictures.images)), float(np.max(pictures.images))
    top = max(float(layer.activations.decision[:count].mean(axis=1).max()) for layer in gated)
    top = top or 1.0
    rows = []
    for index in range(count):
        picture = _paper(pictures.images[index], low, high)
        cells = [{"name": layer.name,
                  "share": float(layer.activations.decision[index].mean()),
                  "data": png(decision_map(picture, layer.activations.decision[index], top))}
                 for layer in gated]
        said = int(np.argmax(run.outputs[index].reshape(-1)))
        true = None if pictures.labels is None else int(pictures.labels[index])
        rows.append({"data": png(np.round(picture).clip(0, 255).astype(np.uint8)),
                     "cells": cells, "said": said, "true": true})
    return {"layers": [layer.name for layer in gated], "rows": rows, "top": top}


def render(evaluation: Evaluation, *, accuracy: Mapping[str, float] | None = None,
           pictures: Pictures | None = None, title: str = "hwgate report",
           facts: Sequence[str] = (), most: int = 6) -> str:
    """HTML text of the report, self-contained.

    Parameters
    ----------
    evaluation : Evaluation
    accuracy : mapping of ``float``, ``quantized``, ``rtl`` to a share of correct images
    pictures : Pictures
        Draws the decision maps of each gated layer over the first ``most`` images.
    title : str
    facts : sequence of str
        Sentences below the title: what was trained, and on what.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["n"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda value: f"{value:.1%}"
    environment.filters["times"] = lambda value: f"{value:.2f}\N{MULTIPLICATION SIGN}"
    gated = {layer.name for layer in evaluation.gated.rtl.layers if layer.gated}
    template = files("hwgate.show").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=title, facts=facts, evaluation=evaluation, total=evaluation.total,
        layers=evaluation.layers, gated=gated, accuracy=accuracy or {}, definitions=DEFINITIONS,
        charts=_charts(evaluation), energy=_energy(evaluation),
        fidelity=_fidelity(evaluation), fidelity_line=fidelity_line(evaluation.fidelity),
        open_colour="#" + "".join(f"{c:02x}" for c in _OPEN),
        gallery=_gallery(evaluation, pictures, most) if pictures is not None and gated else None)


def write_report(path: str | Path, evaluation: Evaluation, **options: Any) -> None:
    """Write :func:`render`'s text to a file, whole or not at all.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    write_atomic(path, render(evaluation, **options))
