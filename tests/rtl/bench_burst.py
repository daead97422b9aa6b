"""Bench of BurstSplitter: requests in, bursts out, against the pure function."""

import cocotb

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.burst import burst_layout, request_layout
from hwgate.sim.streams import pack, parameters, receive, send, start


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def matches_function(dut):
    given = parameters()
    config = AcceleratorConfig.from_dict(given["config"])
    requests = [pack(request_layout(config), {"address": address, "beats": beats})
                for address, beats in given["requests"]]
    expected = [pack(burst_layout(config), {"address": address, "beats_minus_1": length,
                                            "last": last})
                for address, length, last in given["bursts"]]
    await start(dut)
    sender = cocotb.start_soon(send(dut, "i", requests, gaps=given["gaps"]))
    assert await receive(dut, "o", len(expected), gaps=given["stalls"]) == expected
    await sender
