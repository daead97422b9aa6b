"""The command line: a thin layer over the public API.

Exit status: 0 if all is well, 1 if hardware and models differ or the hardware stops, 2 if the input
cannot be used.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwgate.config import PRESETS, AcceleratorConfig, BusConfig, MemoryTiming, preset
from hwgate.errors import UserError
from hwgate.goal import DENSITY, OBJECTIVES
from hwgate.output import display, write_json
from hwgate.train_cli import register

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hwgate.quant.network import QuantizedNetwork
    from hwgate.training import Epoch

__all__ = ["app", "main"]

app = typer.Typer(
    name="hwgate", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode="markdown", context_settings={"help_option_names": ["-h", "--help"]},
    help="""From a channel-gated PyTorch network to a verified accelerator.

    Start with **hwgate demo**. It trains a small gated network, runs it on simulated hardware,
    and shows that hardware, golden model and cost model agree on every bit, cycle and byte.""",
    epilog="Exit status: 0 all is well, 1 hardware and models differ, 2 unusable input.")
register(app)

_Preset = Annotated[str, typer.Option(
    "--preset", help=f"Accelerator to start from: {', '.join(sorted(PRESETS))}. "
                     "`hwgate info` describes them.")]
_Lanes = Annotated[int | None, typer.Option(help="Lanes of the MAC array: a power of two, 1..16.")]
_Channels = Annotated[int | None, typer.Option(
    help="R, channels of one channel group: a power of two, 2..16. A lane has 9R multipliers.")]
_Bus = Annotated[int | None, typer.Option(help="Bits of the memory bus: 64 or 128.")]
_MapKib = Annotated[int | None, typer.Option(
    metavar="N", help="KiB of on-chip memory for feature maps between layers: a power of two, "
                      "4..4096, or 0.")]
_Chunks = Annotated[int | None, typer.Option(
    metavar="N", help="Chunks of eight beats of feature maps off chip whose zero bytes are left "
                      "out: a power of two, 16..65536, or 0.")]
_Json = Annotated[str | None, typer.Option(
    "--json", metavar="FILE", help="Write the figures as JSON; - prints them instead of tables.")]
_Network = Annotated[Path, typer.Argument(
    metavar="NETWORK", help="Quantized network, as `hwgate demo --save NETWORK` writes it.")]
_Images = Annotated[str, typer.Option(
    metavar="N|FILE", help="The first N test digits, or a .npy file of (N, C, H, W) images: "
                           "floats, or int8 if already quantized.")]
_Dense = Annotated[bool, typer.Option("--dense", help="Force all gates open.")]
_ReadLatency = Annotated[int, typer.Option(help="Cycles from a read's address to its first data.")]
_WriteLatency = Annotated[int, typer.Option(help="Cycles from a write's last data to its answer.")]
_Interval = Annotated[int, typer.Option(help="Cycles per beat of the memory bus; 1 is full speed.")]

_TIMING = MemoryTiming()


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option(
        "--version", help="Print hwgate's version.")] = False) -> None:
    if version:
        import hwgate

        print(hwgate.__version__)
        raise typer.Exit


@app.command()
def demo(
    images: Annotated[int, typer.Option(help="Test images that the hardware runs.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    base: _Preset = "digits", lanes: _Lanes = None, channels: _Channels = None,
    bus: _Bus = None,
    report: Annotated[Path, typer.Option(
        metavar="FILE", help="Where the HTML report goes.")] = Path("build/demo.html"),
    json_file: _Json = None,
    save: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Save the quantized network for `simulate` and `compare`.")] = None,
) -> None:
    """Train a gated network on handwritten digits and verify the accelerator that runs it.

    Trains, quantizes, compiles, simulates the generated Verilog with Verilator, once gated and once
    with all gates forced open, and compares every output, cycle and byte with the golden model and
    the cost model. Ends with status 1 and the first difference if anything differs.
    """
    from hwgate.artifacts import save_network
    from hwgate.demo import run_demo
    from hwgate.report import write_report
    from hwgate.tables import evaluation_table, summary_table

    config = _config(base, lanes, channels, bus)
    with _progress() as (step, progress):
        result = run_demo(config, images=images, seed=seed, step=step, progress=progress)
    evaluation = result.evaluation
    if save is not None:
        save_network(save, result.network)
    write_report(report, evaluation, accuracy=result.accuracy, pictures=result.pictures,
                 title="Channel gating on handwritten digits", facts=result.facts())
    if not write_json(json_file, result.to_dict()):
        display(evaluation_table(evaluation), summary_table(evaluation, result.accuracy), "",
              *result.facts(), evaluation.describe(),
              f"Report: {report}" + (f", JSON: {json_file}" if json_file else "")
              + (f", network: {save}" if save else ""))
    elif not evaluation.equal:
        _complain(evaluation.describe())
    raise typer.Exit(0 if evaluation.equal else 1)


@app.command()
def verilog(
    base: _Preset = "digits", lanes: _Lanes = None, channels: _Channels = None,
    bus: _Bus = None, map_kib: _MapKib = None, chunks: _Chunks = None,
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", metavar="FILE",
        help="Where the Verilog goes; printed if left out.")] = None,
    header: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write the C header of the registers, too.")] = None,
) -> None:
    """Generate the accelerator as one Verilog file, top module hwgate_top."""
    import hwgate
    from hwgate.artifacts import write_atomic
    from hwgate.regs import engine_registers

    config = _with_maps(_config(base, lanes, channels, bus), map_kib, chunks)
    text = hwgate.verilog(config)
    if header is not None:
        write_atomic(header, engine_registers(config).as_c_header())
    if output is None:
        sys.stdout.write(text)
        return
    write_atomic(output, text)
    display(f"{output}: {text.count(chr(10)):,} lines, {config.describe()}")


@app.command()
def compile(
    network: _Network,
    images: Annotated[int, typer.Option(help="Images in the batch.")] = 1,
    dense: _Dense = False,
    explain: Annotated[bool, typer.Option(
        "--explain", help="List what the compiler compared, and what each would cost.")
    ] = False,
    objective: Annotated[str, typer.Option(
        help=f"What to choose by: {', '.join(OBJECTIVES)}.")] = "balanced",
    density: Annotated[float, typer.Option(
        help="Share of open gates to choose for, 0..1.")] = DENSITY,
    map_kib: _MapKib = None, chunks: _Chunks = None,
    read_latency: _ReadLatency = _TIMING.read_latency,
    write_latency: _WriteLatency = _TIMING.write_latency,
    beat_interval: _Interval = _TIMING.beat_interval, json_file: _Json = None,
) -> None:
    """Compile a network and show the program, or why it is as it is."""
    import numpy as np

    import hwgate
    from hwgate.explain import explain as explanation_of
    from hwgate.tables import explanation_table, program_table

    program = hwgate.compile(
        _loaded(network, map_kib, chunks), dense=dense, objective=objective,
        density=density, timing=MemoryTiming(read_latency=read_latency,
                                             write_latency=write_latency,
                                             beat_interval=beat_interval))
    if explain:
        found = explanation_of(program, images)
        if not write_json(json_file, found.to_dict()):
            display(explanation_table(found), found.assumptions(), "",
                  f"The program: {found.bytes:,} bytes and {found.cycles:,} cycles.")
        return
    binding = program.bind(np.zeros((images, *program.network.image_shape), np.int8))
    if not write_json(json_file, {
            "images": images, "dense": dense, "memory_bytes": binding.bytes,
            "layers": [{"name": plan.layer.name, "tiles": tiling.tiles,
                        "jobs": plan.job_count, "weight_bytes": len(plan.stream),
                        "on_chip": index in binding.chip,
                        "compressed": index in binding.packed}
                       for index, (plan, tiling, _) in enumerate(binding.steps)]}):
        display(program_table(binding), f"{images} image{'s' * (images > 1)} on "
              f"{program.config.describe()}",
              f"Program, weights and room for every map: {binding.bytes:,} bytes of memory")


@app.command()
def simulate(
    network: _Network, images: _Images = "8", dense: _Dense = False,
    lanes: _Lanes = None, channels: _Channels = None, bus: _Bus = None,
    map_kib: _MapKib = None, chunks: _Chunks = None,
    read_latency: _ReadLatency = _TIMING.read_latency,
    write_latency: _WriteLatency = _TIMING.write_latency,
    beat_interval: _Interval = _TIMING.beat_interval, json_file: _Json = None,
    waves: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write waveforms, .fst or .vcd, with layouts for GTKWave (.gtkw) and "
                             "Surfer (.sucl) beside them. Slow and large: use one image.")] = None,
) -> None:
    """Run a network on the simulated hardware and show where its cycles and bytes go."""
    import hwgate
    from hwgate.evaluate import run_to_dict
    from hwgate.tables import counter_table, run_table, stream_table

    loaded, config, batch = _load(network, images, lanes, channels, bus, map_kib, chunks)
    timing = MemoryTiming(read_latency=read_latency, write_latency=write_latency,
                          beat_interval=beat_interval)
    with _progress() as (step, _):
        step("compile the program")
        program = hwgate.compile(loaded, config, dense=dense)
        step("build the simulator if need be, run the program")
        run = (hwgate.simulate(program, batch, timing) if waves is None
               else hwgate.simulate(program, batch, timing, waves=waves))
    if not write_json(json_file, {"images": len(batch), "dense": dense, **run_to_dict(run)}):
        display(run_table(run, images=len(batch)), counter_table(run), stream_table(run),
              f"{run.cycles / run.seconds:,.0f} RTL cycles per second of wall time",
              *([f"Waveforms: {waves}, layouts: {waves.with_suffix('.gtkw')}, "
                 f"{waves.with_suffix('.sucl')}"] if waves else []))


@app.command()
def compare(
    network: _Network, images: _Images = "8", dense: _Dense = False,
    lanes: _Lanes = None, channels: _Channels = None, bus: _Bus = None,
    map_kib: _MapKib = None, chunks: _Chunks = None,
    read_latency: _ReadLatency = _TIMING.read_latency,
    write_latency: _WriteLatency = _TIMING.write_latency,
    beat_interval: _Interval = _TIMING.beat_interval, json_file: _Json = None,
) -> None:
    """Run a network on hardware, golden model and cost model, and compare bit, cycle and byte.

    Ends with status 1 and the first difference if anything differs.
    """
    from hwgate.evaluate import run_to_dict, simulate_and_estimate
    from hwgate.tables import pair_table

    loaded, config, batch = _load(network, images, lanes, channels, bus, map_kib, chunks)
    timing = MemoryTiming(read_latency=read_latency, write_latency=write_latency,
                          beat_interval=beat_interval)
    with _progress() as (step, _):
        pair = simulate_and_estimate(loaded, config, batch, dense=dense, timing=timing, step=step)
    found = pair.comparison
    if not write_json(json_file, {
            "images": len(batch), "dense": dense, "equal": found.equal,
            "mismatches": found.mismatches, "psum_mismatches": found.psum_mismatches,
            "decision_mismatches": found.decision_mismatches,
            "cycle_difference": found.cycle_difference, "byte_difference": found.byte_difference,
            "counter_difference": found.counter_difference,
            "first": found.first.describe() if found.first else None,
            "rtl": run_to_dict(pair.rtl), "model": run_to_dict(pair.model)}):
        display(pair_table(pair, images=len(batch), gates="dense" if dense else "gated"),
              found.describe())
    raise typer.Exit(0 if found.equal else 1)


@app.command()
def info(json_file: _Json = None) -> None:
    """List the tools found, with versions, what to install, and the presets.

    Ends with status 2 if a tool that a simulation needs is missing.
    """
    import hwgate
    from hwgate.sim.toolchain import tools
    from hwgate.tables import tool_table

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


def main(arguments: list[str] | None = None) -> None:
    """Entry point; a :class:`UserError` becomes its sentence on stderr and an exit status."""
    try:
        app(arguments)
    except UserError as error:
        from hwgate.driver import EngineError

        _complain(str(error))
        sys.exit(1 if isinstance(error, EngineError) else 2)


def _config(name: str, lanes: int | None, channels: int | None,
            bus: int | None) -> AcceleratorConfig:
    return _changed(preset(name), lanes, channels, bus)


def _changed(config: AcceleratorConfig, lanes: int | None, channels: int | None,
             bus: int | None) -> AcceleratorConfig:
    """The configuration with the parts that the user named replaced."""
    changes: dict[str, Any] = {}
    if lanes is not None:
        changes["lanes"] = lanes
    if channels is not None:
        changes["channels"] = channels
    if bus is not None:
        changes["bus"] = BusConfig(data_bits=bus, address_bits=config.bus.address_bits,
                                   burst_beats=config.bus.burst_beats)
    return replace(config, **changes)


def _with_maps(config: AcceleratorConfig, map_kib: int | None,
               chunks: int | None) -> AcceleratorConfig:
    """The accelerator with other memories for maps, which change none of a network's numbers."""
    changes = {} if map_kib is None else {"map_bytes": map_kib << 10}
    changes |= {} if chunks is None else {"compressed_chunks": chunks}
    return replace(config, buffers=replace(config.buffers, **changes)) if changes else config


def _loaded(path: Path, map_kib: int | None, chunks: int | None) -> "QuantizedNetwork":
    from hwgate.artifacts import load_network

    network = load_network(path)
    return replace(network, config=_with_maps(network.config, map_kib, chunks))


def _load(path: Path, images: str, lanes: int | None, channels: int | None, bus: int | None,
          map_kib: int | None, chunks: int | None
          ) -> "tuple[QuantizedNetwork, AcceleratorConfig, NDArray[Any]]":
    """A saved network, the configuration to run it on, and a batch of images."""
    from hwgate.artifacts import load_images

    network = _loaded(path, map_kib, chunks)
    return network, _changed(network.config, lanes, channels, bus), load_images(images, network)


def _complain(sentence: str) -> None:
    print(sentence, file=sys.stderr)


@contextmanager
def _progress() -> Iterator[tuple[Any, Any]]:
    """Functions that show the current step, and the epochs done, on stderr."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from hwgate.tables import console

    with Progress(TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn(),
                  console=console(stderr=True)) as bars:
        current: list[Any] = []

        def finish() -> None:
            if current:
                bars.update(current[-1], total=1, completed=1)
                bars.stop_task(current[-1])

        def step(text: str) -> None:
            finish()
            current.append(bars.add_task(text[0].upper() + text[1:], total=None))

        def progress(epoch: "Epoch") -> None:
            bars.update(current[-1], total=epoch.epochs, completed=epoch.number,
                        description=f"Training, {epoch.describe()}")

        yield step, progress
        finish()


if __name__ == "__main__":
    main()
