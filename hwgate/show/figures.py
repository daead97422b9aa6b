"""Figures as SVG text that is the same for the same data: lines, bars, maps, boxes.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; lines differ in
their marks as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "Line", "Panel", "bars", "boxes", "levels", "lines", "maps"]

#: By name, from the first line of a panel on.
COLOURS = {"blue": "#0072b2", "vermilion": "#d55e00", "green": "#009e73", "purple": "#cc79a7",
           "orange": "#e69f00", "sky": "#56b4e9", "black": "#333333"}

_MARKS = "os^DvPX"
_SOFT, _GRID = "#616e7c", "#dfe3e8"


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Parameters
    ----------
    name : str
        In the legend; lines of one name share a look, also across panels.
    points : sequence of (x, y)
    labels : sequence of str
        Beside the points; empty ones are left out.
    dashed : bool
        A reference, grey and without marks.
    joined : bool
        Whether the points are joined.
    """

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    dashed: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Parameters
    ----------
    title, x, y : str
        Of the panel and its axes.
    lines : sequence of Line
    x_ticks, y_ticks : sequence of (position, label)
        The axes run from the first to the last tick, and points beyond are drawn at the edge; by
        default they hold all points.
    y_limits : (float or None, float or None)
        Without ticks: where the y axis begins, and where it ends at the latest; None leaves it to
        the points.
    logarithmic : bool
        The x axis is logarithmic, with ticks at the points.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]] = ()
    y_ticks: Sequence[tuple[float, str]] = ()
    y_limits: tuple[float | None, float | None] = (None, None)
    logarithmic: bool = False


def lines(title: str, panels: Sequence[Panel], subtitle: str = "", columns: int = 2) -> str:
    """Line charts, so many side by side, under one legend.

    Parameters
    ----------
    title, subtitle : str
    panels : sequence of Panel
        At least one.
    columns : int
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    plain = [name for name in names if not any(
        line.dashed for panel in panels for line in panel.lines if line.name == name)]
    looks = {name: (list(COLOURS.values())[n % len(COLOURS)], _MARKS[n % len(_MARKS)])
             for n, name in enumerate(plain)}
    with _figure(6.4 if columns == 1 else 4.1 * columns, 0.9 + 3.1 * rows) as (figure, out):
        grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        handles: dict[str, Any] = {}
        for axes, panel in zip(grid, panels, strict=False):
            for line in panel.lines:
                colour, mark = looks.get(line.name, (_SOFT, ""))
                drawn, = axes.plot(
                    _within([x for x, _ in line.points], panel.x_ticks),
                    _within([y for _, y in line.points], panel.y_ticks), color=colour,
                    marker=mark or None, markersize=4.5, linewidth=1.4, clip_on=False,
                    linestyle="--" if line.dashed else "-" if line.joined else "none")
                handles.setdefault(line.name, drawn)
                for place, label in zip(line.points, line.labels, strict=False):
                    right, side = (-4, "right") if _hides(place, line, panel) else (4, "left")
                    axes.annotate(label, place, xytext=(right, 4), textcoords="offset points",
                                  fontsize=7, color=colour, ha=side)
            axes.set_title(panel.title, loc="left", fontsize=9.5, fontweight="bold")
            axes.set_xlabel(panel.x)
            axes.set_ylabel(panel.y)
            axes.margins(0.08)
            axes.ticklabel_format(useOffset=False)
            if panel.logarithmic:
                places = sorted({x for line in panel.lines for x, _ in line.points})
                axes.set_xscale("log", base=2)
                axes.set_xticks(places, [f"{place:g}" for place in places])
            (low, high), (least, most) = axes.get_ylim(), panel.y_limits
            axes.set_ylim(low if least is None else least,
                          high if most is None else min(high, most))
            if panel.x_ticks:
                axes.set_xticks(*zip(*panel.x_ticks, strict=True))
                axes.set_xlim(panel.x_ticks[0][0], panel.x_ticks[-1][0])
            if panel.y_ticks:
                axes.set_yticks(*zip(*panel.y_ticks, strict=True))
                axes.set_ylim(panel.y_ticks[0][0], panel.y_ticks[-1][0])
        for axes in grid[len(panels):]:
            axes.remove()
        _heading(figure, title, subtitle)
        if len(handles) > 1:
            figure.legend(list(handles.values()), list(handles), loc="outside lower left",
                          ncols=min(3 if columns > 1 else 2, len(handles)), frameon=False,
                          fontsize=8)
    return out.getvalue()


def _hides(place: tuple[float, float], line: Line, panel: Panel) -> bool:
    """Whether a label to the upper right of a point would lie over another one of its line."""
    shown = np.array([point for drawn in panel.lines for point in drawn.points], float)
    points, at = np.array(line.points, float), np.array(place, float)
    if panel.logarithmic:
        for array in (shown.T, points.T, at):
            array[0] = np.log(array[0])
    span = np.ptp(shown, axis=0)
    right, above = ((points - at) / np.where(span > 0, span, 1)).T
    return bool(np.any((right > 0) & (right < 0.12) & (above > -0.01) & (above < 0.06)))


def bars(title: str, subtitle: str, rows: Sequence[tuple[str, str, Mapping[str, float] | None]],
         colours: Mapping[str, str]) -> str:
    """Stacked horizontal bars of shares.

    Parameters
    ----------
    title, subtitle : str
    rows : sequence of (name, note, shares by part)
        Shares are in 0..1; the note stands behind the bar; a row without shares is a heading.
    colours : mapping of part to colour
        In the order of stacking; a part that is nowhere above 0 is left out of the legend.
    """
    shown = [part for part in colours if any((shares or {}).get(part, 0) > 0
                                             for *_, shares in rows)]
    with _figure(7.2, 1.3 + 0.24 * len(rows)) as (figure, out):
        axes = figure.subplots()
        places = np.arange(len(rows))[::-1]
        left = np.zeros(len(rows))
        for part in shown:
            widths = np.array([(shares or {}).get(part, 0) for *_, shares in rows])
            axes.barh(places, widths, left=left, height=0.8, color=colours[part], label=part,
                      edgecolor="white", linewidth=0.4)
            left += widths
        for place, (_, note, shares) in zip(places, rows, strict=True):
            if shares is not None:
                axes.text(1.01, place, note, va="center", fontsize=8)
        axes.set_yticks(places, [name for name, *_ in rows])
        for label, (*_, shares) in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if shares is None else "normal")
        axes.set_xticks([n / 5 for n in range(6)], [f"{20 * n} %" for n in range(6)])
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.grid(False)
        _heading(figure, title, subtitle)
        figure.legend(loc="outside lower left", ncols=5, frameon=False, fontsize=8)
    return out.getvalue()


def levels(title: str, subtitle: str, x: str, rows: Sequence[tuple[str, Mapping[str, float]]],
           colours: Mapping[str, str], limits: Mapping[str, float], top: float) -> str:
    """Horizontal bars side by side in each row, and limits as lines across all rows.

    Parameters
    ----------
    title, subtitle : str
    x : str
        What the bars measure.
    rows : sequence of (name, values by part)
        A bar has its value behind it, also where it is longer than the axis.
    colours : mapping of part to colour
        From the top of a row down.
    limits : mapping of name to value
    top : float
        End of the axis, above 0; it begins at 0, or at the lowest value down to ``-top / 4``.
    """
    low = max(min(0.0, *(value for _, values in rows for value in values.values())), -top / 4)
    height = 0.8 / len(colours)
    with _figure(7.2, 1.3 + 0.17 * len(colours) * len(rows)) as (figure, out):
        axes = figure.subplots()
        places = np.arange(len(rows))
        for part, (name, colour) in enumerate(colours.items()):
            at = places - 0.4 + height * (part + 0.5)
            values = np.array([found[name] for _, found in rows])
            drawn = np.clip(values, low, top)
            axes.barh(at, drawn, height=0.9 * height, color=colour, label=name)
            for place, value, end in zip(at, values, drawn, strict=True):
                axes.text(max(end, 0) + top / 120, place, f"{value:.1f}", fontsize=6.5, va="center",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})
        for index, (name, value) in enumerate(limits.items()):
            axes.axvline(value, color=COLOURS["black"], linewidth=1, label=name,
                         linestyle=("--", ":", "-.")[index % 3])
        axes.axvline(0, color=_SOFT, linewidth=0.8)
        axes.set_yticks(places, [name for name, _ in rows])
        axes.set_xlim(low, top)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(x)
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        _heading(figure, title, subtitle)
        figure.legend(loc="outside lower left", ncols=4, frameon=False, fontsize=8)
    return out.getvalue()


def maps(title: str, subtitle: str, rows: Sequence[tuple[str, Sequence[NDArray[Any]]]],
         columns: Sequence[str], top: float) -> str:
    """Small maps of shares side by side.

    Parameters
    ----------
    title, subtitle : str
    rows : sequence of (name, maps)
        A map (H, W) of each column, of values in 0..1.
    columns : sequence of str
    top : float
        Value of the darkest colour, above 0.
    """
    wide = max(0.6 * len(columns) + 1.2, 4.2)
    with _figure(wide, 0.95 + max(0.5, (wide - 1.6) / len(columns)) * len(rows)) as (figure, out):
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        image: Any = None
        for line, (name, values) in zip(grid, rows, strict=True):
            line[0].set_ylabel(name, rotation=0, ha="right", va="center")
            for axes, value in zip(line, values, strict=True):
                image = axes.imshow(value, cmap="cividis_r", vmin=0, vmax=top,
                                    interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
        for axes, column in zip(grid[0], columns, strict=True):
            axes.set_title(column, fontsize=6.5)
        _heading(figure, title, subtitle)
        bar = figure.colorbar(image, ax=grid, shrink=0.9, aspect=12, pad=0.02)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        bar.ax.tick_params(labelsize=7)
    return out.getvalue()


def boxes(title: str, subtitle: str, rows: Sequence[Sequence[tuple[str, str]]]) -> str:
    """Rows of boxes, each with a name and what it is.

    Parameters
    ----------
    title, subtitle : str
    rows : sequence of sequences of (name, text)
        From the top down.
    """
    from matplotlib.patches import Rectangle

    with _figure(9, 0.7 + 0.62 * len(rows)) as (figure, out):
        axes = figure.subplots()
        axes.set(xlim=(0, 1), ylim=(len(rows), 0))
        axes.axis("off")
        for line, row in enumerate(rows):
            width = 1 / len(row)
            for place, (name, text) in enumerate(row):
                left = place * width
                axes.add_patch(Rectangle((left + 0.004, line + 0.06), width - 0.008, 0.88,
                                         facecolor=COLOURS["sky"], alpha=0.25))
                axes.text(left + 0.012, line + 0.3, name, fontweight="bold", va="center")
                axes.text(left + 0.012, line + 0.66, fill(text, round(150 * width)), fontsize=6.5,
                          va="center", linespacing=1.15)
        _heading(figure, title, subtitle)
    return out.getvalue()


def _within(values: list[float], ticks: Sequence[tuple[float, str]]) -> list[float]:
    """Values between the first and the last tick, if there are any."""
    return [min(max(value, ticks[0][0]), ticks[-1][0]) for value in values] if ticks else values


@contextmanager
def _figure(width: float, height: float) -> "Iterator[tuple[Figure, StringIO]]":
    """A figure of so many inches, and where its SVG text goes in the end."""
    import matplotlib
    from matplotlib.figure import Figure

    out = StringIO()
    with matplotlib.rc_context({
            "svg.hashsalt": "hwgate", "svg.fonttype": "none", "font.family": "sans-serif",
            "font.size": 8.5, "axes.grid": True, "axes.axisbelow": True, "grid.color": _GRID,
            "axes.edgecolor": _SOFT, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, out
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})


def _heading(figure: "Figure", title: str, subtitle: str) -> None:
    """Title and, below it, subtitle, from the left edge."""
    figure.suptitle(f"{title}\n" if subtitle else title, x=0.01, ha="left", fontsize=11,
                    fontweight="bold")
    if subtitle:
        height = figure.get_size_inches()[1]
        figure.text(0.01, 1 - 0.3 / height, subtitle, fontsize=8.5, color=_SOFT, va="top")
