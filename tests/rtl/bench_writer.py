"""Bench of Writer: a scoreboard for every cycle, AXI writes taken by cocotbext-axi with random
pauses and errors."""

import random
from collections import deque

import cocotb
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiSlaveWrite, AxiWriteBus

from hwgate.machine.bursts import split_bursts
from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.axi import AXI_BURST_INCR
from hwgate.rtl.burst import request_layout
from hwgate.rtl.writer import BEAT_QUEUE, BURST_QUEUE, WRITE_BEAT_LATENCY
from hwgate.sim.streams import pack, parameters, send, start, unpack
from support.memory import FailingMemory, pauses, quiet_bus_models, sparse_requests, until, watch

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
BEAT = CONFIG.bus.bytes
SIZE = 1 << 16


class Scoreboard:
    """Predicts every handshake on the bus, ``room`` and ``idle``; one step per cycle."""

    def __init__(self, dut):
        self.dut, self.cycle = dut, 0
        self.addresses = deque()   # bursts that have no address handshake yet
        self.lengths = deque()     # beats of the bursts that have one, and lack data
        self.unanswered = 0        # bursts without a response
        self.queue = deque()       # (cycle, beat) taken and not yet on the bus
        self.sent = 0              # beats of the burst at hand
        self.delays, self.errors, self.responses = [], 0, 0
        self.most_open = 0

    def step(self):
        self.cycle += 1
        dut = self.dut
        assert int(dut.room.value) == BEAT_QUEUE - len(self.queue)
        assert bool(dut.idle.value) == (not self.unanswered)
        open_bursts = len(self.lengths)
        self.most_open = max(self.most_open, open_bursts)
        assert bool(dut.bus__awvalid.value) == (bool(self.addresses) and open_bursts < BURST_QUEUE)
        self.response()
        self.data()
        self.address()
        if dut.i__valid.value and dut.i__ready.value:
            request = unpack(request_layout(CONFIG), int(dut.i__payload.value))
            bursts = split_bursts(CONFIG, request["address"], request["beats"])
            self.addresses.extend(bursts)
            self.unanswered += len(bursts)
        assert bool(dut.beat__ready.value) == (int(dut.room.value) > 0)
        if dut.beat__valid.value and dut.beat__ready.value:
            self.queue.append((self.cycle, int(dut.beat__payload.value)))

    def response(self):
        dut = self.dut
        assert dut.bus__bready.value
        failed = bool(dut.bus__bvalid.value) and int(dut.bus__bresp.value) >= 2
        assert bool(dut.error.value) == failed
        if dut.bus__bvalid.value:
            self.unanswered -= 1
            self.responses += 1
            self.errors += failed

    def data(self):
        """Before :meth:`address`: data may follow its address in the next cycle."""
        dut = self.dut
        assert bool(dut.bus__wvalid.value) == bool(self.lengths and self.queue)
        if not dut.bus__wvalid.value:
            return
        taken_at, beat = self.queue[0]
        assert int(dut.bus__wdata.value) == beat
        assert int(dut.bus__wstrb.value) == (1 << BEAT) - 1
        last = self.sent + 1 == self.lengths[0]
        assert bool(dut.bus__wlast.value) == last
        if dut.bus__wready.value:
            self.delays.append(self.cycle - taken_at)
            self.queue.popleft()
            self.sent = 0 if last else self.sent + 1
            if last:
                self.lengths.popleft()

    def address(self):
        dut = self.dut
        if not dut.bus__awvalid.value:
            return
        seen = int(dut.bus__awaddr.value), int(dut.bus__awlen.value) + 1
        assert seen == self.addresses[0]
        assert 1 << int(dut.bus__awsize.value) == BEAT
        assert int(dut.bus__awburst.value) == AXI_BURST_INCR
        if dut.bus__awready.value:
            self.lengths.append(self.addresses.popleft()[1])


async def prepare(dut, *, wait, bad=range(0)):
    """Clock, bus model and scoreboard; ``wait`` is the share of pauses on the three channels."""
    quiet_bus_models()
    dut.i__valid.value = dut.beat__valid.value = 0
    memory = FailingMemory(SIZE, bad)
    bus = AxiSlaveWrite(AxiWriteBus.from_prefix(dut, "bus_"), dut.clk, dut.rst, target=memory)
    bus.aw_channel.queue_occupancy_limit = 2 * BURST_QUEUE  # else it limits the open bursts
    await start(dut)
    for channel, share in zip((bus.aw_channel, bus.w_channel, bus.b_channel), wait, strict=True):
        channel.set_pause_generator(pauses(share))
    board = Scoreboard(dut)
    watch(dut, board.step)
    return board, memory


async def write(dut, board, memory, beats, *, request_idle=0.0, beat_idle=0.0):
    """Requests of these beats with random data; the memory afterwards is what it must be."""
    requests = sparse_requests(SIZE, BEAT, beats)
    expected, payloads = bytearray(memory.bytes), []
    for address, count in requests:
        raw = random.randbytes(count * BEAT)
        payloads += [int.from_bytes(raw[n:n + BEAT], "little") for n in range(0, len(raw), BEAT)]
        for at in range(address, address + len(raw), BEAT):
            if not memory.fails(at, BEAT):
                expected[at:at + BEAT] = raw[at - address:at - address + BEAT]
    packed = [pack(request_layout(CONFIG), {"address": a, "beats": n}) for a, n in requests]
    gaps = ([int(random.random() < share) for _ in range(61)]
            for share in (request_idle, beat_idle))
    sender = cocotb.start_soon(send(dut, "i", packed, gaps=next(gaps)))
    await send(dut, "beat", payloads, gaps=next(gaps))
    await sender
    await until(dut, lambda: dut.idle.value)
    await ClockCycles(dut.clk, 3)
    assert board.responses == sum(len(split_bursts(CONFIG, *request)) for request in requests)
    assert not board.queue and not board.lengths and not board.addresses
    wrong = [at for at in range(SIZE) if memory.bytes[at] != expected[at]]
    assert not wrong, f"{len(wrong)} bytes of the memory, first {wrong[0]:#x}"


@cocotb.test(timeout_time=500, timeout_unit="us")
async def writes_every_beat_once(dut):
    board, memory = await prepare(dut, wait=random.choices([0, 0.3, 0.7], k=3))
    await write(dut, board, memory, [1, 2, 3, 15, 16, 17, 40, 300, 700] + [1] * 10,
                request_idle=0.8, beat_idle=0.4)
    assert not board.errors


@cocotb.test(timeout_time=500, timeout_unit="us")
async def addresses_run_ahead_of_slow_data(dut):
    board, memory = await prepare(dut, wait=(0, 0.5, 0))
    await write(dut, board, memory, [1, 2, 1, 3] * 10, beat_idle=0.7)
    assert board.most_open == BURST_QUEUE


@cocotb.test(timeout_time=500, timeout_unit="us")
async def late_responses_keep_it_from_idling(dut):
    board, memory = await prepare(dut, wait=(0, 0, 0.95))
    await write(dut, board, memory, [1, 1, 2, 40, 5], request_idle=0.5)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def one_beat_a_cycle(dut):
    board, memory = await prepare(dut, wait=(0, 0, 0))
    ready = cocotb.start_soon(send(dut, "i", [pack(request_layout(CONFIG),
                                                   {"address": 0, "beats": 16})]))
    await ready
    await ClockCycles(dut.clk, 4)
    beats = [random.getrandbits(8 * BEAT) for _ in range(16)]
    await send(dut, "beat", beats)
    await until(dut, lambda: dut.idle.value)
    assert board.delays == [WRITE_BEAT_LATENCY] * 16
    assert memory.bytes[:16 * BEAT] == b"".join(b.to_bytes(BEAT, "little") for b in beats)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def errors_are_reported_with_their_response(dut):
    board, memory = await prepare(dut, wait=(0.3, 0.3, 0.3), bad=range(4000, 4200))
    await write(dut, board, memory, [1] * 8 + [40, 300, 5, 5])
    assert 0 < board.errors < board.responses
