"""Line charts as SVG, without a plotting library."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "line_chart"]

_SIZE, _MARGIN = (640, 400), (70, 20, 56, 44)  # width, height; left, right, bottom, top

#: Distinct for colour-blind readers.
_COLOURS = ("#2f6f9f", "#e69f00", "#56a37a", "#cc79a7", "#4d4d4d")


@dataclass(frozen=True)
class Series:
    """Points of a line, each with a label of its own, which may be empty."""

    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()


def line_chart(title: str, x: str, y: str, lines: Mapping[str, Series]) -> str:
    """An SVG image of some lines with their legend, on axes with round marks.

    Parameters
    ----------
    title, x, y : str
        Of the chart and its axes.
    lines : mapping
        By their names in the legend; at least one point in all.
    """
    points = [point for line in lines.values() for point in line.points]
    assert points
    left, right, bottom, top = _MARGIN
    width, height = _SIZE
    across = _ticks([point[0] for point in points])
    up = _ticks([point[1] for point in points])

    def place(point: tuple[float, float]) -> tuple[float, float]:
        share = (point[0] - across[0]) / (across[-1] - across[0])
        rise = (point[1] - up[0]) / (up[-1] - up[0])
        return (left + share * (width - left - right),
                height - bottom - rise * (height - top - bottom))

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="white"/>',
             _text(width / 2, 22, title, "middle", size=14)]
    for value in across:
        at, base = place((value, up[0]))
        parts.append(f'<path d="M{at:.1f} {base:.1f}V{top}" stroke="#e5e5e5"/>')
        parts.append(_text(at, base + 18, f"{value:g}", "middle"))
    for value in up:
        start, at = place((across[0], value))
        parts.append(f'<path d="M{start:.1f} {at:.1f}H{width - right}" stroke="#e5e5e5"/>')
        parts.append(_text(start - 8, at + 4, f"{value:g}", "end"))
    parts.append(_text((left + width - right) / 2, height - 14, x, "middle"))
    parts.append(f'<g transform="translate(18 {(top + height - bottom) / 2:.0f}) rotate(-90)">'
                 f'{_text(0, 0, y, "middle")}</g>')
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        spots = [place(point) for point in line.points]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in spots)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for index, (a, b) in enumerate(spots):
            parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>')
            if index < len(line.labels) and line.labels[index]:
                parts.append(_text(a + 6, b - 7, line.labels[index], "start", size=10))
        legend = height - bottom - 12 - 18 * (len(lines) - 1 - number)
        parts.append(f'<path d="M{left + 12} {legend}h22" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(left + 40, legend + 4, name, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str, size: int = 12) -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
            f"{escape(text)}</text>")


def _ticks(values: Sequence[float]) -> list[float]:
    """Some five round marks around all values."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    unit = 10.0**math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(mark * step, 10) for mark in range(first, last + 1)]
