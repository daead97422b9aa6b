"""Bench of test_sim_block: an adder with a buffered output."""

import cocotb
from cocotb.triggers import ClockCycles

from hwgate.sim.streams import parameters, receive, send, start


@cocotb.test(timeout_time=100, timeout_unit="us")
async def adds(dut):
    given = parameters()
    await start(dut)
    payloads = [a | b << given["width"] for a, b in given["operands"]]
    sender = cocotb.start_soon(send(dut, "i", payloads, gaps=given["idle"]))
    sums = await receive(dut, "o", len(payloads), gaps=given["stall"])
    assert sums == [a + b for a, b in given["operands"]]
    await sender


@cocotb.test(timeout_time=100, timeout_unit="us")
async def fails(dut):
    await start(dut)
    await send(dut, "i", [0x21])
    assert await receive(dut, "o", 1) == [4], "one and two are three"


@cocotb.test(timeout_time=1, timeout_unit="us")
async def hangs(dut):
    await start(dut)
    await receive(dut, "o", 1)


@cocotb.test()
async def retracts(dut):
    await start(dut)
    dut.retract.value = 1
    await send(dut, "i", [0x21])
    await receive(dut, "o", 1, gaps=[1, 1, 1, 0])


@cocotb.test()
async def sleeps(dut):
    await start(dut)
    while True:
        await ClockCycles(dut.clk, 1000)
