"""cocotb side of :mod:`hwgate.sim.axi_bench`: the bare accelerator between cocotbext-axi models."""

import logging
import os
import pickle
import random
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam, AxiResp

from hwgate.config import AcceleratorConfig
from hwgate.driver import Driver
from hwgate.regs import counter_names
from hwgate.sim.records import EVENT, Outcome, Start

__all__ = ["MasterBus", "pause_channels", "run"]

_PERIOD = 10  # ns

#: Shares of waiting cycles that a channel may draw: none, some, most.
_SHARES = (0.0, 0.2, 0.5, 0.8)


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


def pause_channels(*ports: Any) -> None:
    """Make every channel of the ports wait at random, each with a share of its own."""
    for port in ports:
        for half, channels in ((port.write_if, ("aw", "w", "b")), (port.read_if, ("ar", "r"))):
            for channel in channels:
                pauses = _pauses(random.choice(_SHARES), random.getrandbits(32))
                getattr(half, f"{channel}_channel").set_pause_generator(pauses)


def _pauses(share: float, seed: int) -> Iterator[bool]:
    rng = random.Random(seed)
    while True:
        yield rng.random() < share


@cocotb.test()
async def run(dut: Any) -> None:
    """Do the start in file ``$HWGATE_JOB``; the outcome goes to ``$HWGATE_OUTCOMES``."""
    logging.getLogger("cocotb.hwgate_top").setLevel(logging.WARNING)
    # cocotbext-axi was written for cocotb 1.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="cocotbext")
    config: AcceleratorConfig
    start: Start
    config, start = pickle.loads(Path(os.environ["HWGATE_JOB"]).read_bytes())
    assert start.memory is not None
    image = np.pad(start.memory, (0, -start.memory.size % config.bus.bytes))
    memory = bytearray(image.tobytes())
    Clock(dut.clk, _PERIOD, unit="ns").start()
    dut.rst.value = 1
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi_"), dut.clk, dut.rst, mem=memory)
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil_"), dut.clk, dut.rst)
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    pause_channels(ram, master)

    driver, clock = Driver(MasterBus(master), config), time.perf_counter()
    await driver.check()
    await driver.start(start.program_address, irq=True)
    if not dut.irq.value:
        await with_timeout(RisingEdge(dut.irq), start.deadline * _PERIOD, "ns")
    status, counters = await driver.status(), await driver.counters()
    outcome = Outcome(
        status=status, late=False, fault="", counters=counters,
        snapshots=np.empty((0, len(counter_names(config))), np.uint32),
        events=np.empty(0, EVENT), memory=np.frombuffer(bytes(memory), np.uint8),
        cycles=counters["cycles"], seconds=time.perf_counter() - clock)
    Path(os.environ["HWGATE_OUTCOMES"]).write_bytes(pickle.dumps(outcome))
