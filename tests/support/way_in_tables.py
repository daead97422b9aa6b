"""What became of public networks, as tables for the terminal and for the page in docs/."""

import re
from collections import Counter
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from hwgate.show.tables import new_table
from support.refusals import NEEDS, Refusal, operator_of, refusals
from support.way_in import WayIn

__all__ = ["network_table", "page_parts", "refusal_table", "sentences", "totals"]

#: Of the page, where the obstacles follow, and of the terminal, which has room for a few.
_COLUMNS = ("Network", "MACs, millions", "Reached", "SNR of a layer, worst / median, dB",
            "Cycles", "kB", "RTL", "Buffers")
_SHORT = {"Network": 0, "M MACs": 1, "Reached": 2, "Cycles": 4, "kB": 5, "RTL": 6, "dB": 3}

_REFUSALS = ("Operator", "Needs", "First refusals", "Networks with it", "Nothing else")

_LAYER = re.compile(r"^Layer '([^']*)' ")


def _cells(row: WayIn, preset: str) -> list[str]:
    """One network in the columns of both tables."""
    ratio = "-" if row.worst is None else f"{row.worst:.1f} / {row.median:.1f}"
    rtl = ("-" if row.differences is None else
           f"{row.differences:,} DIFFER" if row.differences else "equal")
    grown = ", ".join(f"{name}={have:,}" for name, have in row.buffers.items())
    return [row.name, f"{row.macs / 1e6:,.0f}" if row.macs else "-", row.stage, ratio,
            "-" if row.cycles is None else f"{row.cycles:,}",
            "-" if row.bytes is None else f"{row.bytes / 1000:,.0f}", rtl,
            (grown or preset) if row.inside else "-"]


def network_table(rows: Sequence[WayIn], preset: str) -> Table:
    """One row for each network, and below it the operators that stop it."""
    table = new_table(f"Public networks, preset {preset}", *_SHORT)
    for row in rows:
        cells = _cells(row, preset)
        kinds = Counter(operator_of(sentence).title for sentence in row.obstacles)
        stops = "; ".join(f"{title} ({count})" for title, count in kinds.items())
        cells[0] += f"\n  {stops}" if stops else ""
        table.add_row(*(escape(cells[at]) for at in _SHORT.values()))
    for column in table.columns:
        column.vertical = "top"
    table.columns[0].no_wrap = False
    return table


def sentences(rows: Sequence[WayIn]) -> list[str]:
    """The obstacles of every network."""
    return [f"{row.name}: {sentence}" for row in rows for sentence in _alike(row.obstacles)]


def refusal_table(stops: Sequence[Refusal], networks: int) -> Table:
    """One row for each operator, with shares of all networks."""
    table = new_table("What stops them", *_REFUSALS, left=2)
    for stop in stops:
        table.add_row(*_refusal_cells(stop, networks))
    return table


def _refusal_cells(stop: Refusal, networks: int) -> list[str]:
    return [stop.operator.title, stop.operator.needs,
            *(f"{count} ({count / networks:.0%})" for count in (stop.first, stop.all, stop.alone))]


def totals(rows: Sequence[WayIn]) -> str:
    """How many get in, and what the others need most, in a few sentences."""
    inside = [row for row in rows if row.inside]
    ran = [row for row in inside if row.differences is not None]
    text = (f"{len(inside)} of {len(rows)} networks get in; {len(ran)} of them ran in RTL, and "
            f"{sum(not row.differences for row in ran)} were equal to the models.")
    needs = [max((NEEDS.index(operator_of(sentence).needs) for sentence in row.obstacles),
                 default=0) for row in rows if row.obstacles]
    if needs:
        text += (f" Of the other {len(needs)}, {needs.count(0)} need hardware that is planned, "
                 f"and {needs.count(1)} what is open.")
    crashes = sum(bool(row.crash) for row in rows)
    stopped = sum(row.stopped is not None for row in rows)
    return text + (f" {crashes} ended in an error that is no sentence." if crashes else "") + (
        f" {stopped} ran out of time." if stopped else "")


def page_parts(rows: Sequence[WayIn], preset: str) -> dict[str, str]:
    """Generated parts of the page by name."""
    stops = refusals(rows)
    networks = [[*_cells(row, preset), "<br>".join(_alike(row.obstacles)) or "-"] for row in rows]
    return {
        "public": f"{totals(rows)}\n\n{_markdown((*_COLUMNS, 'Obstacles'), networks)}",
        "refusals": _markdown(_REFUSALS, [_refusal_cells(stop, len(rows)) for stop in stops])}


def _alike(obstacles: Sequence[str]) -> list[str]:
    """Every sentence; those that differ in the layer only are one, with a count."""
    count: dict[str, list[str]] = {}
    for sentence in obstacles:
        count.setdefault(_LAYER.sub("", sentence), []).append(sentence)
    return [alike[0] + (f" (and {len(alike) - 1} more)" if len(alike) > 1 else "")
            for alike in count.values()]


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns),
             *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
