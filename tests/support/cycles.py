"""Blocks without handshakes, cycle by cycle, for cocotb benches.

A *trace* has one entry per cycle. Inputs are driven just after the rising edge that begins a
cycle, outputs sampled in its middle, so what a register takes in cycle t is seen in cycle t+1.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from cocotb.triggers import FallingEdge, RisingEdge

__all__ = ["assert_delayed", "bits", "ordered_pairs", "play"]


def bits(value: int, width: int) -> int:
    """Two's complement of ``value`` in ``width`` bits, which must suffice, signed or not."""
    assert -(1 << width - 1) <= value < 1 << width, (value, width)
    return value & (1 << width) - 1


def ordered_pairs(items: Iterable[Any]) -> list[Any]:
    """A sequence in which every item directly follows every item, itself included."""
    known = list(items)
    return [item for first in known for second in known for item in (first, second)]


async def play(dut: Any, inputs: Iterable[Mapping[str, int]], outputs: Sequence[str], *,
               after: int = 0) -> list[tuple[int, ...]]:
    """Drive one mapping of port to bits per cycle; return the trace of ``outputs``.

    A port keeps its value until it is named again, and is zero in the end. The trace goes on for
    ``after`` cycles.
    """
    driven: dict[str, int] = {}
    ports = [getattr(dut, name) for name in outputs]
    trace = []
    for values in chain(inputs, repeat({}, after)):
        for name, value in values.items():
            if driven.get(name) != value:
                getattr(dut, name).value = driven[name] = int(value)
        await FallingEdge(dut.clk)
        trace.append(tuple(int(port.value) for port in ports))
        await RisingEdge(dut.clk)
    for name in driven:
        getattr(dut, name).value = 0
    return trace


def assert_delayed(trace: Sequence[tuple[int, ...]], latency: int,
                   expected: Sequence[tuple[int, ...] | None]) -> None:
    """Fail at the first cycle t whose outputs in cycle t + ``latency`` are not ``expected[t]``.

    Cycles for which None is expected are not looked at; there must be others.
    """
    assert any(values is not None for values in expected)
    for cycle, values in enumerate(expected):
        if values is not None:
            seen = trace[cycle + latency]
            assert seen == values, (f"inputs of cycle {cycle}: outputs {seen}, not {values}, "
                                    f"{latency} cycles later")
