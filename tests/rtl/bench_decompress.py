"""Bench of Decompress: chunks of any zeros and plain beats, cycle for cycle."""

import random
from collections import deque

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, RisingEdge

from hwgate.machine.config import CHUNK_BEATS, AcceleratorConfig
from hwgate.quant.compress import beats_needed, compress
from hwgate.rtl.decompress import DECOMPRESS_LATENCY
from hwgate.sim.streams import parameters, start
from support.compress_cases import boundary_chunks, random_chunk
from support.memory import until, watch
from support.shares import repeats

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
BEAT, DEPTH = CONFIG.bus.bytes, parameters()["depth"]
#: Cycles from a beat at the input of a queue to the same beat at its output.
_QUEUE = 1


def number(beat):
    return int.from_bytes(bytes(beat), "little")


class Bench:
    """Knows when each beat is due: from its last stored beat on, a cycle after the one before."""

    def __init__(self, dut, packed):
        self.dut, self.packed, self.cycle = dut, packed, 0
        self.expected = deque()    # beats that are not yet taken, each once its chunk is asked for
        self.due = deque()         # (stored beats that it needs) of those
        self.arrived, self.stored = [], 0
        self.asked = self.taken = 0
        self.last = -1             # cycle in which the beat before was taken
        self.takes = []

    def ask(self, beats):
        """A request for these beats; what is stored of them."""
        stored = compress(beats) if self.packed else beats
        needed = beats_needed(beats)[0] if self.packed else range(1, len(beats) + 1)
        self.expected.extend(map(number, beats))
        self.due.extend(self.stored + count for count in needed)
        self.stored += len(stored)
        self.asked += len(beats)
        return stored

    def step(self):
        dut, self.cycle = self.dut, self.cycle + 1
        if dut.valid.value:
            self.arrived.append(self.cycle)
        ready = False
        if self.due and self.due[0] <= len(self.arrived):
            there = self.arrived[self.due[0] - 1] + _QUEUE + DECOMPRESS_LATENCY
            ready = self.cycle >= max(there, self.last + 1)
        assert bool(dut.o__valid.value) == ready, f"beat {self.taken}"
        if ready:
            assert int(dut.o__payload.value) == self.expected[0], f"beat {self.taken}"
            if dut.o__ready.value:
                self.expected.popleft()
                self.due.popleft()
                self.taken, self.last = self.taken + 1, self.cycle
                self.takes.append(self.cycle)


async def play(dut, requests, *, packed=True, answer_idle=0.0, take_idle=0.0, latency=0):
    """Beats of the requests, as the room allows; the bench, when all are taken."""
    dut.packed.value = packed
    bench = Bench(dut, packed)
    beats = deque()

    async def ask():
        for chunk in requests:
            while bench.asked + len(chunk) - bench.taken > DEPTH:
                await RisingEdge(dut.clk)
            stored = bench.ask(chunk)
            dut.asked.value, dut.length.value = packed, len(stored) - 1
            await RisingEdge(dut.clk)
            dut.asked.value, dut.length.value = 0, random.randrange(CHUNK_BEATS)
            beats.extend(stored)

    async def answer():
        while True:
            dut.data.value, dut.valid.value = random.getrandbits(8 * BEAT), 0
            if beats and latency:
                await ClockCycles(dut.clk, random.randint(0, latency))
            while beats:
                if random.random() < answer_idle:
                    dut.data.value, dut.valid.value = random.getrandbits(8 * BEAT), 0
                else:
                    dut.data.value, dut.valid.value = number(beats.popleft()), 1
                await RisingEdge(dut.clk)
            else:
                dut.data.value, dut.valid.value = random.getrandbits(8 * BEAT), 0
                await RisingEdge(dut.clk)

    async def take():
        while True:
            dut.o__ready.value = random.random() >= take_idle
            await RisingEdge(dut.clk)

    tasks = [watch(dut, bench.step), *map(cocotb.start_soon, (answer(), take()))]
    try:
        await ask()
        await until(dut, lambda: not bench.expected)
        await ClockCycles(dut.clk, 4)
    finally:
        for task in tasks:
            task.cancel()
        dut.valid.value = 0
    return bench


async def prepare(dut):
    dut.valid.value = dut.asked.value = 0
    await start(dut)
    return np.random.default_rng(random.getrandbits(32))


def plain(rng, lengths):
    return [rng.integers(0, 256, (length, BEAT), dtype=np.uint8) for length in lengths]


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def restores_every_number_of_bytes(dut):
    rng = await prepare(dut)
    chunks = boundary_chunks(rng, BEAT)
    await play(dut, chunks)
    await play(dut, [chunks[n] for n in rng.permutation(len(chunks))])


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_speeds(dut):
    rng = await prepare(dut)
    for n in range(repeats(40)):
        idle = {"answer_idle": random.choice([0, 0.3, 0.8]), "latency": random.choice([0, 0, 20]),
                "take_idle": random.choice([0, 0.3, 0.8])}
        if n % 4 == 3:  # a map that is not compressed, between others
            await play(dut, plain(rng, rng.integers(1, 9, 12)), packed=False, **idle)
        else:
            await play(dut, [random_chunk(rng, BEAT) for _ in range(30)], **idle)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def a_beat_per_cycle(dut):
    """Behind a memory that is ahead, the user never waits, whatever the chunks are."""
    rng = await prepare(dut)
    for chunks in ([random_chunk(rng, BEAT) for _ in range(DEPTH // CHUNK_BEATS)],
                   [np.zeros((CHUNK_BEATS, BEAT), np.uint8)] * (DEPTH // CHUNK_BEATS),
                   plain(rng, [CHUNK_BEATS] * (DEPTH // CHUNK_BEATS))):
        dut.packed.value = 1
        ahead = Bench(dut, True)
        stored = [beat for chunk in chunks for beat in ahead.ask(chunk)]
        dut.o__ready.value = 0
        for chunk in chunks:
            dut.asked.value, dut.length.value = 1, len(compress(chunk)) - 1
            await RisingEdge(dut.clk)
        dut.asked.value = 0
        task = watch(dut, ahead.step)
        for beat in stored:
            dut.valid.value, dut.data.value = 1, number(beat)
            await RisingEdge(dut.clk)
        dut.valid.value = 0
        await ClockCycles(dut.clk, 3)
        dut.o__ready.value = 1
        await until(dut, lambda ahead=ahead: not ahead.expected)
        assert (np.diff(ahead.takes) == 1).all()
        task.cancel()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_reset_forgets_everything(dut):
    rng = await prepare(dut)
    for _ in range(10):
        running = cocotb.start_soon(play(dut, [random_chunk(rng, BEAT) for _ in range(9)]))
        await ClockCycles(dut.clk, random.randint(5, 60))
        running.cancel()
        await prepare(dut)
        await play(dut, [random_chunk(rng, BEAT) for _ in range(4)])
