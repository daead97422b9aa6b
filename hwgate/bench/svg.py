"""The few charts the bench needs, as small SVG files that are the same for the same figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Line", "Panel", "bars", "lines"]

_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
_INK, _SOFT, _GRID = "#1f2933", "#616e7c", "#e4e7eb"


@dataclass(frozen=True)
class Line:
    """One line of a panel; a dashed line has no marks.

    Parameters
    ----------
    name : str
    points : sequence of (x, y)
    colour : str
    dashed : bool
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Parameters
    ----------
    title, x_name : str
    x_ticks, y_ticks : sequence of (position, label)
        The axes run from the first to the last tick; positions on x may be any scale.
    lines : sequence of Line
    """

    title: str
    x_name: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]


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
    left, width, right, row = 128, 500, 72, 22
    legend_top, shown = 64, [part for part in colours
                             if any((shares or {}).get(part, 0) > 0 for *_, shares in rows)]
    out = [_text(12, 24, title, 15, bold=True), _text(12, 43, subtitle, 12, _SOFT)]
    x, y = 12.0, legend_top
    for part in shown:
        needed = 30 + 7.2 * len(part)
        if x + needed > left + width + right:
            x, y = 12.0, y + 20
        out += [f'<rect x="{x:.1f}" y="{y - 10}" width="12" height="12" fill="{colours[part]}"/>',
                _text(x + 17, y, part, 12)]
        x += needed
    top = y + 16
    for index, (name, note, shares) in enumerate(rows):
        y = top + index * row
        if shares is None:
            out.append(_text(12, y + 16, name, 12, bold=True))
            continue
        out.append(_text(left - 8, y + 15, name, 12, anchor="end"))
        at = float(left)
        for part in shown:
            wide = width * shares.get(part, 0)
            if wide > 0:
                out.append(f'<rect x="{at:.1f}" y="{y + 2}" width="{wide:.1f}" height="{row - 4}" '
                           f'fill="{colours[part]}"><title>{escape(part)}: '
                           f'{shares[part]:.1%}</title></rect>')
            at += wide
        out.append(_text(left + width + 8, y + 15, note, 12))
    bottom = top + len(rows) * row + 4
    for tick in range(0, 101, 20):
        at = left + width * tick / 100
        out += [f'<path d="M{at:.0f} {bottom}v5" stroke="{_SOFT}"/>',
                _text(at, bottom + 18, f"{tick} %", 11, _SOFT, anchor="middle")]
    return _page(left + width + right, bottom + 28, out)


def lines(title: str, subtitle: str, panels: Sequence[Panel]) -> str:
    """Line charts side by side, under one legend."""
    wide, high, left, gap, top = 330, 240, 56, 62, 106
    out = [_text(12, 24, title, 15, bold=True), _text(12, 43, subtitle, 12, _SOFT)]
    x = 12.0
    for line in {line.name: line for panel in panels for line in panel.lines}.values():
        out += [*_stroke([(x, 62), (x + 22, 62)], line, [(x + 11, 62)]),
                _text(x + 28, 66, line.name, 12)]
        x += 44 + 6.6 * len(line.name)
    total = left
    for index, panel in enumerate(panels):
        x0 = left + index * (wide + gap)
        total = x0 + wide
        out += _panel(panel, x0, top, wide, high)
    return _page(total + 20, top + high + 48, out)


def _panel(panel: Panel, x0: float, y0: float, wide: float, high: float) -> list[str]:
    def scale(value: float, ticks: Sequence[tuple[float, str]], size: float) -> float:
        low, top = ticks[0][0], ticks[-1][0]
        return size * min(max((value - low) / (top - low), 0), 1)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return (x0 + scale(point[0], panel.x_ticks, wide),
                y0 + high - scale(point[1], panel.y_ticks, high))

    out = [_text(x0, y0 - 10, panel.title, 12, bold=True)]
    for at, label in panel.y_ticks:
        y = place((panel.x_ticks[0][0], at))[1]
        out += [f'<path d="M{x0:.1f} {y:.1f}h{wide}" stroke="{_GRID}"/>',
                _text(x0 - 8, y + 4, label, 11, _SOFT, anchor="end")]
    for at, label in panel.x_ticks:
        x = place((at, panel.y_ticks[0][0]))[0]
        out += [f'<path d="M{x:.1f} {y0 + high:.1f}v5" stroke="{_SOFT}"/>',
                _text(x, y0 + high + 18, label, 11, _SOFT, anchor="middle")]
    out.append(_text(x0 + wide / 2, y0 + high + 38, panel.x_name, 12, _SOFT, anchor="middle"))
    for line in panel.lines:
        placed = [place(point) for point in line.points]
        out += _stroke(placed, line, placed)
    return out


def _stroke(points: Sequence[tuple[float, float]], line: Line,
            marks: Sequence[tuple[float, float]]) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
    drawn = [f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"'
             f'{dashes}/>']
    return drawn if line.dashed else [*drawn, *(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in marks)]


def _text(x: float, y: float, text: str, size: int, colour: str = _INK, *, bold: bool = False,
          anchor: str = "start") -> str:
    weight = ' font-weight="600"' if bold else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
            f'text-anchor="{anchor}"{weight}>{escape(text)}</text>')


def _page(width: float, height: float, content: Sequence[str]) -> str:
    size = f"{width:.0f} {height:.0f}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="{_FONT}">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        *content, "</svg>", ""])
