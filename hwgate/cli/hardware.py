"""The command that generates the accelerator."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hwgate.cli.options import (
    Bus,
    Channels,
    Chunks,
    Lanes,
    MapKib,
    Preset,
    configured,
    with_maps,
)
from hwgate.show.output import display

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `verilog` to a command line."""
    app.command()(verilog)


def verilog(
    base: Preset = "digits", lanes: Lanes = None, channels: Channels = None,
    bus: Bus = None, map_kib: MapKib = None, chunks: Chunks = None,
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", metavar="FILE",
        help="Where the Verilog goes; printed if left out.")] = None,
    header: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write the C header of the registers, too.")] = None,
) -> None:
    """Generate the accelerator as one Verilog file, top module hwgate_top."""
    import hwgate
    from hwgate.files.atomic import write_atomic
    from hwgate.machine.regs import engine_registers

    config = with_maps(configured(base, lanes, channels, bus), map_kib, chunks)
    text = hwgate.verilog(config)
    if header is not None:
        write_atomic(header, engine_registers(config).as_c_header())
    if output is None:
        sys.stdout.write(text)
        return
    write_atomic(output, text)
    display(f"{output}: {text.count(chr(10)):,} lines, {config.describe()}")
