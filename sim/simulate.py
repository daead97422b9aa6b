"""Runs a compiled program on the accelerator's Verilog and returns all that the monitor saw."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.compiler.program import Binding, Program, Step
from hwgate.errors import UserError, expect
from hwgate.machine.config import MemoryTiming
from hwgate.machine.counters import LANE_COUNTERS, STREAMS
from hwgate.machine.driver import EngineError
from hwgate.machine.regs import ErrorCause, counter_names
from hwgate.quant.layer import Activations, QuantizedLayer, layer_macs
from hwgate.quant.network import check_images
from hwgate.results.run import LayerResult, RunResult
from hwgate.sim.engine import run_engine
from hwgate.sim.records import Outcome, Start

__all__ = ["default_deadline", "simulate", "simulate_each"]

#: What says which output an event is of.
_PLACE = ("image", "channel", "pixel")
#: A run may take this many times the cycles of its bounds before it counts as hung.
_PATIENCE = 64
#: Runs of :func:`simulate_each` that one simulator process does at most; bounds its memory.
_RUNS = 16


def simulate(program: Program, images: NDArray[Any], timing: MemoryTiming | None = None, *,
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
        Waveforms to write, ``.fst`` or ``.vcd``, with viewer layouts beside them; slow.

    Returns
    -------
    RunResult
        With source ``"rtl"``: outputs from memory, or what was written on chip, psums and decisions
        from the monitor, cycles, bytes and lane counters per layer from the engine's counters.
        ``seconds`` is the wall time of the simulated cycles alone.

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
    _expect(program, timing)
    expect("Deadline", deadline, Integral, type(None))
    expect("Path of waveforms", waves, str, PathLike, type(None))
    binding = program.bind(images)
    start = _start(program, binding, len(images), deadline)
    outcome, = run_engine(program.config, [start], timing=timing or MemoryTiming(), waves=waves)
    return _result(program, binding, outcome, len(images), start.deadline)


def simulate_each(program: Program, images: NDArray[Any], timing: MemoryTiming | None = None, *,
                  batch: int = 1, jobs: int | None = None) -> Iterator[RunResult]:
    """Run images apart, ``batch`` at a time, spread over processes.

    Each result is that of ``simulate(program, part, timing)``, cycles and bytes included: the
    engine starts anew and fetches the weights again for every part. One run over all images is
    another thing, in which the images of a batch share weights; :func:`simulate` does that.

    Parameters
    ----------
    program : Program
    images : (N, C, H, W)
        int8, already quantized, or float.
    timing : MemoryTiming, optional
    batch : int
        Images of a run; the last run may have fewer.
    jobs : int, optional
        Simulator processes at a time; default one for each core.

    Yields
    ------
    RunResult
        In the order of the images. Only a few runs are kept, so there may be thousands.

    Raises
    ------
    EngineError, ToolError, UserError
        As :func:`simulate`; also for a batch or jobs below 1.
    """
    _expect(program, timing)
    images = check_images(images, program.network.image_shape)
    for what, value in (("Batch", batch), ("Number of jobs", jobs)):
        expect(what, value, Integral, type(None))
        if value is not None and value < 1:
            raise UserError(f"{what} must be at least 1, not {value}")
    workers = jobs or os.cpu_count() or 1
    parts = [images[first:first + batch] for first in range(0, len(images), batch)]
    size = max(1, min(_RUNS, -(-len(parts) // workers)))
    return _spread(program, [parts[first:first + size] for first in range(0, len(parts), size)],
                   timing or MemoryTiming(), workers)


def _expect(program: Program, timing: MemoryTiming | None) -> None:
    expect("Program", program, Program, hint="hwgate.compile makes one")
    expect("Timing", timing, MemoryTiming, type(None))


def _spread(program: Program, chunks: Sequence[list[NDArray[Any]]], timing: MemoryTiming,
            jobs: int) -> Iterator[RunResult]:
    """Results of chunks of runs; a chunk is one process, and at most ``jobs`` wait to be taken."""
    def run(parts: list[NDArray[Any]]) -> list[RunResult]:
        bindings = [program.bind(part) for part in parts]
        starts = [_start(program, binding, len(part), None)
                  for binding, part in zip(bindings, parts, strict=True)]
        outcomes = run_engine(program.config, starts, timing=timing)
        return [_result(program, binding, outcome, len(part), start.deadline)
                for binding, outcome, part, start in zip(bindings, outcomes, parts, starts,
                                                         strict=True)]

    with ThreadPoolExecutor(jobs) as pool:
        waiting: deque[Future[list[RunResult]]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(run, chunk))
            if len(waiting) >= jobs:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _start(program: Program, binding: Binding, images: int, deadline: int | None) -> Start:
    if deadline is None:
        deadline = default_deadline(program, images, binding.memory.size)
    return Start(program_address=binding.program_address, memory=binding.memory, deadline=deadline)


def _result(program: Program, binding: Binding, outcome: Outcome, count: int,
            deadline: int) -> RunResult:
    """The run of ``count`` images that the outcome of their start shows."""
    layers = program.network.layers
    _check(outcome, [plan.layer.name for plan, _, _ in binding.steps], deadline)

    names = counter_names(program.config)
    # Counters wrap at 32 bits, and so do these differences.
    steps = np.diff(outcome.snapshots, axis=0, prepend=np.zeros((1, len(names)), np.uint32))
    final = np.array([outcome.counters[name] for name in names], np.uint32)
    end = dict(zip(names, map(int, final - outcome.snapshots[-1]), strict=True))
    results = []
    for index, (layer, step, row) in enumerate(zip(layers, binding.steps, steps, strict=True)):
        total = dict(zip(names, map(int, row), strict=True))
        seen = outcome.events[outcome.events["layer"] == index]
        seen, scored = (seen[seen["score"] == kind] for kind in (0, 1))
        psum, decision = _scatter(_places(step, seen), seen, layer, count)
        output = np.asarray(binding.read_output(outcome.memory, index, outcome.chip))
        results.append(LayerResult(
            name=layer.name, macs_dense=layer.macs * count, macs=layer_macs(layer, decision),
            cycles=total["cycles"],
            bytes={stream: total[f"bytes_{stream}"] for stream in STREAMS},
            lanes=tuple({counter: total[f"lane{lane}_{counter}"] for counter in LANE_COUNTERS}
                        for lane in range(program.config.lanes)),
            activations=Activations(output=output, psum=psum, decision=decision,
                                    score=_scores(_places(step, scored), scored, layer, count)),
            gated=layer.gated))
    return RunResult(
        source="rtl", layers=tuple(results), end_cycles=end["cycles"],
        end_bytes=sum(end[f"bytes_{stream}"] for stream in STREAMS),
        multipliers=program.config.multipliers, seconds=outcome.seconds)


def default_deadline(program: Program, images: int, memory_bytes: int) -> int:
    """Cycles that no run of ``images`` images should ever need: a bound far above any estimate."""
    config = program.config
    macs = sum(layer.macs for layer in program.network.layers) * images
    return 1_000_000 + _PATIENCE * (macs // config.multipliers
                                    + memory_bytes // config.bus.bytes)


def _check(outcome: Outcome, names: list[str], deadline: int) -> None:
    """Raise unless the run ended well; ``names`` has the layer of each descriptor."""
    finished = outcome.status.layers
    where = (f"in layer {names[finished]!r} ({finished + 1} of {len(names)})"
             if finished < len(names) else "after the last layer")
    if outcome.fault:
        raise EngineError(f"The engine broke the bus protocol {where}: {outcome.fault}")
    if outcome.late:
        raise EngineError(f"The engine was not done after {deadline} cycles; it was {where}")
    cause = outcome.status.error
    if cause is not ErrorCause.NONE:
        raise EngineError(f"The engine stopped with error {cause.name} {where}: {cause.doc}", cause)
    if finished != len(names) or len(outcome.snapshots) != len(names):
        raise EngineError(f"The engine must finish {len(names)} layers, but reports {finished} "
                          f"and signalled {len(outcome.snapshots)}")
    if outcome.events.size and (last := int(outcome.events["layer"].max())) >= len(names):
        raise EngineError(f"The monitor saw an output in layer {last + 1} of {len(names)}")


def _places(step: Step, events: NDArray[Any]) -> NDArray[np.int64]:
    """(image, channel, pixel) of each event of one layer."""
    tiling, pitch = step.tiling, step.descriptor["slot_pixels"]
    tile, channel, index = (events[field].astype(np.int64)
                            for field in ("tile", "channel", "pixel"))
    number, band = np.divmod(tile, len(tiling.bands))
    image = np.minimum(index // pitch, tiling.per_tile - 1)
    first = np.array([band.first for band in tiling.bands]) * step.plan.layer.conv_shape[2]
    return np.stack([number * tiling.per_tile + image, channel,
                     index - image * pitch + first[band]], axis=1)


def _flat(where: NDArray[np.int64], layer: QuantizedLayer, images: int) -> NDArray[np.int64]:
    """Places (image, channel, pixel) of a layer as numbers."""
    channels, height, width = layer.decision_shape
    shape = images, channels, height * width
    for field, limit, column in zip(_PLACE, shape, where.T, strict=True):
        wrong = column[column >= limit]
        if wrong.size:
            raise EngineError(f"Layer {layer.name!r} must have events of {field} 0..{limit - 1}, "
                              f"but the monitor saw {field} {wrong[0]}")
    return np.asarray((where[:, 0] * channels + where[:, 1]) * shape[2] + where[:, 2])


def _scores(where: NDArray[np.int64], events: NDArray[Any], layer: QuantizedLayer,
            images: int) -> NDArray[np.int64] | None:
    """Psums (N, gates, H, W) of a layer's scores, of each from every lane that has computed it;
    None if no gates are shared."""
    _flat(where, layer, images)
    if layer.gate is None:
        if events.size:
            raise EngineError(f"Layer {layer.name!r} must have no score, but the monitor saw one")
        return None
    _, height, width = layer.decision_shape
    gates, pixels = int(layer.gate.max()) + 1, height * width
    place = (where[:, 0] * gates + layer.gate[where[:, 1]]) * pixels + where[:, 2]
    psum = np.zeros(images * gates * pixels, np.int64)
    seen = np.zeros(psum.size, bool)
    psum[place], seen[place] = events["psum"], True
    if not seen.all() or (psum[place] != events["psum"]).any():
        raise EngineError(f"Layer {layer.name!r} must compute every score, and the same in every "
                          "lane")
    return psum.reshape(images, gates, height, width)


def _scatter(where: NDArray[np.int64], events: NDArray[Any], layer: QuantizedLayer,
             images: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Psums and decisions (N, Co, H, W) of a layer from its events at (image, channel, pixel).

    With a limit or shared gates, a closed output may come before the open one that takes its place.
    """
    channels, height, width = layer.decision_shape
    pixels = height * width
    place = _flat(where, layer, images)
    if layer.limit or layer.gate is not None:
        newest, order = np.zeros(images * channels * pixels, np.int64), np.arange(len(place))
        newest[place] = order
        replaced = ((newest[place] != order) & (events["decision"] == 0)
                    & (events["decision"][newest[place]] == 1))
        place, events = place[~replaced], events[~replaced]
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
