"""Bench of RegisterBank: cocotbext-axi's AXI4-Lite master, with random pauses on every channel."""

import logging
import random
import warnings

import cocotb
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.driver import Driver
from hwgate.machine.regs import counter_names, engine_registers
from hwgate.sim.bench_axi import MasterBus, pause_channels
from hwgate.sim.streams import parameters, start


async def started(dut):
    """Configuration, map and master, after reset."""
    logging.getLogger("cocotb.block").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="cocotbext")
    config = AcceleratorConfig.from_dict(parameters()["config"])
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "bus_"), dut.clk, dut.rst)
    await start(dut)
    pause_channels(master)
    return config, engine_registers(config), master


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def driver_sees_the_ports(dut):
    config, _, master = await started(dut)
    values = {name: random.getrandbits(32) for name in counter_names(config)}
    for name, value in values.items():
        getattr(dut, f"{name}__value").value = value
    driver, starts = Driver(MasterBus(master), config), []

    async def count_starts():
        while True:
            await RisingEdge(dut.clk)
            starts.append(int(dut.control__start.value))

    counting = cocotb.start_soon(count_starts())
    await driver.check()
    assert await driver.counters() == values
    for number, address in enumerate([0x1230, 0, 0xffff_fff0], 1):
        await driver.start(address, irq=bool(number % 2))
        assert int(dut.program__address.value) == address
        assert int(dut.control__irq_enable.value) == number % 2
        for _ in range(3):
            await RisingEdge(dut.clk)
        assert sum(starts) == number
    counting.cancel()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def bytes_of_any_alignment(dut):
    """Writes of one to four bytes anywhere in PROGRAM, and beyond the map, at the same time."""
    _, regmap, master = await started(dut)
    offset, word = regmap.offset("PROGRAM"), bytearray(4)
    for _ in range(60):
        first = random.randrange(4)
        raw = random.randbytes(random.randint(1, 4 - first))
        word[first:first + len(raw)] = raw
        inside = cocotb.start_soon(master.write(offset + first, raw))
        outside = cocotb.start_soon(master.write(regmap.bytes + 4 * random.randrange(8), b"\xff"))
        beyond = cocotb.start_soon(master.read(regmap.bytes, 4))
        assert (await inside).resp == AxiResp.OKAY
        assert (await outside).resp == AxiResp.SLVERR
        assert (await beyond).resp == AxiResp.SLVERR
        assert (await master.read(offset, 4)).data == bytes(word)
        assert int(dut.program__address.value) == int.from_bytes(word, "little")
