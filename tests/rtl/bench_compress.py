"""Bench of Compress: planes of any zeros in, writes of chunks out, cycle for cycle."""

import random
from collections import deque

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from hwgate.machine.config import CHUNK_BEATS, AcceleratorConfig
from hwgate.quant.compress import compress
from hwgate.rtl.burst import request_layout
from hwgate.rtl.compress import COMPRESS_LATENCY, COMPRESSED_BEAT_LATENCY, chunk_layout
from hwgate.rtl.writer import BEAT_QUEUE
from hwgate.sim.streams import pack, parameters, start, unpack
from support.compress_cases import boundary_chunks, random_chunk
from support.memory import until, watch
from support.shares import repeats

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
BEAT = CONFIG.bus.bytes
#: Beats that the store has on their way when it sees the room.
_ON_THE_WAY = 3


def number(beat):
    return int.from_bytes(bytes(beat), "little")


class Bench:
    """What is due at the output; a step per cycle."""

    def __init__(self, dut):
        self.dut, self.cycle = dut, 0
        self.requests, self.beats = deque(), deque()  # that are to come
        self.level, self.offer = 0, None  # beats the writer has, request that waits
        # Cycles of beats in, requests, and beats out; those that were due before each request.
        self.given, self.taken, self.pushed, self.first = [], [], [], []
        self.outstanding = self.due_chunks = 0  # beats and chunks that lack their turn
        self.drains = True

    def expect(self, address, chunk):
        stored = compress(chunk)
        self.requests.append((address, len(stored)))
        self.beats.extend(map(number, stored))

    def step(self):
        dut, self.cycle = self.dut, self.cycle + 1
        if dut.beat__valid.value:
            self.given.append(self.cycle)
        payload = int(dut.o__payload.value) if dut.o__valid.value else None
        assert self.offer is None or payload == self.offer, "an offer stays until taken"
        taken = payload is not None and bool(dut.o__ready.value)
        self.offer = None if taken else payload
        chunk = unpack(chunk_layout(CONFIG), int(dut.chunk.value))
        assert bool(chunk["valid"]) == taken
        if taken:
            request = unpack(request_layout(CONFIG), payload)
            assert (request["address"], request["beats"]) == self.requests.popleft()
            assert chunk["address"] == request["address"]
            assert chunk["length"] == request["beats"] - 1
            self.taken.append(self.cycle)
            self.first.append(len(self.pushed) + self.outstanding)
            self.outstanding += request["beats"]
        if dut.o_beat__valid.value:
            assert self.outstanding, "beats come after their request"
            assert int(dut.o_beat__payload.value) == self.beats.popleft()
            assert self.level < BEAT_QUEUE, "no beat without room"
            self.outstanding -= 1
            self.level += 1
            self.pushed.append(self.cycle)
        if self.due_chunks > len(self.taken) or self.outstanding:
            assert not dut.idle.value
        self.level -= bool(self.level and self.drains)


async def give(dut, bench, address, chunks, on_the_way, idle):
    """A plane: its request, then its beats as a store gives them, late by what is on the way."""
    dut.i__payload.value = pack(request_layout(CONFIG), {
        "address": address, "beats": CHUNK_BEATS * len(chunks)})
    dut.i__valid.value = 1
    ready = False
    while not ready:
        await FallingEdge(dut.clk)
        ready = bool(dut.i__ready.value)
        await RisingEdge(dut.clk)
    dut.i__valid.value = 0
    for n, chunk in enumerate(chunks):
        bench.expect(address + n * BEAT * CHUNK_BEATS, chunk)
    bench.due_chunks += len(chunks)
    beats = deque(beat for chunk in chunks for beat in chunk)
    queue = deque()  # read by the store, and not yet at its output
    while beats or queue:
        dut.beat__valid.value, dut.beat__payload.value = 0, random.getrandbits(8 * BEAT)
        due = on_the_way.popleft()
        if due:
            dut.beat__valid.value, dut.beat__payload.value = 1, number(queue.popleft())
        await FallingEdge(dut.clk)
        go = beats and int(dut.room.value) > _ON_THE_WAY and random.random() >= idle
        if go:
            queue.append(beats.popleft())
        on_the_way.append(bool(go))
        await RisingEdge(dut.clk)
    dut.beat__valid.value = 0


async def play(dut, planes, *, give_idle=0.0, grant_idle=0.0, drain_idle=0.0):
    """Planes of (address, chunks) from the first request to idle."""
    bench = Bench(dut)
    dut.o_room.value = BEAT_QUEUE
    on_the_way = deque([0] * (_ON_THE_WAY - 1))

    async def serve():
        while True:
            dut.o__ready.value = random.random() >= grant_idle
            dut.o_room.value = BEAT_QUEUE - bench.level
            bench.drains = random.random() >= drain_idle
            await RisingEdge(dut.clk)

    tasks = [watch(dut, bench.step), cocotb.start_soon(serve())]
    try:
        for address, chunks in planes:
            await give(dut, bench, address, chunks, on_the_way, give_idle)
        await until(dut, lambda: not bench.beats and bench.due_chunks == len(bench.taken))
        await ClockCycles(dut.clk, 2)
        assert dut.idle.value and not bench.requests
    finally:
        for task in tasks:
            task.cancel()
        dut.i__valid.value = dut.beat__valid.value = 0
    return bench


async def prepare(dut):
    dut.i__valid.value = dut.beat__valid.value = dut.o__ready.value = 0
    dut.o_room.value, dut.packed.value = BEAT_QUEUE, 1
    await start(dut)
    assert dut.idle.value
    return np.random.default_rng(random.getrandbits(32))


def planes_of(rng, chunks):
    """Chunks in planes of one to five, anywhere."""
    planes = []
    while chunks:
        size = int(rng.integers(1, 6))
        address = int(rng.integers(1 << 10)) * BEAT * CHUNK_BEATS
        planes.append((address, chunks[:size]))
        chunks = chunks[size:]
    return planes


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def packs_every_number_of_bytes(dut):
    rng = await prepare(dut)
    chunks = boundary_chunks(rng, BEAT)
    await play(dut, planes_of(rng, chunks))
    await play(dut, planes_of(rng, [chunks[n] for n in rng.permutation(len(chunks))]))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_speeds(dut):
    rng = await prepare(dut)
    for _ in range(repeats(40)):
        await play(dut, planes_of(rng, [random_chunk(rng, BEAT) for _ in range(25)]),
                   give_idle=random.choice([0, 0.3, 0.8]),
                   grant_idle=random.choice([0, 0.5, 0.9]),
                   drain_idle=random.choice([0, 0.3, 0.8]))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def takes_a_beat_per_cycle_and_asks_in_time(dut):
    """With a writer that takes all: no beat waits, and each request comes when it is due."""
    rng = await prepare(dut)
    for chunks in ([random_chunk(rng, BEAT) for _ in range(40)],
                   [np.full((CHUNK_BEATS, BEAT), 1, np.uint8)] * 40,
                   [np.zeros((CHUNK_BEATS, BEAT), np.uint8)] * 40):
        bench = await play(dut, [(0, chunks)])
        assert (np.diff(bench.given) == 1).all()
        ends = bench.given[CHUNK_BEATS - 1::CHUNK_BEATS]
        assert bench.taken == [end + COMPRESS_LATENCY for end in ends]
        for taken, first, chunk in zip(bench.taken, bench.first, chunks, strict=True):
            length = len(compress(chunk))
            assert bench.pushed[first:first + length] == [
                taken + COMPRESSED_BEAT_LATENCY + n for n in range(length)]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_reset_forgets_everything(dut):
    rng = await prepare(dut)
    for _ in range(10):
        running = cocotb.start_soon(play(
            dut, planes_of(rng, [random_chunk(rng, BEAT) for _ in range(9)]), drain_idle=0.5))
        await ClockCycles(dut.clk, random.randint(5, 80))
        running.cancel()
        await prepare(dut)
        await play(dut, planes_of(rng, [random_chunk(rng, BEAT) for _ in range(4)]))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def other_maps_pass_at_once(dut):
    """Between compressed ones; nothing of them is kept."""
    rng = await prepare(dut)
    for _ in range(5):
        await play(dut, planes_of(rng, [random_chunk(rng, BEAT) for _ in range(7)]))
        dut.packed.value = 0
        for _ in range(50):
            dut.i__payload.value = random.getrandbits(len(dut.i__payload))
            dut.beat__payload.value = random.getrandbits(8 * BEAT)
            for port in (dut.i__valid, dut.beat__valid, dut.o__ready, dut.o_beat__ready):
                port.value = random.getrandbits(1)
            dut.o_room.value = random.randint(0, BEAT_QUEUE)
            await FallingEdge(dut.clk)
            for there, here in (("o", "i"), ("o_beat", "beat")):
                for ours, name in ((there, "payload"), (there, "valid"), (here, "ready")):
                    other = here if ours == there else there
                    assert getattr(dut, f"{ours}__{name}").value == (
                        getattr(dut, f"{other}__{name}").value)
            assert dut.room.value == dut.o_room.value and dut.idle.value
            assert not int(dut.chunk.value) & 1
            await RisingEdge(dut.clk)
        dut.i__valid.value = dut.beat__valid.value = 0
        dut.packed.value = 1
