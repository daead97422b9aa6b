"""Tables for the terminal."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwgate.compiler.explanation import Explanation
from hwgate.compiler.program import Binding
from hwgate.evaluation.against_dense import DEFINITIONS, Evaluation, Pair
from hwgate.machine.config import FormatConfig
from hwgate.machine.counters import LANE_COUNTERS, STREAMS
from hwgate.quant.fidelity import Fidelity, limits
from hwgate.results.run import RunResult
from hwgate.sim.toolchain import Tool

__all__ = ["comparison_table", "console", "counter_table", "evaluation_table", "explanation_table",
           "fidelity_table", "new_table", "pair_table", "program_table", "run_table",
           "stream_table", "summary_table", "tool_table"]

#: Columns the tables need. A narrower terminal breaks lines, but never loses a digit.
WIDTH = 100


def console(*, stderr: bool = False) -> Console:
    """Console of the command line, wide enough for the tables."""
    made = Console(stderr=stderr, highlight=False)
    if made.width < WIDTH and not stderr:
        made.width = WIDTH
    return made


def new_table(title: str, *columns: str, left: int = 1) -> Table:
    """A table in the house style; the first ``left`` columns are words."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold",
                  pad_edge=False, padding=(0, 1), collapse_padding=True)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right",
                         no_wrap=True, vertical="bottom")
    return table


def _wrong(count: int) -> str:
    return f"[bold red]{count:,}[/]" if count else "0"


def _pairs(table: Table, rows: Mapping[str, Pair]) -> None:
    """Rows of each layer, one per run, and of the total."""
    names = [layer.name for layer in next(iter(rows.values())).rtl.layers]
    gated = {layer.name for pair in rows.values() for layer in pair.rtl.layers if layer.gated}
    for index, name in enumerate(names):
        for position, (run, pair) in enumerate(rows.items()):
            rtl, model = pair.rtl.layers[index], pair.model.layers[index]
            table.add_row(
                "" if position else name, run, f"{rtl.macs:,}",
                f"{rtl.density:.1%}" if name in gated else "-",
                f"{model.cycles:,}", f"{rtl.cycles:,}",
                f"{rtl.macs / (pair.rtl.multipliers * rtl.cycles):.1%}",
                f"{model.bytes_total:,}", f"{rtl.bytes_total:,}",
                _wrong(pair.comparison.layers[index].mismatches),
                end_section=index == len(names) - 1 and position == len(rows) - 1)
    for position, (run, pair) in enumerate(rows.items()):
        table.add_row("" if position else "total", run, f"{pair.rtl.macs:,}", "",
                      f"{pair.model.cycles:,}", f"{pair.rtl.cycles:,}",
                      f"{pair.rtl.utilisation:.1%}",
                      f"{pair.model.bytes_total:,}", f"{pair.rtl.bytes_total:,}",
                      _wrong(pair.comparison.mismatches), style="bold")


_COLUMNS = ("Layer", "Gates", "MACs", "Open", "Cycles\nmodel", "Cycles\nRTL", "Use",
            "Bytes\nmodel", "Bytes\nRTL", "Wrong")


def evaluation_table(evaluation: Evaluation) -> Table:
    """One row per layer and run, dense and gated, and the totals."""
    table = new_table(f"{evaluation.images} images on {evaluation.config.describe()}", *_COLUMNS,
                      left=2)
    _pairs(table, {"dense": evaluation.dense, "gated": evaluation.gated})
    return table


def pair_table(pair: Pair, *, images: int, gates: str) -> Table:
    """One row per layer of a single program, cost model beside RTL."""
    table = new_table(f"{images} images", *_COLUMNS, left=2)
    _pairs(table, {gates: pair})
    return table


def comparison_table(pair: Pair) -> Table:
    """What was compared in each layer of a run, and how much of it differs."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for name in ("layer", "outputs", "cycles", "bytes", "outputs off", "psums off", "cycles off",
                 "counts off", "bytes off"):
        table.add_column(name, justify="left" if name == "layer" else "right", no_wrap=True)
    for found, run in zip(pair.comparison.layers, pair.rtl.layers, strict=True):
        values = (run.activations.output.size, run.cycles, run.bytes_total, found.mismatches,
                  found.psum_mismatches, found.cycle_difference, found.counter_difference,
                  found.byte_difference)
        table.add_row(found.name, *(f"{value:,}" for value in values))
    return table


def run_table(run: RunResult, *, images: int) -> Table:
    """One row per layer of a single run."""
    table = new_table(f"{images} images", "Layer", "MACs", "Open", "Cycles", "Use", "Bytes")
    for layer in run.layers:
        table.add_row(layer.name, f"{layer.macs:,}", f"{layer.density:.1%}" if layer.gated else "-",
                      f"{layer.cycles:,}", f"{layer.macs / (run.multipliers * layer.cycles):.1%}",
                      f"{layer.bytes_total:,}", end_section=layer is run.layers[-1])
    table.add_row("total", f"{run.macs:,}", "", f"{run.cycles:,}", f"{run.utilisation:.1%}",
                  f"{run.bytes_total:,}", style="bold")
    return table


def program_table(binding: Binding) -> Table:
    """What a program runs: one row per layer."""
    table = new_table("The program, layer by layer", "Layer", "Output", "MACs", "Tiles",
                      "Jobs", "Weight bytes", "Output is")
    for index, (plan, tiling, _) in enumerate(binding.steps):
        table.add_row(plan.layer.name, "x".join(map(str, plan.layer.out_shape)),
                      f"{plan.layer.macs * len(binding.images):,}", f"{tiling.tiles:,}",
                      f"{plan.job_count:,}", f"{len(plan.stream):,}",
                      binding.where(index),
                      end_section=index == len(binding.program.plans) - 1)
    return table


def fidelity_table(fidelity: Fidelity, formats: FormatConfig) -> Table:
    """Signal-to-noise ratios of each layer, those below a limit marked."""
    refused, doubtful = limits(formats)
    table = new_table("Signal to noise of each layer, dB", "Layer", "Own", "Through", "")
    for layer in fidelity.layers:
        note = (f"[bold red]below {refused:.4g}[/]" if layer.own < refused else
                f"below {doubtful:.4g}" if layer.own < doubtful else "")
        table.add_row(escape(layer.name), f"{layer.own:.1f}", f"{layer.through:.1f}", note)
    return table


def explanation_table(explanation: Explanation) -> Table:
    """Alternatives of each layer, those taken in bold and marked."""
    table = new_table("What was taken (*), and what it was compared with", "Layer", "Choice",
                      "Alternative", "", "Bytes", "Cycles", left=4)
    table.add_column("Why", overflow="fold")
    for column in table.columns:
        column.vertical = "top"
    layer = ""
    for row in explanation.alternatives:
        traffic, cycles = ("-" if value is None else f"{value:,}"
                           for value in (row.bytes, row.cycles))
        table.add_row("" if row.layer == layer else row.layer, row.choice, row.alternative,
                      "*" if row.chosen else "", traffic,
                      cycles if row.exact else f"\N{GREATER-THAN OR EQUAL TO} {cycles}", row.reason,
                      style="bold" if row.chosen else None)
        layer = row.layer
    return table


def tool_table(version: str, tools: Sequence[Tool]) -> Table:
    """What was found, in which version, and how to install what was not."""
    table = new_table(f"hwgate {version}", "Tool", "Version", "To install", left=3)
    table.columns[2].no_wrap = False
    for tool in tools:
        missing = "[bold red]missing[/]" if tool.required else "missing"
        table.add_row(tool.name, escape(tool.version) if tool.version else missing,
                      "" if tool.version else escape(tool.hint))
    return table


def summary_table(evaluation: Evaluation, accuracy: Mapping[str, float]) -> Table:
    """Accuracy and the derived figures of an evaluation, each with its definition."""
    total = evaluation.total
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="bold")
    table.add_column(style="dim")
    images = f"of {evaluation.images} images"
    for name, what in (("float", "PyTorch"), ("quantized", "golden model"),
                       ("rtl", "hardware")):
        if name in accuracy:
            table.add_row(f"Accuracy, {what}", f"{accuracy[name]:.2%}", images)
    table.add_row("Density", f"{total.density:.1%}", DEFINITIONS["density"])
    table.add_row("MAC reduction", f"{total.mac_reduction:.2f}x", DEFINITIONS["mac_reduction"])
    table.add_row("Speed-up", f"{total.speedup:.2f}x", DEFINITIONS["speedup"])
    table.add_row("Gating efficiency", f"{total.gating_efficiency:.1%}",
                  DEFINITIONS["gating_efficiency"])
    table.add_row("Off-chip reduction", f"{total.offchip_reduction:.2f}x",
                  DEFINITIONS["offchip_reduction"])
    table.add_row("Utilisation",
                  f"{total.utilisation_dense:.1%} / {total.utilisation:.1%}",
                  f"dense / gated; {DEFINITIONS['utilisation']}")
    table.add_row("Simulation", f"{evaluation.cycles_per_second:,.0f}",
                  "RTL cycles per second of wall time")
    return table


def counter_table(run: RunResult) -> Table:
    """Where the lane cycles of a run went, per layer."""
    table = new_table("Lane cycles by counter, percent of the layer", "Layer", *LANE_COUNTERS)
    for layer in run.layers:
        cycles = len(layer.lanes) * layer.cycles
        table.add_row(layer.name, *(f"{100 * sum(lane[name] for lane in layer.lanes) / cycles:.1f}"
                                    for name in LANE_COUNTERS))
    return table


def stream_table(run: RunResult) -> Table:
    """Off-chip bytes of a run by stream, per layer."""
    table = new_table("Off-chip bytes by stream", "Layer", *STREAMS)
    for layer in run.layers:
        table.add_row(layer.name, *(f"{layer.bytes[name]:,}" for name in STREAMS))
    return table
