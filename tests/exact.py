"""Random layers and networks on every configuration, RTL against golden and cost model.

``make exact`` draws 500 layers, 20 networks and 24 layers made for one moment (see
``support/directed_cases.py``) by seed. The exit status is 0 only if every output,
accumulator, decision, cycle, byte and counter is equal, and every feature has been drawn.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import count, zip_longest
from multiprocessing import get_context

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from support.case_features import FEATURES
from support.engine_cases import CONFIGS, KINDS, MORE_CONFIGS, Case, Verdict, replay, units, verify

__all__ = ["draw", "main", "report"]

#: From this many layers on, a feature that was never drawn is a failure.
_ENOUGH = 500

#: Cases of layers made for one moment.
_DIRECTED = 24

#: Failures that are shown.
_SHOWN = 10


def draw(layers: int, networks: int, seed: int = 0, directed: int = _DIRECTED) -> list[Case]:
    """Cases with at least this many layers, then directed ones, then this many networks, over all
    configurations."""
    names, cases, drawn = [*CONFIGS, *MORE_CONFIGS], [], 0

    def case(index: int, kind: str) -> Case:
        return Case(names[index % len(names)], kind, seed + index // len(names))

    for index in count():
        if drawn >= layers:
            break
        cases.append(case(index, KINDS[0]))
        drawn += len(cases[-1].program.plans)
    cases += [case(index, KINDS[2]) for index in range(directed)]
    return cases + [case(index, KINDS[1]) for index in range(networks)]


def _in_turns(cases: Sequence[Case]) -> list[list[Case]]:
    """Work for the processes, configurations in turns, so that each compiles another one."""
    by_name: dict[str, list[list[Case]]] = {}
    for unit in units(cases):
        by_name.setdefault(unit[0].name, []).append(unit)
    return [unit for turn in zip_longest(*by_name.values()) for unit in turn if unit is not None]


def report(verdicts: Sequence[Verdict], console: Console) -> int:
    """Print features, failures with the commands that replay them, and totals; 0 if all is well."""
    layers = sum(verdict.layers for verdict in verdicts)
    features: Counter[str] = sum((verdict.features for verdict in verdicts), Counter())
    console.print("Layers drawn with each feature:")
    for name in FEATURES:
        console.print(f"{features[name]:7,}  {name}", highlight=False)
    failures = [verdict for verdict in verdicts if verdict.failure]
    for verdict in failures[:_SHOWN]:
        console.print(f"\n{verdict.command}\n{verdict.failure}", highlight=False, markup=False,
                      soft_wrap=True)
    never = [name for name in FEATURES if not features[name]]
    kinds = Counter(verdict.case.kind for verdict in verdicts)
    cycles = sum(verdict.cycles for verdict in verdicts)
    console.print(f"\n{layers:,} layers in {kinds['layers']} small, {kinds['tasks']} directed and "
                  f"{kinds['network']} larger networks, {cycles:,} cycles: "
                  f"{len(failures)} differ.", highlight=False)
    if never:
        console.print(f"Never drawn: {', '.join(never)}.", highlight=False)
    return int(bool(failures) or (layers >= _ENOUGH and bool(never)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, run, report; the exit status."""
    parser = argparse.ArgumentParser(prog="make exact", description=__doc__)
    parser.add_argument("--layers", type=int, default=500, help="default: 500")
    parser.add_argument("--networks", type=int, default=20, help="default: 20")
    parser.add_argument("--directed", type=int, default=_DIRECTED,
                        help=f"layers made for one moment (default: {_DIRECTED})")
    parser.add_argument("--seed", type=int, default=0, help="of the first case (default: 0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--replay", nargs="+", metavar=("CONFIGURATION", "KIND SEED"),
                        help="only these cases, in one process: 4x36 layers 17")
    options = parser.parse_args(arguments)
    if options.replay:
        return replay(*options.replay)
    console, begin = Console(), time.perf_counter()
    cases = draw(options.layers, options.networks, options.seed, options.directed)
    verdicts: list[Verdict] = []
    with (ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool,
          Progress(TextColumn("Networks"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[differ]} differ"), console=console) as progress):
        bar = progress.add_task("", total=len(cases), differ=0)
        for done in as_completed([pool.submit(verify, unit) for unit in _in_turns(cases)]):
            verdicts += done.result()
            progress.update(bar, completed=len(verdicts),
                            differ=sum(bool(verdict.failure) for verdict in verdicts))
    status = report(verdicts, console)
    console.print(f"{time.perf_counter() - begin:.0f} s", highlight=False)
    return status


if __name__ == "__main__":
    sys.exit(main())
