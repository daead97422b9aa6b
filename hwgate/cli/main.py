"""The command line: a thin layer over the public API.

Exit status: 0 if all is well, 1 if hardware and models differ or the hardware stops, 2 if the input
cannot be used.
"""

import sys
from typing import Annotated

import typer

from hwgate.cli import demo, environment, hardware, models, programs, synthesis, training
from hwgate.cli.progress import complain
from hwgate.errors import UserError

__all__ = ["app", "main"]

app = typer.Typer(
    name="hwgate", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode="markdown", context_settings={"help_option_names": ["-h", "--help"]},
    help="""From a channel-gated PyTorch network to a verified accelerator.

    Start with **hwgate demo**. It trains a small gated network, runs it on simulated hardware,
    and shows that hardware, golden model and cost model agree on every bit, cycle and byte.""",
    epilog="Exit status: 0 all is well, 1 hardware and models differ, 2 unusable input.")
for family in (training, demo, hardware, synthesis, models, programs, environment):
    family.register(app)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option(
        "--version", help="Print hwgate's version.")] = False) -> None:
    if version:
        import hwgate

        print(hwgate.__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Entry point; a :class:`UserError` becomes its sentence on stderr and an exit status."""
    try:
        app(arguments)
    except UserError as error:
        from hwgate.machine.driver import EngineError

        complain(str(error))
        sys.exit(1 if isinstance(error, EngineError) else 2)
