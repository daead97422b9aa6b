"""cocotb side of :mod:`hwgate.sim.engine`: runs a job on ``harness.sv``, inside the simulator."""

import ctypes
import os
import pickle
import time
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge
from numpy.typing import NDArray

from hwgate.machine.config import WRITE_BUFFER, WRITE_PART
from hwgate.machine.driver import Driver
from hwgate.machine.regs import counter_names
from hwgate.sim.records import CHIP_WRITE, EVENT, Job, Outcome, Start

__all__ = ["LiteBus", "Recorder", "reset", "run", "run_start"]

#: Cycles from the start pulse until STATUS.done and the interrupt of the last run are gone.
_SETTLE = 4

#: Cycles within which the control port must answer.
_PATIENCE = 1000


class LiteBus:
    """AXI4-Lite master on the harness; one access at a time."""

    def __init__(self, dut: Any) -> None:
        self._dut = dut

    async def read(self, offset: int) -> int:
        dut = self._dut
        dut.araddr.value, dut.arvalid.value = offset, 1
        for _ in range(_PATIENCE):
            await FallingEdge(dut.clk)
            taken, answered = bool(dut.arready.value), bool(dut.rvalid.value)
            word, response = int(dut.rdata.value), int(dut.rresp.value)
            await RisingEdge(dut.clk)
            if taken:
                dut.arvalid.value = 0
            if answered:
                assert not response, f"read of register {offset:#x} answered {response}"
                return word
        raise TimeoutError(f"read of register {offset:#x} had no answer in {_PATIENCE} cycles")

    async def write(self, offset: int, value: int) -> None:
        dut = self._dut
        dut.awaddr.value, dut.awvalid.value = offset, 1
        dut.wdata.value, dut.wvalid.value = value, 1
        for _ in range(_PATIENCE):
            await FallingEdge(dut.clk)
            address, data = bool(dut.awready.value), bool(dut.wready.value)
            answered, response = bool(dut.bvalid.value), int(dut.bresp.value)
            await RisingEdge(dut.clk)
            if address:
                dut.awvalid.value = 0
            if data:
                dut.wvalid.value = 0
            if answered:
                assert not response, f"write of register {offset:#x} answered {response}"
                return
        raise TimeoutError(f"write of register {offset:#x} had no answer in {_PATIENCE} cycles")


class Recorder:
    """Memory and records of ``memory.cpp``, which lives in this process."""

    def __init__(self, job: Job) -> None:
        self._library = library = ctypes.CDLL(None)
        self._counters = len(counter_names(job.config))
        for name in ("hwgate_open", "hwgate_event_data", "hwgate_chip_write_data",
                     "hwgate_snapshot_data"):
            getattr(library, name).restype = ctypes.c_void_p
        library.hwgate_fault.restype = ctypes.c_char_p
        size = job.memory_bytes
        data = library.hwgate_open(ctypes.c_uint64(size), job.config.bus.bytes, self._counters)
        #: The simulated memory itself.
        self.memory = self._view(data, size, np.dtype(np.uint8))
        timing = job.timing
        library.hwgate_timing(timing.read_latency, timing.write_latency, timing.beat_interval,
                              *((WRITE_PART, WRITE_BUFFER) if timing.shared else (0, 0)))
        library.hwgate_errors(*map(ctypes.c_uint64, (*job.faults.reads, *job.faults.writes)))

    @property
    def fault(self) -> str:
        return self._library.hwgate_fault().decode()

    def clear(self) -> None:
        """Forget events, snapshots and faults, and count layers from 0 again."""
        self._library.hwgate_clear()

    def events(self) -> NDArray[Any]:
        return self._records("hwgate_event_data", EVENT)

    def chip_writes(self) -> NDArray[Any]:
        return self._records("hwgate_chip_write_data", CHIP_WRITE)

    def snapshots(self) -> NDArray[np.uint32]:
        return self._records("hwgate_snapshot_data", np.dtype("<u4")).reshape(-1, self._counters)

    def _records(self, name: str, kind: np.dtype[Any]) -> NDArray[Any]:
        count = ctypes.c_uint64()
        data = getattr(self._library, name)(ctypes.byref(count))
        return self._view(data, count.value * kind.itemsize, kind).copy()

    @staticmethod
    def _view(data: int | None, size: int, kind: np.dtype[Any]) -> NDArray[Any]:
        if not size or data is None:
            return np.empty(0, kind)
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(data))
        return raw.view(kind)


async def reset(dut: Any) -> None:
    """Reset the engine and the memory's port."""
    dut.rst.value = 1
    await ClockCycles(dut.clk, 2)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


async def run_start(dut: Any, job: Job, start: Start, recorder: Recorder) -> Outcome:
    """Do one start of a job, and leave the engine able to do the next one."""
    driver = Driver(LiteBus(dut), job.config)
    await driver.check()
    recorder.clear()
    if start.memory is not None:
        recorder.memory[:start.memory.size] = start.memory
        recorder.memory[start.memory.size:] = 0
    await driver.start(start.program_address, irq=True)
    begin, clock = int(dut.cycle.value), time.perf_counter()
    limit = start.deadline if start.reset_after is None else start.reset_after
    dut.deadline.value = begin + limit
    await ClockCycles(dut.clk, _SETTLE)
    if not dut.halt.value:
        await RisingEdge(dut.halt)
    cycles, seconds = int(dut.cycle.value) - begin, time.perf_counter() - clock
    late = bool(dut.late.value)
    dut.deadline.value = (1 << len(dut.deadline)) - 1
    if start.reset_after is not None and late:
        await reset(dut)
    status, counters = await driver.status(), await driver.counters()
    outcome = Outcome(
        status=status, late=late, fault=recorder.fault, counters=counters,
        snapshots=recorder.snapshots(), events=recorder.events(), memory=recorder.memory.copy(),
        chip=recorder.chip_writes(), cycles=cycles, seconds=seconds)
    if late or outcome.fault:
        await reset(dut)
    return outcome


@cocotb.test()
async def run(dut: Any) -> None:
    """Do the job in file ``$HWGATE_JOB``; outcomes go to ``$HWGATE_OUTCOMES``."""
    job: Job = pickle.loads(Path(os.environ["HWGATE_JOB"]).read_bytes())
    recorder = Recorder(job)
    await reset(dut)
    outcomes = [await run_start(dut, job, start, recorder) for start in job.starts]
    Path(os.environ["HWGATE_OUTCOMES"]).write_bytes(pickle.dumps(outcomes))
