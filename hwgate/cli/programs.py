"""The commands that compile a network, run it on the simulated hardware, and compare."""

from pathlib import Path
from typing import Annotated

import typer

from hwgate.cli.options import (
    TIMING,
    BeatInterval,
    Bus,
    Channels,
    Chunks,
    Dense,
    Images,
    Json,
    Lanes,
    MapKib,
    Network,
    ReadLatency,
    SharedBus,
    WriteLatency,
    load,
    load_batch,
)
from hwgate.cli.progress import steps
from hwgate.machine.config import MemoryTiming
from hwgate.plan.goal import DENSITY, OBJECTIVES
from hwgate.show.output import display, fidelity_line, write_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `compile`, `simulate` and `compare` to a command line."""
    for command in (compile, simulate, compare):
        app.command()(command)


def compile(
    network: Network,
    images: Annotated[int, typer.Option(help="Images in the batch.")] = 1,
    dense: Dense = False,
    explain: Annotated[bool, typer.Option(
        "--explain", help="List what the compiler compared, and what each would cost.")
    ] = False,
    objective: Annotated[str, typer.Option(
        help=f"What to choose by: {', '.join(OBJECTIVES)}.")] = "balanced",
    density: Annotated[float, typer.Option(
        help="Share of open gates to choose for, 0..1.")] = DENSITY,
    map_kib: MapKib = None, chunks: Chunks = None,
    read_latency: ReadLatency = TIMING.read_latency,
    write_latency: WriteLatency = TIMING.write_latency,
    beat_interval: BeatInterval = TIMING.beat_interval, shared_bus: SharedBus = TIMING.shared,
    json_file: Json = None,
) -> None:
    """Compile a network and show the program, or why it is as it is.

    Shows, too, how closely each layer's integers follow the float model.
    """
    import numpy as np

    import hwgate
    from hwgate.compiler.explanation import explain as explanation_of
    from hwgate.show.tables import explanation_table, fidelity_table, program_table

    loaded = load(network, map_kib, chunks)
    program = hwgate.compile(
        loaded, dense=dense, objective=objective,
        density=density, timing=MemoryTiming(read_latency=read_latency,
                                             write_latency=write_latency,
                                             beat_interval=beat_interval, shared=shared_bus))
    if explain:
        found = explanation_of(program, images)
        if not write_json(json_file, found.to_dict()):
            display(explanation_table(found), found.assumptions(), "",
                  f"The program: {found.bytes:,} bytes and {found.cycles:,} cycles.")
        return
    binding = program.bind(np.zeros((images, *program.network.image_shape), np.int8))
    if not write_json(json_file, {
            "images": images, "dense": dense, "memory_bytes": binding.bytes,
            "fidelity": loaded.fidelity and loaded.fidelity.to_dict(),
            "layers": [{"name": plan.layer.name, "tiles": tiling.tiles,
                        "jobs": plan.job_count, "weight_bytes": len(plan.stream),
                        "on_chip": binding.where(index) == "on chip",
                        "compressed": binding.where(index).endswith("compressed")}
                       for index, (plan, tiling, _) in enumerate(binding.steps)]}):
        display(program_table(binding), f"{images} image{'s' * (images > 1)} on "
              f"{program.config.describe()}",
              f"Program, weights and room for every map: {binding.bytes:,} bytes of memory",
              *([] if loaded.fidelity is None else
                ["", fidelity_table(loaded.fidelity, loaded.config.formats)]),
              fidelity_line(loaded.fidelity))


def simulate(
    network: Network, images: Images = "8", dense: Dense = False,
    lanes: Lanes = None, channels: Channels = None, bus: Bus = None,
    map_kib: MapKib = None, chunks: Chunks = None,
    read_latency: ReadLatency = TIMING.read_latency,
    write_latency: WriteLatency = TIMING.write_latency,
    beat_interval: BeatInterval = TIMING.beat_interval, shared_bus: SharedBus = TIMING.shared,
    json_file: Json = None,
    waves: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Write waveforms, .fst or .vcd, with layouts for GTKWave (.gtkw) and "
                             "Surfer (.sucl) beside them. Slow and large: use one image.")] = None,
) -> None:
    """Run a network on the simulated hardware and show where its cycles and bytes go."""
    import hwgate
    from hwgate.evaluation.against_dense import run_to_dict
    from hwgate.show.tables import counter_table, run_table, stream_table

    loaded, config, batch = load_batch(network, images, lanes, channels, bus, map_kib, chunks)
    timing = MemoryTiming(read_latency=read_latency, write_latency=write_latency,
                          beat_interval=beat_interval, shared=shared_bus)
    with steps() as (step, _):
        step("compile the program")
        program = hwgate.compile(loaded, config, dense=dense)
        step("build the simulator if need be, run the program")
        run = (hwgate.simulate(program, batch, timing) if waves is None
               else hwgate.simulate(program, batch, timing, waves=waves))
    if not write_json(json_file, {
            "images": len(batch), "dense": dense,
            "fidelity": loaded.fidelity and loaded.fidelity.to_dict(), **run_to_dict(run)}):
        display(run_table(run, images=len(batch)), counter_table(run), stream_table(run),
              f"{run.cycles / run.seconds:,.0f} RTL cycles per second of wall time",
              fidelity_line(loaded.fidelity),
              *([f"Waveforms: {waves}, layouts: {waves.with_suffix('.gtkw')}, "
                 f"{waves.with_suffix('.sucl')}"] if waves else []))


def compare(
    network: Network, images: Images = "8", dense: Dense = False,
    lanes: Lanes = None, channels: Channels = None, bus: Bus = None,
    map_kib: MapKib = None, chunks: Chunks = None,
    read_latency: ReadLatency = TIMING.read_latency,
    write_latency: WriteLatency = TIMING.write_latency,
    beat_interval: BeatInterval = TIMING.beat_interval, shared_bus: SharedBus = TIMING.shared,
    json_file: Json = None,
) -> None:
    """Run a network on hardware, golden model and cost model, and compare bit, cycle and byte.

    Ends with status 1 and the first difference if anything differs.
    """
    from hwgate.evaluation.against_dense import run_to_dict, simulate_and_estimate
    from hwgate.show.tables import pair_table

    loaded, config, batch = load_batch(network, images, lanes, channels, bus, map_kib, chunks)
    timing = MemoryTiming(read_latency=read_latency, write_latency=write_latency,
                          beat_interval=beat_interval, shared=shared_bus)
    with steps() as (step, _):
        pair = simulate_and_estimate(loaded, config, batch, dense=dense, timing=timing, step=step)
    found = pair.comparison
    if not write_json(json_file, {
            "images": len(batch), "dense": dense, "equal": found.equal,
            "fidelity": loaded.fidelity and loaded.fidelity.to_dict(),
            "mismatches": found.mismatches, "psum_mismatches": found.psum_mismatches,
            "decision_mismatches": found.decision_mismatches,
            "cycle_difference": found.cycle_difference, "byte_difference": found.byte_difference,
            "counter_difference": found.counter_difference,
            "first": found.first.describe() if found.first else None,
            "rtl": run_to_dict(pair.rtl), "model": run_to_dict(pair.model)}):
        display(pair_table(pair, images=len(batch), gates="dense" if dense else "gated"),
              fidelity_line(loaded.fidelity), found.describe())
    raise typer.Exit(0 if found.equal else 1)
