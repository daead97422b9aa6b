"""What the benches of the memory-side blocks share: memories, pauses, lanes, a watch."""

import itertools
import logging
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from math import ceil
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge
from numpy.typing import NDArray

from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.loader import feature_map
from hwgate.rtl.burst import request_layout
from hwgate.rtl.structs import status_layout
from hwgate.sim.streams import pack, start, unpack

__all__ = ["FailingMemory", "Lanes", "ReadPort", "band_memory", "pauses", "quiet_bus_models",
           "quiet_start", "sparse_requests", "until", "watch"]


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


class Lanes:
    """How far each lane is; the last ``absent`` of them have no job."""

    def __init__(self, count: int, absent: int = 0) -> None:
        self.absent = [n >= count - absent for n in range(count)]
        self.tiles = [0] * count          # complete tiles

    def bits(self) -> int:
        """Value of a ``lanes`` port; the number of jobs is noise."""
        layout = status_layout()
        return sum(pack(layout, {"tile": tile, "jobs": random.getrandbits(16), "absent": gone})
                   << layout.size * n
                   for n, (tile, gone) in enumerate(zip(self.tiles, self.absent, strict=True)))

    def slowest(self) -> int:
        """Tiles that every lane with a job has left."""
        return min(tile for tile, gone in zip(self.tiles, self.absent, strict=True) if not gone)

    def choose(self, loaded: int) -> int | None:
        """A lane that can leave its tile, because fewer than ``loaded`` are behind it."""
        free = [n for n, tile in enumerate(self.tiles) if not self.absent[n] and tile < loaded]
        return random.choice(free) if free else None


class ReadPort:
    """Memory behind a port that asks (``stream``) and is answered (``valid``, ``data``) in order.

    Attributes
    ----------
    asked : list of int
        Addresses of beats, in the order of their requests.
    answered : int
        Beats that have been delivered.
    """

    def __init__(self, dut: Any, stream: str, config: AcceleratorConfig,
                 memory: Mapping[int, bytes]) -> None:
        self.dut, self.memory = dut, memory
        self.asked: list[int] = []
        self.answered = 0
        self._due: deque[int] = deque()
        self._beat, self._layout = config.bus.bytes, request_layout(config)
        self._valid, self._ready, self._payload = (
            getattr(dut, f"{stream}__{name}") for name in ("valid", "ready", "payload"))

    def step(self) -> list[int]:
        """Addresses of the beats asked for in this cycle."""
        if not (self._valid.value and self._ready.value):
            return []
        request = unpack(self._layout, int(self._payload.value))
        addresses = [request["address"] + self._beat * n for n in range(request["beats"])]
        self.asked += addresses
        self._due.extend(addresses)
        return addresses

    async def answer(self, latency: int = 0, idle: float = 0.0) -> None:
        """Deliver for ever, late by up to ``latency``, with gaps; noise where there is no beat."""
        dut, bits = self.dut, 8 * self._beat
        while True:
            dut.data.value, dut.valid.value = random.getrandbits(bits), 0
            if self._due:
                await ClockCycles(dut.clk, random.randint(0, latency))
                while self._due:
                    if random.random() < idle:
                        dut.data.value, dut.valid.value = random.getrandbits(bits), 0
                    else:
                        raw = self.memory[self._due.popleft()]
                        dut.data.value, dut.valid.value = int.from_bytes(raw, "little"), 1
                        self.answered += 1
                    await RisingEdge(dut.clk)
            else:
                await RisingEdge(dut.clk)

    async def grant(self, idle: float = 0.0) -> None:
        """Take requests for ever, except in a share ``idle`` of the cycles."""
        while True:
            self._ready.value = random.random() >= idle
            await RisingEdge(self.dut.clk)


def band_memory(x: NDArray[np.int8], channels: int, pad: int,
                pad_top: int) -> dict[tuple[int, int], NDArray[np.int8]]:
    """Words of a band of rows (C, H, W) in a window memory, for kernels of 3x3 and more.

    As :func:`hwgate.quant.loader.window_memory`, with rows of padding above of their own number
    and none below.
    """
    _, height, width = x.shape
    row_words = ceil((width + 2 * pad) / 3)
    group_words = row_words * ceil((pad_top + height) / 3)
    words = {}
    for group, plane in enumerate(feature_map(x, channels, 1)):
        for row, column in np.ndindex(height, width):
            y, x_ = row + pad_top, column + pad
            address = group * group_words + y // 3 * row_words + x_ // 3
            words[y % 3 * 3 + x_ % 3, address] = plane[row * width + column]
    return words


def pauses(share: float) -> Iterator[bool]:
    """Endless pause pattern with about this share of waiting cycles."""
    rng = random.Random(random.getrandbits(32))
    return (rng.random() < share for _ in itertools.count())


def quiet_bus_models(top: str = "block") -> None:
    """Silence cocotbext-axi: its logs, and its warnings, as it was written for cocotb 1."""
    logging.getLogger(f"cocotb.{top}").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="cocotbext")


async def quiet_start(dut: Any) -> None:
    """Clock and reset, with nothing arriving, whatever a test before this one left behind."""
    dut.start.value = dut.valid.value = 0
    await start(dut)


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
    """Task that calls ``step`` in the middle of every cycle; its assertions fail the test."""
    async def run() -> None:
        while True:
            await FallingEdge(dut.clk)
            step()
    return cocotb.start_soon(run())


async def until(dut: Any, condition: Callable[[], object]) -> None:
    """Wait for a condition, tested just after every rising edge."""
    while not condition():
        await RisingEdge(dut.clk)
