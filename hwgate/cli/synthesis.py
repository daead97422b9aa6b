"""The command that synthesizes the accelerator for an FPGA."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwgate.cli.options import (
    Bus,
    Channels,
    Chunks,
    Json,
    Lanes,
    MapKib,
    Preset,
    configured,
    with_maps,
)
from hwgate.cli.progress import complain, working
from hwgate.errors import UserError
from hwgate.show.output import display, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwgate.boards.parts import Part
    from hwgate.boards.report import Synthesis
    from hwgate.machine.config import AcceleratorConfig

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `synth` to a command line."""
    app.command()(synth)


def synth(
    base: Preset = "digits", lanes: Lanes = None, channels: Channels = None,
    bus: Bus = None, map_kib: MapKib = None, chunks: Chunks = None,
    part: Annotated[str, typer.Option(
        help="FPGA: LFE5U-25F, LFE5U-45F or LFE5U-85F, speed grade 6.")] = "LFE5U-85F",
    seeds: Annotated[int, typer.Option(
        min=0, help="Place and route with this many seeds; 0 only estimates.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds at the same time.")] = 1,
    freq: Annotated[float, typer.Option(
        metavar="MHZ", help="Clock that place and route aims at.")] = 100.0,
    without: Annotated[list[str] | None, typer.Option(
        metavar="FEATURE", help="Synthesize without this feature, too, and show what it costs; "
                                "may be repeated.")] = None,
    json_file: Json = None,
    page: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Renew the part between the lines `<!-- generated: synthesis -->` "
                             "and `<!-- end -->` of a page.")] = None,
    markdown_file: Annotated[Path | None, typer.Option(
        "--markdown", metavar="FILE", help="Write the tables as Markdown.")] = None,
    folder: Annotated[Path | None, typer.Option(
        metavar="DIR", help="Keep netlists, and logs and reports of place and route.")] = None,
) -> None:
    """Synthesize the accelerator for an FPGA: what it takes, how fast it is, and what limits it.

    Shows resources by block, the slowest paths by the blocks they run through, and the clock. The
    estimate needs no placement and takes minutes the first time, seconds afterwards; with
    --seeds the design is placed and routed, which takes a quarter of an hour and more a seed.

    Needs `pip install 'hwgate[fpga]'`.

    Examples:

    * `hwgate synth --preset tiny`: resources and estimated paths
    * `hwgate synth --lanes 1 --seeds 3 --jobs 2`: place and route, two seeds at a time
    * `hwgate synth --preset cifar --part LFE5U-45F --json -`: all figures for machines
    """
    from hwgate.boards.parts import find_part
    from hwgate.boards.report import left_out, markdown, sentences, sheets
    from hwgate.boards.tools import find_nextpnr, yosys_version
    from hwgate.files.atomic import write_atomic
    from hwgate.show.docs import render

    config = with_maps(configured(base, lanes, channels, bus), map_kib, chunks)
    chosen, dropped = find_part(part), tuple(without or ())
    reduced = left_out(config, dropped) if dropped else None
    before = _text(page) if page is not None else ""
    if page is not None:
        render(before, {"synthesis": str})
    yosys_version()
    if seeds:
        find_nextpnr()
    with working() as progress:
        found = _made(config, chosen, seeds, jobs, freq, folder, progress)
        others = {}
        if reduced is not None:
            name = " and ".join(dropped)
            others[name] = _made(reduced, chosen, seeds, jobs, freq,
                                 folder and folder / f"without-{'-'.join(dropped)}",
                                 lambda words: progress(f"without {name}: {words}"))
    text = markdown(found, others)
    if markdown_file is not None:
        write_atomic(markdown_file, text + "\n")
    if page is not None:
        write_atomic(page, render(before, {"synthesis": lambda: text}))
    if seeds and not found.fits:
        complain(f"The accelerator does not fit the {part}, so it was not placed and routed")
    if not write_json(json_file, {**found.to_dict(), "without": {
            name: other.to_dict() for name, other in others.items()}}):
        display(*(sheet.for_terminal() for sheet in sheets(found, others)), *sentences(found))


def _made(config: "AcceleratorConfig", part: "Part", seeds: int, jobs: int, freq: float,
          folder: Path | None, progress: "Callable[[str], None]") -> "Synthesis":
    """Synthesize, estimate, and place and route what fits."""
    from dataclasses import replace

    from hwgate.boards.netlist import Netlist
    from hwgate.boards.report import Synthesis
    from hwgate.boards.routing import route
    from hwgate.boards.synthesis import netlist_text
    from hwgate.files.atomic import write_atomic

    text = netlist_text(config, progress)
    progress("estimating paths")
    found = Synthesis.of(config, part, Netlist.read(text))
    if folder is not None:
        write_atomic(folder / "netlist.json", text)
    if seeds and found.fits:
        return replace(found, routing=route(
            found.netlist, text, part, seeds=seeds, jobs=jobs, mhz=freq, folder=folder,
            progress=progress))
    return found


def _text(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"Page {page} cannot be read: {error.strerror}") from None
