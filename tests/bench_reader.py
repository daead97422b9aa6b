"""Bench of Reader: every requester at once, a scoreboard for every cycle, AXI reads answered by
cocotbext-axi with random pauses and errors."""

import random
from collections import deque

import cocotb
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiReadBus, AxiSlaveRead

from hwgate.bursts import split_bursts
from hwgate.config import AcceleratorConfig
from hwgate.rtl.axi import AXI_BURST_INCR
from hwgate.rtl.burst import request_layout
from hwgate.rtl.reader import GRANT_LATENCY, READ_BEAT_LATENCY
from hwgate.sim.streams import pack, parameters, send, start, unpack
from memory_helpers import FailingMemory, pauses, quiet_bus_models, sparse_requests, until, watch

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
SOURCES = parameters()["sources"]
BEAT = CONFIG.bus.bytes
SIZE = 1 << 16


class Scoreboard:
    """Predicts grants, bursts, beats and idleness from the requests; one step per cycle."""

    def __init__(self, dut, memory):
        self.dut, self.memory, self.cycle = dut, memory, 0
        self.offers = [(getattr(dut, f"i__{n}__valid"), getattr(dut, f"i__{n}__ready"),
                        getattr(dut, f"i__{n}__payload")) for n in range(SOURCES)]
        self.bursts = deque()      # still to be seen on the address channel
        self.owed = deque()        # (source, header, address, beats left) of granted requests
        self.output = None         # what a beat on the bus must become
        self.granted_at = None
        self.grants, self.errors, self.beats = [], 0, [0] * SOURCES

    def step(self):
        self.cycle += 1
        self.output_beat()
        assert bool(self.dut.idle.value) == (not self.owed)
        splitting = bool(self.bursts)
        self.address()
        self.bus_beat()
        self.grant(splitting)

    def output_beat(self):
        dut = self.dut
        assert bool(dut.valid.value) == (self.output is not None)
        if self.output is not None:
            assert (int(dut.data.value), int(dut.last.value), int(dut.source.value),
                    int(dut.o_header.value)) == self.output

    def address(self):
        dut = self.dut
        if self.granted_at is not None:
            assert dut.bus__arvalid.value and self.cycle - self.granted_at == GRANT_LATENCY
        self.granted_at = None
        assert bool(dut.bus__arvalid.value) == bool(self.bursts)
        if self.bursts:
            seen = int(dut.bus__araddr.value), int(dut.bus__arlen.value) + 1
            assert seen == self.bursts[0]
            assert 1 << int(dut.bus__arsize.value) == BEAT
            assert int(dut.bus__arburst.value) == AXI_BURST_INCR
            if dut.bus__arready.value:
                self.bursts.popleft()

    def bus_beat(self):
        dut = self.dut
        assert dut.bus__rready.value, "beats are never refused"
        assert bool(dut.beat.value) == bool(dut.bus__rvalid.value)
        self.output = None
        if not dut.bus__rvalid.value:
            assert not dut.error.value
            return
        source, header, address, left = self.owed[0]
        fails = self.memory.fails(address, BEAT)
        data = b"" if fails else self.memory.bytes[address:address + BEAT]
        assert int(dut.beat_source.value) == source
        assert bool(dut.error.value) == fails
        self.output = int.from_bytes(data, "little"), int(left == 1), source, header
        self.errors += fails
        self.beats[source] += 1
        self.owed[0] = source, header, address + BEAT, left - 1
        if left == 1:
            self.owed.popleft()

    def grant(self, splitting):
        valid = [bool(v.value) for v, _, _ in self.offers]
        taken = [n for n, (v, r, _) in enumerate(self.offers) if v.value and r.value]
        if self.dut.halt.value or splitting or not any(valid):
            assert not taken
        elif len(self.owed) < SOURCES:
            assert taken == [valid.index(True)], "the first of the waiting ones"
        for source in taken:
            request = unpack(request_layout(CONFIG), int(self.offers[source][2].value))
            address, beats = request["address"], request["beats"]
            self.bursts.extend(split_bursts(CONFIG, address, beats))
            self.owed.append((source, int(self.dut.header.value) >> source & 1, address, beats))
            self.granted_at = self.cycle
            self.grants.append(source)


async def prepare(dut, *, wait, bad=range(0)):
    """Clock, bus model and scoreboard; ``wait`` is the share of pauses on both channels."""
    quiet_bus_models()
    dut.halt.value, dut.header.value = 0, random.getrandbits(SOURCES)
    for n in range(SOURCES):
        getattr(dut, f"i__{n}__valid").value = 0
    memory = FailingMemory(SIZE, bad)
    bus = AxiSlaveRead(AxiReadBus.from_prefix(dut, "bus_"), dut.clk, dut.rst, target=memory)
    await start(dut)
    for channel in (bus.ar_channel, bus.r_channel):
        channel.set_pause_generator(pauses(wait))
    board = Scoreboard(dut, memory)
    watch(dut, board.step)
    return board


async def traffic(dut, board, beats, idle):
    """Every source sends requests of these beats, idle in a share of the cycles, to the end."""
    lists = [sparse_requests(SIZE, BEAT, random.sample(beats, len(beats)))
             for _ in range(SOURCES)]
    senders = []
    for n, requests in enumerate(lists):
        gaps = [int(random.random() < idle) for _ in range(61)]
        payloads = [pack(request_layout(CONFIG), {"address": a, "beats": b}) for a, b in requests]
        senders.append(cocotb.start_soon(send(dut, f"i__{n}", payloads, gaps=gaps)))
    for sender in senders:
        await sender
    await until(dut, lambda: dut.idle.value)
    await ClockCycles(dut.clk, READ_BEAT_LATENCY + 1)
    assert not board.owed and not board.bursts
    assert sorted(board.grants) == sorted(list(range(SOURCES)) * len(beats))
    assert board.beats == [sum(beats)] * SOURCES


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def serves_every_source(dut):
    board = await prepare(dut, wait=random.choice([0.2, 0.5, 0.8]))
    await traffic(dut, board, [1, 2, 3, 16, 17, 40, 300], idle=0.8)
    assert not board.errors


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def keeps_the_bus_busy(dut):
    """All sources ask all the time: more requests than may be under way, granted by priority."""
    board = await prepare(dut, wait=0)
    await traffic(dut, board, [1] * 12 + [5] * 4, idle=0)
    assert board.grants == sorted(board.grants)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def halt_stops_grants_only(dut):
    board = await prepare(dut, wait=0.3)
    running = cocotb.start_soon(traffic(dut, board, [1, 4, 30, 130], idle=0.3))
    while not running.done():
        await ClockCycles(dut.clk, random.randint(1, 60))
        dut.halt.value = 1
        if random.random() < 0.3:
            await until(dut, lambda: dut.idle.value)
        await ClockCycles(dut.clk, random.randint(1, 20))
        dut.halt.value = 0
    await running


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def errors_are_reported_with_their_beat(dut):
    board = await prepare(dut, wait=0.3, bad=range(3 * BEAT, 40 * BEAT))
    await traffic(dut, board, [1, 2, 5, 16, 60], idle=0.5)
    assert 0 < board.errors < sum(board.beats)
