"""Schedule of one layer: when it ends, and what it counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.machine.counters import STREAMS
from hwgate.machine.layouts import descriptor_layout
from hwgate.plan.layer import LayerPlan
from hwgate.plan.stored import StoredMap
from hwgate.rtl.reader import CHOICE_CYCLES, GRANT_LATENCY, read_beat_latency
from hwgate.rtl.sequencer import DECODE_CYCLES, FINISH_CYCLES
from hwgate.schedule.maps import load, load_residual
from hwgate.schedule.open_pixels import OpenPixels
from hwgate.schedule.passes import issue
from hwgate.schedule.state import Block, LayerState
from hwgate.schedule.store import store
from hwgate.schedule.waiting_store import waiting_store
from hwgate.schedule.weights import fetch_conditional, fetch_jobs

__all__ = ["LayerSchedule", "end_cycles", "schedule_layer"]


@dataclass
class LayerSchedule:
    """When a layer ends, and what it counted.

    Parameters
    ----------
    cycles : int
        From the end of the previous layer to the end of this one.
    bytes : mapping of stream to bytes
    lanes : list of mappings
        Lane counters; each adds up to ``cycles``.
    quiet : int
        Cycles from the last beat that was read to the end.
    chip_bytes : int
        Read from and written to the on-chip map memory.
    kept_bytes : int
        Read from and written to the on-chip weight memory.
    """

    cycles: int
    bytes: dict[str, int]
    lanes: list[dict[str, int]]
    quiet: int
    chip_bytes: int
    kept_bytes: int


def end_cycles(config: AcceleratorConfig, timing: MemoryTiming, last: LayerSchedule) -> int:
    """Cycles from the end of the last layer to done: the fetch of the end of the program."""
    return _descriptor_cycles(config, timing, last)


def _descriptor_cycles(config: AcceleratorConfig, timing: MemoryTiming,
                       previous: LayerSchedule | None) -> int:
    """Cycles from the end of the previous layer, or the start of the program, to a layer's start.

    In between, its descriptor is fetched.
    """
    beats = descriptor_layout().size_bytes // config.bus.bytes
    request = 1 if previous is None else FINISH_CYCLES
    first = request + CHOICE_CYCLES + GRANT_LATENCY + timing.read_latency
    if previous is not None:
        first = max(first, timing.beat_interval - previous.quiet)
    return (first + (beats - 1) * timing.beat_interval + read_beat_latency(config)
            + DECODE_CYCLES)


def schedule_layer(config: AcceleratorConfig, timing: MemoryTiming, plan: LayerPlan,
                   descriptor: Mapping[str, int], opened: OpenPixels | None,
                   previous: LayerSchedule | None,
                   stored: Mapping[str, StoredMap] = MappingProxyType({})) -> LayerSchedule:
    """Schedule a layer.

    Parameters
    ----------
    config, timing
        Accelerator and memory.
    plan : LayerPlan
    descriptor : mapping
        Descriptor fields with addresses and tile count, as the compiler binds them.
    opened : OpenPixels or None
        Decisions of the layer; None for an ungated layer.
    previous : LayerSchedule or None
        Of the layer before; None for the first of the program.
    stored : mapping of ``"in"``, ``"res"``, ``"out"`` to StoredMap
        Its compressed maps.
    """
    before = _descriptor_cycles(config, timing, previous)
    layer = LayerState(config, timing, plan, descriptor, opened, stored)
    layer.run(_blocks(layer))
    lanes = []
    for lane in layer.lanes:
        busy = sum(lane.counters.values())
        lanes.append(lane.counters | {"idle": before + layer.end - busy})
    layer_bytes = dict.fromkeys(STREAMS, 0) | layer.bytes
    layer_bytes["program"] = descriptor_layout().size_bytes
    return LayerSchedule(before + layer.end, layer_bytes, lanes, layer.end - layer.last_beat,
                         layer.chip_bytes, layer.kept_bytes)


def _blocks(layer: LayerState) -> list[Block]:
    """Every block of the engine; those that read know their place at the read arbiter."""
    count = len(layer.lanes)
    waits = layer.timing.shared and not layer.d["out_chip"]
    stores = waiting_store(layer) if waits else [store(layer)]
    blocks = [*stores, load(layer, 1 + 2 * count), load_residual(layer, 2 + 2 * count)]
    for n, lane in enumerate(layer.lanes):
        blocks += [issue(layer, lane), fetch_jobs(layer, lane, 1 + count + n),
                   fetch_conditional(layer, lane, 1 + n)]
    return blocks
