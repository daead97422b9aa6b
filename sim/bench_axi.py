"""cocotb side of :mod:`hwgate.sim.axi_bench`: the bare accelerator between cocotbext-axi models."""

import logging
import os
import pickle
import random
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, First, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave
from cocotbext.axi.axi_channels import (
    AxiARSink,
    AxiAWSink,
    AxiBSource,
    AxiBTransaction,
    AxiRSource,
    AxiRTransaction,
    AxiWSink,
)
from numpy.typing import NDArray

from hwgate.machine.driver import Driver
from hwgate.sim.records import EVENT, Job, Outcome, Start

__all__ = ["FaultyMemory", "MasterBus", "TimedMemory", "pause_channels", "run"]

_PERIOD = 10  # ns

#: Shares of waiting cycles that a channel may draw: none, some, most.
_SHARES = (0.0, 0.2, 0.5, 0.8)

#: Longest run of cycles in which a channel of the memory waits, or does not.
_RUNS = (1, 1, 250)

#: Ports of the memory bus that offer, with the fields that must stay until they are taken.
_OFFERS = {"ar": ("addr", "len", "size", "burst", "id"),
           "aw": ("addr", "len", "size", "burst", "id"), "w": ("data", "strb", "last")}


class MasterBus:
    """Access to the registers through cocotbext-axi's AXI4-Lite master."""

    def __init__(self, master: AxiLiteMaster) -> None:
        self._master = master

    async def read(self, offset: int) -> int:
        answer = await self._master.read(offset, 4)
        assert answer.resp == AxiResp.OKAY, f"read of register {offset:#x}: {answer.resp}"
        return int.from_bytes(answer.data, "little")

    async def write(self, offset: int, value: int) -> None:
        answer = await self._master.write(offset, value.to_bytes(4, "little"))
        assert answer.resp == AxiResp.OKAY, f"write of register {offset:#x}: {answer.resp}"


class FaultyMemory:
    """Memory behind cocotbext-axi's slave; what lies outside or is to fail answers SLVERR."""

    def __init__(self, job: Job) -> None:
        self.bytes, self._faults = bytearray(job.memory_bytes), job.faults

    def load(self, image: NDArray[np.uint8]) -> None:
        """The image from address 0 on, zeros behind it."""
        self.bytes[:] = image.tobytes().ljust(len(self.bytes), b"\0")

    async def read(self, address: int, length: int) -> bytes:
        self._check(address, length, self._faults.reads)
        return bytes(self.bytes[address:address + length])

    async def write(self, address: int, data: bytes) -> None:
        self._check(address, len(data), self._faults.writes)
        self.bytes[address:address + len(data)] = data

    def _check(self, address: int, length: int, bad: tuple[int, int]) -> None:
        end = address + length
        if end > len(self.bytes) or (address < bad[1] and end > bad[0]):
            raise ValueError("the slave answers any exception with SLVERR")


class TimedMemory:
    """Memory of fixed timing on cocotbext-axi's channels: the same cycles as the one in C++.

    A channel's source offers what it is given before a rising edge from that edge on, so a
    handshake in edge n is given after edge n - 2. Latencies are at least 2 cycles.
    """

    def __init__(self, dut: Any, job: Job) -> None:
        self.memory, self._timing, self._size = FaultyMemory(job), job.timing, job.config.bus.bytes
        bus, common = AxiBus.from_prefix(dut, "m_axi_"), (dut.clk, dut.rst)
        self._clk = dut.clk
        self._ar, self._r = AxiARSink(bus.read.ar, *common), AxiRSource(bus.read.r, *common)
        self._aw, self._w = AxiAWSink(bus.write.aw, *common), AxiWSink(bus.write.w, *common)
        self._b = AxiBSource(bus.write.b, *common)

    async def serve(self) -> None:
        """Answer requests for ever."""
        timing = self._timing
        beats: deque[tuple[int, AxiRTransaction]] = deque()
        answers: deque[int] = deque()
        bursts: deque[int] = deque()
        edge, last = 0, -timing.beat_interval
        while True:
            await FallingEdge(self._clk)
            while not self._ar.empty():
                request = self._ar.recv_nowait()
                first = max(edge + timing.read_latency, last + timing.beat_interval)
                count = int(request.arlen) + 1
                for n in range(count):
                    last = first + n * timing.beat_interval
                    at = int(request.araddr) + n * self._size
                    raw = bytes(self.memory.bytes[at:at + self._size])
                    beats.append((last, AxiRTransaction(
                        rid=int(request.arid), rdata=int.from_bytes(raw, "little"), rresp=0,
                        rlast=n == count - 1)))
            while not self._aw.empty():
                bursts.append(int(self._aw.recv_nowait().awaddr))
            while not self._w.empty():
                beat = self._w.recv_nowait()
                at = bursts[0]
                self.memory.bytes[at:at + self._size] = int(beat.wdata).to_bytes(
                    self._size, "little")
                bursts[0] += self._size
                if int(beat.wlast):
                    bursts.popleft()
                    answers.append(edge + timing.write_latency)
            while beats and beats[0][0] - 2 <= edge:
                self._r.send_nowait(beats.popleft()[1])
            while answers and answers[0] - 2 <= edge:
                answers.popleft()
                self._b.send_nowait(AxiBTransaction(bid=0, bresp=0))
            edge += 1


def pause_channels(*ports: Any, runs: Sequence[int] = (1,)) -> None:
    """Make every channel of the ports wait at random, each with a share and a longest run."""
    for port in ports:
        for half, channels in ((port.write_if, ("aw", "w", "b")), (port.read_if, ("ar", "r"))):
            for channel in channels:
                pauses = _pauses(random.choice(_SHARES), random.choice(runs),
                                 random.getrandbits(32))
                getattr(half, f"{channel}_channel").set_pause_generator(pauses)


def _pauses(share: float, longest: int, seed: int) -> Iterator[bool]:
    rng = random.Random(seed)
    while True:
        waits = rng.random() < share
        for _ in range(rng.randint(1, longest)):
            yield waits


async def _watch(dut: Any) -> None:
    """Fail if the engine takes an offer back, or changes it, before it is taken."""
    offered: dict[str, list[int]] = {}
    while True:
        await FallingEdge(dut.clk)
        for channel, fields in _OFFERS.items():
            valid, ready = (bool(_signal(dut, channel, f).value) for f in ("valid", "ready"))
            now = [int(_signal(dut, channel, field).value) for field in fields] if valid else []
            before = offered.pop(channel, now)
            if not dut.rst.value:
                assert now == before, f"channel {channel} offered {before}, then {now}"
                if valid and not ready:
                    offered[channel] = now


def _signal(dut: Any, channel: str, field: str) -> Any:
    return getattr(dut, f"m_axi__{channel}{field}")


async def _reset(dut: Any) -> None:
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)


async def _run(dut: Any, driver: Driver, start: Start, memory: FaultyMemory) -> Outcome:
    if start.memory is not None:
        memory.load(start.memory)
    clock = time.perf_counter()
    await driver.start(start.program_address, irq=True)
    cut, irq = False, RisingEdge(dut.irq)
    if dut.irq.value:
        pass
    elif start.reset_after is None:
        await with_timeout(irq, start.deadline * _PERIOD, "ns")
    elif cut := await First(ClockCycles(dut.clk, start.reset_after), irq) is not irq:
        await _reset(dut)
    status, counters = await driver.status(), await driver.counters()
    return Outcome(
        status=status, late=cut, fault="", counters=counters,
        snapshots=np.empty((0, len(counters)), np.uint32), events=np.empty(0, EVENT),
        memory=np.frombuffer(bytes(memory.bytes), np.uint8), cycles=counters["cycles"],
        seconds=time.perf_counter() - clock)


@cocotb.test()
async def run(dut: Any) -> None:
    """Do the job in file ``$HWGATE_JOB``; outcomes go to ``$HWGATE_OUTCOMES``."""
    # Failing accesses are the bench's intent.
    logging.getLogger("cocotb.hwgate_top").setLevel(logging.ERROR)
    # cocotbext-axi was written for cocotb 1.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="cocotbext")
    job: Job = pickle.loads(Path(os.environ["HWGATE_JOB"]).read_bytes())
    timed = bool(os.environ.get("HWGATE_TIMED"))
    Clock(dut.clk, _PERIOD, unit="ns").start()
    dut.rst.value = 1
    if timed:
        model = TimedMemory(dut, job)
        memory = model.memory
        cocotb.start_soon(model.serve())
    else:
        memory = FaultyMemory(job)
        slave = AxiSlave(AxiBus.from_prefix(dut, "m_axi_"), dut.clk, dut.rst, target=memory)
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil_"), dut.clk, dut.rst)
    await _reset(dut)
    cocotb.start_soon(_watch(dut))
    driver = Driver(MasterBus(master), job.config)
    await driver.check()
    outcomes = []
    for start in job.starts:
        if not timed:
            pause_channels(slave, runs=_RUNS)
            pause_channels(master)
        outcomes.append(await _run(dut, driver, start, memory))
    Path(os.environ["HWGATE_OUTCOMES"]).write_bytes(pickle.dumps(outcomes))
