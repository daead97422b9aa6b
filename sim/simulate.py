"""Runs a compiled program on the accelerator's Verilog and returns all that the monitor saw."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwgate.config import MemoryTiming
from hwgate.counters import LANE_COUNTERS, STREAMS
from hwgate.driver import EngineError
from hwgate.quant.network import Activations, QuantizedLayer
from hwgate.regs import ErrorCause, counter_names
from hwgate.results import LayerResult, RunResult
from hwgate.sim.engine import run_engine
from hwgate.sim.records import Outcome, Start

if TYPE_CHECKING:
    from hwgate.compiler import Program

__all__ = ["default_deadline", "simulate"]

#: A run may take this many times the cycles of its bounds before it counts as hung.
_PATIENCE = 64


def simulate(program: "Program", images: NDArray[Any], timing: MemoryTiming | None = None, *,
             deadline: int | None = None, waves: Path | None = None) -> RunResult:
    """Run the Verilog of ``program.config`` in Verilator on a batch of images.

    The first call for a configuration compiles the simulator; later ones find it in the cache.

    Parameters
    ----------
    program : Program
    images : (N, C, H, W)
        int8, already quantized, or float.
    timing : MemoryTiming, optional
        Of the off-chip memory.
    deadline : int, optional
        Cycles after which the engine counts as hung.
    waves : Path, optional
        FST file to write; slow.

    Returns
    -------
    RunResult
        With source ``"rtl"``: outputs from memory, psums and decisions from the monitor, cycles,
        bytes and lane counters per layer from the engine's counters. ``seconds`` is the wall time
        of the simulated cycles alone.

    Raises
    ------
    EngineError
        If the engine stops with an error, hangs, breaks the bus protocol, or does not produce
        every output exactly once.
    ToolError
        If a tool is missing or fails.
    UserError
        If the images do not fit the network.
    """
    binding = program.bind(images)
    layers, count = program.network.layers, len(images)
    if deadline is None:
        deadline = default_deadline(program, count, binding.memory.size)
    start = Start(program_address=binding.program_address, memory=binding.memory,
                  deadline=deadline)
    outcome, = run_engine(program.config, [start], timing=timing or MemoryTiming(), waves=waves)
    _check(outcome, layers, deadline)

    names = counter_names(program.config)
    # Counters wrap at 32 bits, and so do these differences.
    steps = np.diff(outcome.snapshots, axis=0, prepend=np.zeros((1, len(names)), np.uint32))
    final = np.array([outcome.counters[name] for name in names], np.uint32)
    end = dict(zip(names, map(int, final - outcome.snapshots[-1]), strict=True))
    results = []
    for index, (layer, row) in enumerate(zip(layers, steps, strict=True)):
        counted = dict(zip(names, map(int, row), strict=True))
        psum, decision = _scatter(outcome.events[outcome.events["layer"] == index], layer, count)
        output = np.asarray(binding.read_output(outcome.memory, index))
        results.append(LayerResult(
            name=layer.name, macs_dense=layer.macs * count, macs=_macs(layer, decision),
            cycles=counted["cycles"],
            bytes={stream: counted[f"bytes_{stream}"] for stream in STREAMS},
            lanes=tuple({counter: counted[f"lane{lane}_{counter}"] for counter in LANE_COUNTERS}
                        for lane in range(program.config.lanes)),
            activations=Activations(output=output, psum=psum, decision=decision),
            gated=layer.gated))
    return RunResult(
        source="rtl", layers=tuple(results), end_cycles=end["cycles"],
        end_bytes=sum(end[f"bytes_{stream}"] for stream in STREAMS),
        multipliers=program.config.multipliers, seconds=outcome.seconds)


def default_deadline(program: "Program", images: int, memory_bytes: int) -> int:
    """Cycles that no run of ``images`` images should ever need: a bound far above any estimate."""
    config = program.config
    macs = sum(layer.macs for layer in program.network.layers) * images
    return 1_000_000 + _PATIENCE * (macs // config.multipliers
                                    + memory_bytes // config.bus.bytes)


def _check(outcome: Outcome, layers: tuple[QuantizedLayer, ...], deadline: int) -> None:
    """Raise unless the run ended well."""
    finished = outcome.status.layers
    where = (f"in layer {layers[finished].name!r} ({finished + 1} of {len(layers)})"
             if finished < len(layers) else "after the last layer")
    if outcome.fault:
        raise EngineError(f"The engine broke the bus protocol {where}: {outcome.fault}")
    if outcome.late:
        raise EngineError(f"The engine was not done after {deadline} cycles; it was {where}")
    cause = outcome.status.error
    if cause is not ErrorCause.NONE:
        raise EngineError(f"The engine stopped with error {cause.name} {where}: {cause.doc}", cause)
    if finished != len(layers) or len(outcome.snapshots) != len(layers):
        raise EngineError(f"The engine must finish {len(layers)} layers, but reports {finished} "
                          f"and signalled {len(outcome.snapshots)}")
    if outcome.events.size and (last := int(outcome.events["layer"].max())) >= len(layers):
        raise EngineError(f"The monitor saw an output in layer {last + 1} of {len(layers)}")


def _scatter(events: NDArray[Any], layer: QuantizedLayer,
             images: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Psums and decisions (N, Co, H, W) of a layer from its events, each present once."""
    channels, height, width = layer.decision_shape
    pixels = height * width
    for name, limit in (("tile", images), ("channel", channels), ("pixel", pixels)):
        wrong = events[name][events[name] >= limit]
        if wrong.size:
            raise EngineError(f"Layer {layer.name!r} must have events of {name} 0..{limit - 1}, "
                              f"but the monitor saw {name} {wrong[0]}")
    place = (events["tile"].astype(np.int64) * channels + events["channel"]) * pixels
    place += events["pixel"]
    seen = np.bincount(place, minlength=images * channels * pixels)
    if (seen != 1).any():
        first = int(np.argmax(seen != 1))
        raise EngineError(
            f"Layer {layer.name!r} must produce every output once, but it produced image "
            f"{first // (channels * pixels)}, channel {first // pixels % channels}, "
            f"pixel {first % pixels} {seen[first]} times")
    psum, decision = np.empty(seen.size, np.int64), np.empty(seen.size, bool)
    psum[place], decision[place] = events["psum"], events["decision"]
    shape = (images, channels, height, width)
    return psum.reshape(shape), decision.reshape(shape)


def _macs(layer: QuantizedLayer, decision: NDArray[np.bool_]) -> int:
    """Multiply-accumulates as decided: base everywhere, conditional where a gate opened."""
    images, (_, height, width) = len(decision), layer.conv_shape
    windows = height * width // (decision.shape[2] * decision.shape[3])
    opened = decision.sum(axis=(0, 2, 3)) * windows
    conditional = (~layer.base).sum(axis=1) * layer.kernel**2
    return images * layer.base_macs + int(opened @ conditional)
