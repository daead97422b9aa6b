"""Bench of Reader: every requester at once, a scoreboard for every cycle, AXI reads answered by
cocotbext-axi with random pauses and errors."""

import random
from collections import deque

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiReadBus, AxiSlaveRead

from hwgate.machine.bursts import split_bursts
from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.axi import AXI_BURST_INCR
from hwgate.rtl.burst import request_layout
from hwgate.rtl.fetch import kept_member
from hwgate.rtl.reader import KEPT_LATENCY, read_beat_latency
from hwgate.sim.streams import pack, parameters, send, start, unpack
from support.memory import FailingMemory, pauses, quiet_bus_models, sparse_requests, until, watch

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
SOURCES = parameters()["sources"]
BEAT = CONFIG.bus.bytes
SIZE = 1 << 16
LATENCY = read_beat_latency(CONFIG)
KEPT = kept_member(CONFIG).get("kept")
WORDS = CONFIG.buffers.weight_bytes // BEAT
#: What the weight memory holds.
KEPT_WORDS = [0] * WORDS


class Scoreboard:
    """Predicts grants, bursts, beats and idleness from the requests; one step per cycle."""

    def __init__(self, dut, memory):
        self.dut, self.memory, self.cycle = dut, memory, 0
        self.offers = [(getattr(dut, f"i__{n}__valid"), getattr(dut, f"i__{n}__ready"),
                        getattr(dut, f"i__{n}__payload")) for n in range(SOURCES)]
        self.bursts = deque()      # still to be seen on the address channel
        #: (source, header, address, beats left, keep, there, cycle of the first beat at the
        #: earliest) of granted requests
        self.owed = deque()
        #: What is to come out in the next cycles, of the bus or the weight memory.
        self.outputs = deque([None] * LATENCY)
        self.chosen, self.waiting = None, []  # source of the next grant; bursts of the last one
        self.grants, self.errors, self.beats = [], 0, [0] * SOURCES
        self.refused, self.kept_beats = 0, 0  # cycles in which the bus waits; beats it is spared

    def step(self):
        self.cycle += 1
        self.output_beat()
        assert bool(self.dut.idle.value) == (not self.owed)
        waits = self.address()
        self.bus_beat()
        self.grant(waits)

    def output_beat(self):
        dut = self.dut
        output = self.outputs.popleft()
        assert bool(dut.valid.value) == (output is not None)
        if output is not None:
            assert (int(dut.data.value), int(dut.last.value), int(dut.source.value),
                    int(dut.o_header.value)) == output

    def address(self):
        """Bursts in their turn; whether a request waits to be cut."""
        dut = self.dut
        waits = bool(self.waiting)
        assert bool(dut.bus__arvalid.value) == bool(self.bursts)
        if self.bursts:
            seen = int(dut.bus__araddr.value), int(dut.bus__arlen.value) + 1
            assert seen == self.bursts[0]
            assert 1 << int(dut.bus__arsize.value) == BEAT
            assert int(dut.bus__arburst.value) == AXI_BURST_INCR
            if dut.bus__arready.value:
                self.bursts.popleft()
        elif waits:
            self.bursts.extend(self.waiting)
            self.waiting = []
        return waits

    def bus_beat(self):
        dut = self.dut
        owns = bool(self.owed) and self.cycle >= self.owed[0][-1]
        there = owns and self.owed[0][-2]
        assert dut.bus__rready.value == (owns and not there), "refuses beats only for those it has"
        moves = bool(dut.bus__rvalid.value) and not there
        assert owns or not dut.bus__rvalid.value, "knows whose a beat is before it comes"
        moves = moves and owns
        self.refused += bool(dut.bus__rvalid.value) and there
        assert bool(dut.beat.value) == moves
        if not moves:
            assert not dut.error.value
        if not moves and not there:
            self.outputs.append(None)
            return
        source, header, address, left, keep, there, known = self.owed[0]
        if there:
            self.kept_beats += 1
            data = KEPT_WORDS[address // BEAT % WORDS]
        else:
            fails = self.memory.fails(address, BEAT)
            raw = b"" if fails else self.memory.bytes[address:address + BEAT]
            data = int.from_bytes(raw, "little")
            assert int(dut.beat_source.value) == source
            assert bool(dut.error.value) == fails
            self.errors += fails
            if keep:
                KEPT_WORDS[address // BEAT % WORDS] = data
        self.outputs.append((data, int(left == 1), source, header))
        self.beats[source] += 1
        self.owed[0] = source, header, address + BEAT, left - 1, keep, there, known
        if left == 1:
            self.owed.popleft()

    def grant(self, waits):
        valid = [bool(v.value) for v, _, _ in self.offers]
        taken = [n for n, (v, r, _) in enumerate(self.offers) if v.value and r.value]
        assert taken in ([], [self.chosen]), "the first of those that waited"
        if self.dut.halt.value or waits or self.chosen is None:
            assert not taken
        elif len(self.owed) < SOURCES:
            assert taken
        if taken:
            self.chosen = None
        elif self.chosen is None and any(valid):
            self.chosen = valid.index(True)
        for source in taken:
            request = unpack(request_layout(CONFIG), int(self.offers[source][2].value))
            address, beats = request["address"], request["beats"]
            kept = {"keep": 0, "there": 0}
            if KEPT:
                kept = unpack(KEPT, int(self.dut.kept.value) >> KEPT.size * source & 3)
            if not kept["there"]:
                self.waiting = list(split_bursts(CONFIG, address, beats))
            self.owed.append((source, int(self.dut.header.value) >> source & 1, address, beats,
                              kept["keep"], bool(kept["there"]), self.cycle + KEPT_LATENCY))
            self.grants.append(source)


async def keep_at_random(dut):
    """Whatever is asked for is kept, or there, or neither: it counts in the cycle of the grant."""
    while True:
        dut.kept.value = sum(random.choice((0, 0, 1, 3)) << KEPT.size * n for n in range(SOURCES))
        await RisingEdge(dut.clk)


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
    board.tasks = [cocotb.start_soon(keep_at_random(dut))] if KEPT else []
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
    await ClockCycles(dut.clk, LATENCY + 1)
    assert not board.owed and not board.bursts
    assert sorted(board.grants) == sorted(list(range(SOURCES)) * len(beats))
    assert board.beats == [sum(beats)] * SOURCES


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def serves_every_source(dut):
    board = await prepare(dut, wait=random.choice([0.2, 0.5, 0.8]))
    await traffic(dut, board, [1, 2, 3, 16, 17, 40, 300], idle=0.8)
    assert not board.errors and bool(board.kept_beats) == bool(KEPT)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def keeps_the_bus_busy(dut):
    """All sources ask all the time: more requests than may be under way, granted by priority."""
    board = await prepare(dut, wait=0)
    await traffic(dut, board, [1] * 12 + [5] * 4, idle=0)
    assert board.grants == sorted(board.grants) and bool(board.refused) == bool(KEPT)


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


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def kept_beats_come_back(dut):
    """Asked for again as soon as the request that brings them is granted: once on the bus."""
    if not KEPT:
        return
    board, beats = await prepare(dut, wait=0), WORDS // 2
    for task in board.tasks:
        task.cancel()
    for first in (0, SIZE // 2 + BEAT * (WORDS - 3)):
        payload = pack(request_layout(CONFIG), {"address": first, "beats": beats})
        begin, seen, kept = board.cycle, sum(board.beats), board.kept_beats
        dut.kept.value = 1
        await send(dut, "i__0", [payload])
        dut.kept.value = 3
        await send(dut, "i__0", [payload] * 3)
        granted = board.cycle
        await until(dut, lambda: dut.idle.value)
        await ClockCycles(dut.clk, LATENCY + 1)
        words = [first // BEAT + n for n in range(beats)]
        assert [KEPT_WORDS[n % WORDS] for n in words] == [
            int.from_bytes(board.memory.bytes[n * BEAT:(n + 1) * BEAT], "little") for n in words]
        assert (sum(board.beats) - seen, board.kept_beats - kept) == (4 * beats, 3 * beats)
        assert granted - begin < beats
