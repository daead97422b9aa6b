"""Bench of Unpack: requests in, headers and blocks out, cycle for cycle."""

import random
from dataclasses import dataclass
from itertools import chain, count, cycle

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.machine.layouts import header_layout
from hwgate.quant.unpack import cut
from hwgate.rtl.unpack import UNPACK_LATENCY, block_beat
from hwgate.sim.streams import parameters, start
from support.rtl import GAPS

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
BEAT = CONFIG.bus.bytes


@dataclass
class Request:
    """Bytes of a request, random ones up to the end of its last beat."""

    header: bool
    blocks: int

    def __post_init__(self):
        size = self.header * header_layout(CONFIG).size_bytes + self.blocks * CONFIG.block_bytes
        self.raw = random.randbytes(-(-size // BEAT) * BEAT)


async def play(dut, requests, gaps=()):
    """Send the requests; the strobes as (cycle, kind, bits): what came, and what was due."""
    beats = [(request.raw[at:at + BEAT], at + BEAT == len(request.raw), request.header)
             for request in requests for at in range(0, len(request.raw), BEAT)]
    dut.u__valid.value = 0
    await start(dut)
    pauses, seen, times, after = cycle(chain(gaps, [0])), [], [], 0
    for now in count():
        pause = len(times) == len(beats) or next(pauses)
        data, last, header = (b"\xff" * BEAT, 1, 1) if pause else beats[len(times)]
        dut.u__valid.value = not pause
        dut.u__data.value = int.from_bytes(data, "little")
        dut.u__last.value = last
        dut.u__header.value = header
        await FallingEdge(dut.clk)
        if dut.u__header_valid.value:
            seen.append((now, "header", int(dut.u__o_header.value)))
        if dut.u__block_valid.value:
            seen.append((now, "block", int(dut.u__o_block.value)))
        await RisingEdge(dut.clk)
        if not pause:
            times.append(now)
        elif len(times) == len(beats):
            after += 1
            if after > UNPACK_LATENCY + 2:
                return seen, due(requests, times)


def due(requests, times):
    """Strobes that requests cause whose beats came at these times."""
    wanted, first = [], 0
    for request in requests:
        header, blocks = cut(CONFIG, request.raw, request.header)
        body = first + len(header) // BEAT
        if header:
            wanted.append((times[body - 1], "header", header))
        wanted += [(times[body + block_beat(CONFIG, n)], "block", block)
                   for n, block in enumerate(blocks)]
        first += len(request.raw) // BEAT
    return [(time + UNPACK_LATENCY, kind, int.from_bytes(raw, "little"))
            for time, kind, raw in wanted]


def random_requests(number, blocks):
    return [Request(random.random() < 0.5, random.randint(1, blocks)) for _ in range(number)]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_alignment(dut):
    """A block begins at each word of a beat, and meets a beat with every number of words held."""
    words = CONFIG.beat_pixels
    requests = [Request(header, CONFIG.buffers.weight_blocks) for header in (True, False)]
    beats = len(requests[1].raw) // BEAT
    assert {n * TAPS % words for n in range(requests[1].blocks)} == set(range(words))
    assert {n * words % TAPS for n in range(beats)} == set(range(TAPS))
    seen, wanted = await play(dut, requests)
    assert len(wanted) == 1 + 2 * CONFIG.buffers.weight_blocks
    assert seen == wanted


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def any_request_follows_any(dut):
    """Padding of every length, then each kind of request at once; a header may be alone."""
    lengths = range(TAPS + 2)
    kinds = [(True, n) for n in lengths] + [(False, n) for n in lengths[1:]]
    requests = [Request(*kind) for before in kinds
                for kind in (before, (True, 1), before, (False, 1), before)]
    seen, wanted = await play(dut, requests)
    assert seen == wanted


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def gaps_between_beats(dut):
    for gaps in GAPS.values():
        seen, wanted = await play(dut, random_requests(12, CONFIG.request_blocks), gaps)
        assert seen == wanted
