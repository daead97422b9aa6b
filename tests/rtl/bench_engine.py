"""Bench of the bare accelerator: programs run by the driver, with and without the interrupt."""

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

import hwgate
from hwgate.machine.driver import Driver, EngineError
from hwgate.machine.regs import ErrorCause
from hwgate.sim.bench_axi import MasterBus
from hwgate.sim.streams import start
from support.engine_cases import CONFIGS
from support.memory import quiet_bus_models
from support.random_layers import Limits, random_images, random_network

CONFIG = CONFIGS["4x36zeros"]


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def done_is_polled_or_interrupts(dut):
    quiet_bus_models("hwgate_top")
    rng = np.random.default_rng(1)
    network = random_network(rng, CONFIG, layers=1, limits=Limits(size=4, channels=4))
    binding = hwgate.compile(network, CONFIG).bind(random_images(rng, network, 1))
    memory = bytearray(binding.memory.tobytes())
    AxiRam(AxiBus.from_prefix(dut, "m_axi_"), dut.clk, dut.rst, mem=memory)
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil_"), dut.clk, dut.rst)
    await start(dut)
    await ClockCycles(dut.clk, 2)
    driver = Driver(MasterBus(master), CONFIG)
    await driver.check()

    await driver.start(binding.program_address)
    with pytest.raises(EngineError, match="The engine is busy"):
        await driver.start(binding.program_address)
    status = await driver.wait()
    assert (status.error, status.layers) == (ErrorCause.NONE, 1)
    first = await driver.counters()
    golden = network.run(binding.images)[0].output
    assert np.array_equal(binding.read_output(np.frombuffer(memory, np.uint8), 0), golden)
    assert not dut.irq.value, "not enabled"

    await driver.start(binding.program_address, irq=True)
    assert not dut.irq.value
    await driver.wait(RisingEdge(dut.irq))
    assert (await driver.counters())["bytes_windows"] == first["bytes_windows"]
    memory[binding.program_address] = 99  # an opcode that does not exist
    await driver.start(binding.program_address, irq=True)
    with pytest.raises(EngineError, match="stopped with error OPCODE after 0 layers"):
        await driver.wait(RisingEdge(dut.irq))
