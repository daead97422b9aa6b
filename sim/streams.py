"""Stream traffic with gaps, for cocotb benches of single blocks; see :mod:`hwgate.sim.block`.

Everything is driven just after a rising edge of ``dut.clk`` and sampled at the falling one.
A *gap pattern* is a sequence of bits, repeated for ever, in which 1 means "not in this cycle".
"""

import json
import os
from collections.abc import Iterable, Sequence
from itertools import chain, cycle
from typing import Any

from amaranth.hdl import Const, Shape, ValueCastable
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

__all__ = ["pack", "parameters", "receive", "send", "start", "unpack"]

_PERIOD = 10  # ns


def parameters() -> dict[str, Any]:
    """What the pytest side passed as ``parameters`` to :func:`hwgate.sim.block.run_block`."""
    found: dict[str, Any] = json.loads(os.environ["HWGATE_PARAMETERS"])
    return found


async def start(dut: Any, *, reset_cycles: int = 2) -> None:
    """Run the clock, reset, and return just after a rising edge."""
    Clock(dut.clk, _PERIOD, unit="ns").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, reset_cycles)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


async def send(dut: Any, stream: str, payloads: Iterable[int], *,
               gaps: Sequence[int] = ()) -> None:
    """Send every payload; the payload is all ones whenever ``valid`` is low.

    Returns in the cycle after the last one was taken.

    Parameters
    ----------
    dut : handle
    stream : str
        Name of the stream port, such as ``i``.
    payloads : iterable of int
        Bits; see :func:`pack` for structures.
    gaps : sequence of bits
    """
    valid, ready, payload = _members(dut, stream)
    pauses = cycle(chain(gaps, [0]))
    for value in payloads:
        while next(pauses):
            await RisingEdge(dut.clk)
        if payload is not None:
            payload.value = value
        valid.value, taken = 1, False
        while not taken:
            await FallingEdge(dut.clk)
            taken = bool(ready.value)
            await RisingEdge(dut.clk)
        valid.value = 0
        if payload is not None:
            payload.value = (1 << len(payload)) - 1


async def receive(dut: Any, stream: str, count: int, *, gaps: Sequence[int] = ()) -> list[int]:
    """Take ``count`` payloads as bits, and check that an offer stays until it is taken.

    Returns in the cycle after the last one was taken; parameters as for :func:`send`.
    """
    valid, ready, payload = _members(dut, stream)
    pauses = cycle(chain(gaps, [0]))
    taken: list[int] = []
    offered: int | None = None
    while len(taken) < count:
        wanted = not next(pauses)
        ready.value = wanted
        await FallingEdge(dut.clk)
        value = (int(payload.value) if payload is not None else 0) if valid.value else None
        if offered is not None:
            assert value == offered, f"offer {offered:#x} of {stream} changed before it was taken"
        await RisingEdge(dut.clk)
        offered = None if wanted else value
        if wanted and value is not None:
            taken.append(value)
    ready.value = 0
    return taken


def pack(shape: Any, value: Any) -> int:
    """Bits of a value of an Amaranth shape: an integer, or a dictionary for a structure."""
    constant = data.Layout.cast(shape).const(value) if _is_layout(shape) else value
    if isinstance(constant, ValueCastable):
        constant = constant.as_value()
    width = Shape.cast(shape).width
    number = Const.cast(constant).value if not isinstance(constant, int) else constant
    return number & (1 << width) - 1


def unpack(shape: Any, bits: int) -> Any:
    """Inverse of :func:`pack`: an integer, or a dictionary (a list for an array layout)."""
    if _is_layout(shape):
        layout = data.Layout.cast(shape)
        fields = {key: unpack(field.shape, bits >> field.offset & (1 << field.width) - 1)
                  for key, field in layout}
        return list(fields.values()) if isinstance(layout, data.ArrayLayout) else fields
    plain = Shape.cast(shape)
    negative = plain.signed and bits >> (plain.width - 1) & 1
    return bits - (1 << plain.width) if negative else bits


def _is_layout(shape: Any) -> bool:
    return isinstance(shape, data.Layout) or (isinstance(shape, type)
                                              and issubclass(shape, data.Struct | data.Union))


def _members(dut: Any, stream: str) -> tuple[Any, Any, Any]:
    payload = getattr(dut, f"{stream}__payload", None)
    return getattr(dut, f"{stream}__valid"), getattr(dut, f"{stream}__ready"), payload
