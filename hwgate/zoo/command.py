"""The command line of the zoo: what its networks do, and the page that says so."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hwgate.errors import UserError
from hwgate.files.atomic import write_atomic
from hwgate.show.docs import render
from hwgate.show.output import display, write_json
from hwgate.show.tables import console
from hwgate.zoo import networks as zoo
from hwgate.zoo.facts import facts
from hwgate.zoo.measure import Amounts, Step, cached, curved
from hwgate.zoo.page import conditions, figures, parts, tables

__all__ = ["main"]

_ABOUT = """\
Runs the trained networks that come with hwgate: accuracy with integers, and on the RTL speed-up,
gating efficiency and off-chip bytes against the same network with all gates forced open, with and
without levers, every layer compared with golden and cost model. Moves the thresholds, counts bytes
over sizes of tiles and buffers, and draws what comes of it.

Figures of a network are kept until it, hwgate or the numbers of images change. The test images
come from the folder in the variable HWGATE_DATA.
"""

_EXAMPLES = """\
examples:
  python -m hwgate.zoo                          all networks
  python -m hwgate.zoo mnist --rtl 2            one network, two images in RTL
  python -m hwgate.zoo --no-run                 what is known without running anything
  python -m hwgate.zoo --page docs/results.md   renew that page and its figures

Exit status: 0 all is well, 1 RTL and models differ, 2 unusable input.
"""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 1 if RTL and models differ, 2 on unusable input."""
    amounts = Amounts()
    parser = argparse.ArgumentParser(
        prog="python -m hwgate.zoo", description=_ABOUT, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"networks (default: all, {', '.join(zoo.names())})")
    for option, least, text in (
            ("images", amounts.images, "test images that the golden model counts again"),
            ("model", amounts.model, "test images that the cost model runs"),
            ("rtl", amounts.rtl, "test images that the RTL runs"),
            ("sweep", amounts.sweep, "test images at each place of the thresholds")):
        parser.add_argument(f"--{option}", type=int, default=least, metavar="N",
                            help=f"{text} (default: {least})")
    parser.add_argument("--no-run", action="store_true", help="run nothing")
    parser.add_argument("--cache", type=Path, default=Path("build/zoo"), metavar="DIR",
                        help="folder that keeps figures (default: build/zoo)")
    parser.add_argument("--page", type=Path, metavar="FILE",
                        help="Markdown page whose generated parts are renewed; its figures go to "
                             "a folder of the same name")
    parser.add_argument("--json", metavar="FILE",
                        help="write the figures as JSON; - prints them instead of tables")
    options = parser.parse_args(arguments)
    try:
        return _run(options, Amounts(options.images, options.model, options.rtl,
                                     options.sweep))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, amounts: Amounts) -> int:
    names = tuple(options.names or zoo.trained())
    for name in names:
        zoo.path(name)
    if options.page is not None and (options.no_run or options.names):
        raise UserError("A page shows all networks as they run; leave out names and --no-run")
    text = _read(options.page) if options.page is not None else ""
    if options.no_run:
        found = [facts(name) for name in names]
    else:
        with _progress(names) as steps:
            chosen = curved(names)
            found = [cached(name, amounts, options.cache, step, buffers=name in chosen)
                     for name, step in steps]
    written = []
    if options.page is not None:
        folder, drawn = options.page.with_suffix(""), figures(found)
        made = parts(found, amounts, [f"{folder.name}/{name}" for name in drawn])
        write_atomic(options.page, render(text, {
            name: partial(str, part) for name, part in made.items()}))
        for name, picture in drawn.items():
            write_atomic(folder / name, picture)
        for stale in folder.glob("*.svg"):
            if stale.name not in drawn:
                stale.unlink()
        written = [str(options.page), *(str(folder / name) for name in drawn)]
    if not write_json(options.json, {"amounts": vars(amounts), "networks": found}):
        display(*tables(found), "" if options.no_run else conditions(amounts),
                *(at["said"] for at in _ran(found) if not at["equal"]),
                *([f"Written: {', '.join(written)}"] if written else []))
    return int(not all(at["equal"] for at in _ran(found)))


def _ran(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What ran in RTL: each network with each set of levers, and points of the curves."""
    ran: list[Mapping[str, Any]] = []
    for network in found:
        ran += network.get("hardware", [])
        ran += [{**point, "said": f"{network['name']} over tiles and buffers: RTL and model differ"}
                for point in network.get("buffers", []) if point["equal"] is not None]
    return ran


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"Page {page} cannot be read: {error.strerror}") from None


@contextmanager
def _progress(names: Any) -> Iterator[Iterator[tuple[str, Step]]]:
    """Networks one after the other, each with what to tell its steps; one bar on stderr."""
    with Progress(TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
                  TimeElapsedColumn(), console=console(stderr=True)) as bars:
        task = bars.add_task("Networks", total=len(names))

        def each() -> Iterator[tuple[str, Step]]:
            for name in names:
                def step(words: str, name: str = name) -> None:
                    bars.update(task, description=f"{name}: {words}")

                yield name, step
                bars.advance(task)

        yield each()
