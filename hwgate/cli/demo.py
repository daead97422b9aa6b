"""The command that shows the whole flow."""

from pathlib import Path
from typing import Annotated

import typer

from hwgate.cli.options import Bus, Channels, Json, Lanes, Preset, configured
from hwgate.cli.progress import complain, steps
from hwgate.show.output import display, fidelity_line, write_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `demo` to a command line."""
    app.command()(demo)


def demo(
    images: Annotated[int, typer.Option(help="Test images that the hardware runs.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    base: Preset = "digits", lanes: Lanes = None, channels: Channels = None,
    bus: Bus = None,
    report: Annotated[Path, typer.Option(
        metavar="FILE", help="Where the HTML report goes.")] = Path("build/demo.html"),
    json_file: Json = None,
    save: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Save the quantized network for `simulate` and `compare`.")] = None,
) -> None:
    """Train a gated network on handwritten digits and verify the accelerator that runs it.

    Trains, quantizes, compiles, simulates the generated Verilog with Verilator, once gated and once
    with all gates forced open, and compares every output, cycle and byte with the golden model and
    the cost model. Ends with status 1 and the first difference if anything differs.
    """
    from hwgate.files.networks import save_network
    from hwgate.show.report import write_report
    from hwgate.show.tables import evaluation_table, summary_table
    from hwgate.train.demo import run_demo

    config = configured(base, lanes, channels, bus)
    with steps() as (step, progress):
        result = run_demo(config, images=images, seed=seed, step=step, progress=progress)
    evaluation = result.evaluation
    if save is not None:
        save_network(save, result.network)
    write_report(report, evaluation, accuracy=result.accuracy, pictures=result.pictures,
                 title="Channel gating on handwritten digits", facts=result.facts())
    if not write_json(json_file, result.to_dict()):
        display(evaluation_table(evaluation), summary_table(evaluation, result.accuracy), "",
              *result.facts(), fidelity_line(evaluation.fidelity), evaluation.describe(),
              f"Report: {report}" + (f", JSON: {json_file}" if json_file else "")
              + (f", network: {save}" if save else ""))
    elif not evaluation.equal:
        complain(evaluation.describe())
    raise typer.Exit(0 if evaluation.equal else 1)
