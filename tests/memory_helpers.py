"""What the benches of the memory-side blocks share: a failing memory, pauses, a watch."""

import itertools
import logging
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge

__all__ = ["FailingMemory", "pauses", "quiet_bus_models", "sparse_requests", "until", "watch"]


class FailingMemory:
    """Memory behind cocotbext-axi's slaves; an access that touches ``bad`` fails (SLVERR)."""

    def __init__(self, size: int, bad: range = range(0)) -> None:
        self.bytes, self.bad = bytearray(random.randbytes(size)), bad

    def fails(self, address: int, length: int) -> bool:
        return address < self.bad.stop and address + length > self.bad.start

    async def read(self, address: int, length: int) -> bytes:
        self._check(address, length)
        return bytes(self.bytes[address:address + length])

    async def write(self, address: int, data: bytes) -> None:
        self._check(address, len(data))
        self.bytes[address:address + len(data)] = data

    def _check(self, address: int, length: int) -> None:
        if self.fails(address, length):
            raise ValueError("SLVERR")
        assert address + length <= len(self.bytes)


def pauses(share: float) -> Iterator[bool]:
    """Endless pause pattern with about this share of waiting cycles."""
    rng = random.Random(random.getrandbits(32))
    return (rng.random() < share for _ in itertools.count())


def quiet_bus_models(top: str = "block") -> None:
    """Silence cocotbext-axi: its transaction logs, and its warnings, as it was made for cocotb 1."""
    logging.getLogger(f"cocotb.{top}").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="cocotbext")


def sparse_requests(size: int, beat: int, beats: list[int]) -> list[tuple[int, int]]:
    """Disjoint (address, beats) below ``size``, in random order, many of them across a page."""
    at, requests, spare = 0, [], size - beat * sum(beats)
    for count in beats:
        page = -(-at // 4096) * 4096
        start = random.choice([at, max(at, page - beat * random.randint(0, count)), page])
        if start - at > spare:
            start = at
        spare -= start - at
        requests.append((start, count))
        at = start + count * beat
    random.shuffle(requests)
    return requests


def watch(dut: Any, step: Callable[[], None]) -> Any:
    """Call ``step`` in the middle of every cycle; its assertions fail the test. Returns the task."""
    async def run() -> None:
        while True:
            await FallingEdge(dut.clk)
            step()
    return cocotb.start_soon(run())


async def until(dut: Any, condition: Callable[[], object]) -> None:
    """Wait for a condition, tested just after every rising edge."""
    while not condition():
        await RisingEdge(dut.clk)
