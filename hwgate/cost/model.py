"""Cost model: cycles, bytes, MACs and energy of a program, from real decisions."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from hwgate.compiler.program import Program
from hwgate.cost.energy import LARGEST_SRAM, energy, sram
from hwgate.errors import expect
from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.machine.layouts import descriptor_layout
from hwgate.plan.layer import LayerPlan
from hwgate.quant.layer import layer_macs
from hwgate.results.run import LayerResult, RunResult
from hwgate.rtl.structs import CONTEXTS
from hwgate.schedule import LayerSchedule, OpenPixels, end_cycles, schedule_layer

__all__ = ["estimate"]

#: Bytes of the word that the energy table's memory accesses are counted in.
_ACCESS_BYTES = 8


def estimate(program: Program, images: NDArray[Any],
             timing: MemoryTiming | None = None) -> RunResult:
    """Predict a run: the same fields as :func:`hwgate.simulate`, and equal to them.

    The golden model computes outputs, psums and decisions; the decisions, the program and the
    timing of the memory determine everything else.

    Parameters
    ----------
    program : Program
    images : (N, C, H, W)
        int8, already quantized, or float.
    timing : MemoryTiming, optional

    Returns
    -------
    RunResult
        With source ``"model"``. ``seconds`` is the wall time of the schedule alone, without the
        golden model.

    Raises
    ------
    UserError
        If the images do not fit the network.
    """
    expect("Program", program, Program, hint="hwgate.compile makes one")
    expect("Timing", timing, MemoryTiming, type(None))
    timing, config = timing or MemoryTiming(), program.config
    binding = program.bind(images)
    activations = program.network.run(binding.images)
    begin = time.perf_counter()
    schedules: list[LayerSchedule] = []
    seen = dict(zip((plan.layer.name for plan in program.plans), activations, strict=True))
    last: LayerSchedule | None = None
    for index, (plan, tiling, descriptor) in enumerate(binding.steps):
        opened = None
        if plan.layer.gated:
            opened = OpenPixels.of(seen[plan.layer.name].decision, tiling, plan.layer.limit)
        stored = binding.stored(index, lambda use: activations[use].output)
        last = schedule_layer(config, timing, plan, descriptor, opened, last, stored)
        schedules.append(last)
    assert last is not None
    layers = []
    for plan, schedule in zip(program.plans, schedules, strict=True):
        layer = plan.layer
        layers.append(LayerResult(
            name=layer.name, macs_dense=layer.macs * len(binding.images),
            macs=layer_macs(layer, seen[layer.name].decision),
            cycles=schedule.cycles, bytes=schedule.bytes, lanes=tuple(schedule.lanes),
            activations=seen[layer.name], gated=layer.gated))
    return RunResult(
        source="model", layers=tuple(layers), end_cycles=end_cycles(config, timing, last),
        end_bytes=descriptor_layout().size_bytes, multipliers=config.multipliers,
        seconds=time.perf_counter() - begin, energy=_energy(
            config, program.plans, layers, schedules))


def _requantized(plan: LayerPlan, layer: LayerResult) -> int:
    """Outputs, and those that a job after its score makes before its open pixels are known."""
    decision = layer.activations.decision
    return decision.size + (int(decision.sum()) if plan.scores else 0)


def _energy(config: AcceleratorConfig, plans: Sequence[LayerPlan], layers: Sequence[LayerResult],
            schedules: Sequence[LayerSchedule]) -> Mapping[str, float]:
    """Joules by contributor, from what the layers counted and moved within the chip."""
    windows = sum(lane["base"] + lane["conditional"] for layer in layers for lane in layer.lanes)
    products = windows * config.block_bytes
    requantized = sum(_requantized(plan, layer) for plan, layer in zip(plans, layers, strict=True))
    decisions = sum(layer.activations.decision[:, 0].size * plan.deciding
                    for plan, layer in zip(plans, layers, strict=True))
    window_bytes = config.block_bytes * 2 * config.buffers.window_words
    psum_bytes = CONTEXTS * 4 * config.buffers.pixels
    memories = {}
    if config.buffers.map_bytes:
        bank = min(config.buffers.map_bytes, LARGEST_SRAM)
        moved = sum(schedule.chip_bytes for schedule in schedules)
        memories["map memory"] = (sram(bank), moved / _ACCESS_BYTES)
    if config.buffers.weight_bytes:
        bank = min(config.buffers.weight_bytes, LARGEST_SRAM)
        moved = sum(schedule.kept_bytes for schedule in schedules)
        memories["weight memory"] = (sram(bank), moved / _ACCESS_BYTES)
    return energy({
        "multiply": ("multiply8", products), "add": ("add32", products),
        "compare": ("compare32", decisions), "requantize": ("add32", 2 * requantized),
        "window memory": (sram(window_bytes), products / _ACCESS_BYTES),
        "psum memory": (sram(psum_bytes), 2 * windows * 4 / _ACCESS_BYTES),
        "off-chip": ("dram", sum(layer.bytes_total for layer in layers) / _ACCESS_BYTES),
        **memories})
