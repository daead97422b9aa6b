"""The command that lists tools and presets."""

import typer

from hwgate.cli.options import Json
from hwgate.machine.config import PRESETS
from hwgate.show.output import display, write_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `info` to a command line."""
    app.command()(info)


def info(json_file: Json = None) -> None:
    """List the tools found, with versions, what to install, and the presets.

    Ends with status 2 if a tool that a simulation needs is missing.
    """
    import hwgate
    from hwgate.show.tables import tool_table
    from hwgate.sim.toolchain import tools

    found = tools()
    if not write_json(json_file, {
            "hwgate": hwgate.__version__,
            "tools": [{"name": tool.name, "version": tool.version, "required": tool.required,
                       "install": tool.hint} for tool in found],
            "presets": {name: config.to_dict() for name, config in PRESETS.items()}}):
        display(tool_table(hwgate.__version__, found),
              *(f"preset {name}: {config.describe()}" for name, config in sorted(PRESETS.items())))
    if any(tool.required and tool.version is None for tool in found):
        raise typer.Exit(2)
