"""Public networks on their way onto the accelerator: ``make networks``.

Takes in every definition of ``support/public_networks.txt``: reads it, lowers it, quantizes it,
compiles it with the smallest buffers that fit, counts cycles and bytes of one image, and runs small
ones in RTL. What stops a network is listed, and counted by operator at the end. Results are kept
until the code that they depend on changes, so a run that was broken off goes on where it was. The
exit status is 0 if each network gets in, or is refused in sentences, and every RTL run equals the
models.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hwgate.errors import UserError
from hwgate.files.atomic import write_atomic
from hwgate.machine.config import preset
from hwgate.show.docs import render
from hwgate.show.output import display, write_json
from hwgate.show.tables import console
from support.public_networks import Definition, definitions
from support.refusals import refusals
from support.way_in import WayIn, take_in
from support.way_in_tables import network_table, page_parts, refusal_table, sentences, totals

__all__ = ["Results", "apart", "main"]

#: Preset whose buffers grow until a network fits.
PRESET = "cifar"

_ROOT = Path(__file__).resolve().parents[1]

#: What results depend on.
_SOURCES = ("hwgate/compiler", "hwgate/cost", "hwgate/frontend", "hwgate/machine", "hwgate/nn",
            "hwgate/plan", "hwgate/results", "hwgate/schedule", "quant", "rtl", "sim",
            "tests/support/public_networks.py", "tests/support/way_in.py")

#: What every process needs, loaded once.
_PRELOADED = ["hwgate.compiler.program", "hwgate.cost.model", "hwgate.frontend.fold",
              "hwgate.sim.simulate", "torch._dynamo", "torch.export._trace"]


class Results:
    """What is known, in a file that survives a run.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, object]] = {}
        with suppress(OSError, ValueError):
            self._rows = json.loads(path.read_text(encoding="utf-8"))

    def get(self, definition: Definition, limit: float) -> WayIn | None:
        """What is known of a network, if the code has not changed and the time was not less."""
        row = dict(self._rows.get(definition.name, {}))
        if row.pop("key", None) != _key(definition):
            return None
        found = WayIn.from_dict(row)
        return found if found.stopped is None or found.stopped >= limit else None

    def put(self, definition: Definition, found: WayIn) -> None:
        self._rows[definition.name] = {"key": _key(definition), **found.to_dict()}
        write_atomic(self.path, json.dumps(self._rows, indent=1) + "\n")


@cache
def _sources() -> bytes:
    digest = hashlib.sha256(preset(PRESET).describe().encode())
    for name in _SOURCES:
        path = _ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.digest()


def _key(definition: Definition) -> str:
    return hashlib.sha256(_sources() + repr(definition).encode()).hexdigest()[:16]


def _work(definition: Definition, results: Connection) -> None:
    """Take a network in, in a process of its own, and tell what is known after each stage."""
    import torch

    os.setsid()  # simulators end with it
    torch.set_num_threads(1)
    take_in(definition, preset(PRESET), results.send)


def apart(definition: Definition, limit: float) -> WayIn:
    """Take a network in, in a process that is ended after ``limit`` seconds."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(definition, there))
    process.start()
    there.close()
    found, end = WayIn(definition.name), time.monotonic() + limit
    try:
        while here.poll(max(0.0, end - time.monotonic())):
            found = here.recv()
    except EOFError:
        process.join()
        if process.exitcode:
            text = f"RuntimeError: The process ended with status {process.exitcode}"
            found = replace(found, obstacles=(text,), crash=text)
        return found
    _end(process)
    return replace(found, stopped=limit, seconds=limit, obstacles=(
        f"Stopped after {limit:g} s; the last stage that it reached is: {found.stage}",))


def _end(process: BaseProcess) -> None:
    """End a process and its simulators."""
    if process.pid is not None:
        with suppress(ProcessLookupError):  # it may not lead its group yet
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _measure(chosen: Sequence[Definition], known: Results, limit: float,
             jobs: int) -> Iterator[WayIn]:
    """All results, those that are known first; the others as they are done."""
    missing = []
    for definition in chosen:
        found = known.get(definition, limit)
        if found is None:
            missing.append(definition)
        else:
            yield found
    for definition in missing:
        if definition.missing:
            raise UserError(f"{definition.name} needs {definition.missing}, which is not "
                            "installed; make networks installs it")
    with ThreadPoolExecutor(jobs) as pool:
        work = {pool.submit(apart, definition, limit): definition for definition in missing}
        try:
            for done in as_completed(work):
                known.put(work[done], done.result())
                yield done.result()
        except BaseException:  # such as Ctrl-C
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                _end(process)
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print; the exit status."""
    parser = argparse.ArgumentParser(prog="make networks", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", default=[],
                        help="this network, or all that begin with the name; may be repeated; "
                             "prints every sentence, and leaves the page as it is")
    parser.add_argument("--limit", type=float, default=90, metavar="SECONDS",
                        help="time for a network (default: 90)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--results", type=Path, default=Path("build/networks.json"), metavar="FILE",
                        help="keeps what was measured (default: build/networks.json)")
    parser.add_argument("--json", metavar="FILE",
                        help="write all of it as JSON; - prints it instead of tables")
    parser.add_argument("--page", type=Path, metavar="FILE",
                        help="Markdown page whose generated parts are renewed")
    options = parser.parse_args(arguments)
    os.environ.setdefault("HWGATE_QUICK", "-Og")  # many simulators, each of which runs one image
    try:
        return _run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    chosen = _chosen(options.only)
    page = None if options.only else options.page
    text = page.read_text(encoding="utf-8") if page is not None else ""
    found = {}
    with Progress(TextColumn("Networks"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  TextColumn("{task.fields[last]}"), console=console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(chosen), last="")
        for row in _measure(chosen, Results(options.results), options.limit, options.jobs):
            found[row.name] = row
            progress.update(bar, completed=len(found), last=f"{row.name}: {row.stage}")
    rows = [found[definition.name] for definition in chosen]
    if page is not None:
        write_atomic(page, render(text, {name: partial(str, part) for name, part in
                                         page_parts(rows, PRESET).items()}))
    stops = refusals(rows)
    content = {"networks": [row.to_dict() for row in rows],
               "refusals": [{"operator": stop.operator.title, "needs": stop.operator.needs,
                             "first": stop.first, "all": stop.all, "alone": stop.alone}
                            for stop in stops]}
    if not write_json(options.json, content):
        display(network_table(rows, PRESET), *(sentences(rows) if options.only else ()),
                *([refusal_table(stops, len(rows))] if stops else []), totals(rows),
                *(row.crash for row in rows if row.crash))
    return int(any(row.crash or row.differences for row in rows))


def _chosen(only: Sequence[str]) -> list[Definition]:
    """Definitions with one of these names, or that begin with one."""
    known = definitions()
    for name in only:
        if not any(definition.name.startswith(name) for definition in known):
            raise UserError(f"There is no network {name!r} in tests/support/public_networks.txt")
    exact = {definition.name for definition in known if definition.name in only}
    return [definition for definition in known if not only or definition.name in exact
            or any(definition.name.startswith(name) for name in only if name not in exact)]


if __name__ == "__main__":
    sys.exit(main())
