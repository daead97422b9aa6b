"""The command line of the bench."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hwgate.bench.figures import cycles_figure, figures
from hwgate.bench.measure import Stage, measure
from hwgate.bench.tables import facts, page, sheets
from hwgate.errors import UserError
from hwgate.files.atomic import write_atomic
from hwgate.machine.config import PRESETS, preset
from hwgate.show.tables import console

__all__ = ["main"]

_ABOUT = """\
Measures an accelerator and says where its cycles go.

  1. three dense layers in RTL, beside figures of other systems on the same layers
  2. ResNet-20 with gates, and with all gates forced open: utilisation, MAC reduction, speed-up,
     gating efficiency = speed-up / MAC reduction, and the lane cycles lost, by counter;
     one image in RTL, eight by the cost model
  3. the same at densities from 0 to 1
  4. lanes 1 to 16 and R 4 and 8 by the cost model, spot-checked in RTL
  5. RTL cycles per second, and how much faster the cost model is

Nothing is trained or downloaded. Wherever RTL and cost model both run they are compared, by bit,
cycle, counter and byte. It takes some minutes; the first run also compiles the simulators.
"""

_EXAMPLES = """\
examples:
  python -m hwgate.bench                           measure; tables, build/bench.json and figures
  python -m hwgate.bench --full                    more in RTL: 8 images, every lanes and R
  python -m hwgate.bench --json -                  the figures as JSON, no tables
  python -m hwgate.bench --from build/bench.json   tables and figures of an earlier run
  python -m hwgate.bench --page docs/where-the-cycles-go.md
                                                   renew that page's tables and its figure

Exit status: 0 all is well, 1 RTL and cost model differ, 2 unusable input.
"""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 1 if RTL and cost model differ, 2 on unusable input."""
    parser = argparse.ArgumentParser(
        prog="python -m hwgate.bench", description=_ABOUT, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cifar",
                        help=f"accelerator: {', '.join(sorted(PRESETS))} (default: cifar)")
    parser.add_argument("--full", action="store_true",
                        help="run 8 images, and every lanes and R, in RTL as well; much longer")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"), metavar="FILE",
                        help="file for the figures (default: build/bench.json)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too; - prints them "
                                                       "instead of tables")
    parser.add_argument("--figures", type=Path, metavar="DIR",
                        help="folder for the SVG files (default: that of --output)")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source",
                        help="measure nothing; take the figures of an earlier run")
    parser.add_argument("--page", type=Path, metavar="FILE",
                        help="Markdown page whose tables, and SVG file of the same name, are "
                             "written anew")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    if options.source is not None:
        bench = _load(options.source)
    else:
        config = preset(options.preset)
        with _progress() as stage:
            bench = measure(config, stage, full=options.full)
        write_atomic(options.output, json.dumps(bench, indent=2) + "\n")
    written = [str(options.output)] if options.source is None else []
    folder = options.figures or (options.source or options.output).parent
    for name, text in figures(bench).items():
        write_atomic(folder / name, text)
        written.append(str(folder / name))
    if options.page is not None:
        write_atomic(options.page, page(_read(options.page, "Page"), bench))
        picture = options.page.with_suffix(".svg")
        write_atomic(picture, cycles_figure(bench))
        written += [str(options.page), str(picture)]
    if options.json == "-":
        print(json.dumps(bench, indent=2))
    else:
        if options.json:
            write_atomic(options.json, json.dumps(bench, indent=2) + "\n")
            written.append(options.json)
        _show(bench, written)
    return 0 if bench["equal"] else 1


def _show(bench: dict[str, Any], written: list[str]) -> None:
    out = console()
    for sheet in sheets(bench).values():
        out.print(sheet.for_terminal())
    for sentence in (*facts(bench), *bench["differences"], f"Written: {', '.join(written)}"):
        out.print(sentence, soft_wrap=True, markup=False)


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from None


def _load(path: Path) -> dict[str, Any]:
    """Figures of an earlier run."""
    try:
        found = json.loads(_read(path, "File"))
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or "where_cycles_go" not in found:
        raise UserError(f"File {path} must hold the figures of this bench; run it without --from")
    return found


@contextmanager
def _progress() -> Iterator[Stage]:
    """One bar per stage, on stderr."""
    with Progress(TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(),
                  TimeElapsedColumn(), console=console(stderr=True)) as bars:
        def stage(name: str, steps: int) -> Callable[[], None]:
            task = bars.add_task(f"{name:<34}", total=steps)
            return lambda: bars.advance(task)

        yield stage
