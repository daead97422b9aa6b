"""Bench of MapMemory: two readers and a writer at once, a scoreboard for every cycle."""

import random
from collections import deque

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.burst import request_layout
from hwgate.rtl.onchip import CHIP_READ_LATENCY, chip_write_layout
from hwgate.sim.streams import pack, parameters, send, start, unpack
from support.memory import until, watch

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
SOURCES = parameters()["sources"]
BEAT = CONFIG.bus.bytes
WORDS = CONFIG.buffers.map_bytes // BEAT
#: What the memory holds; a reset does not change it.
MEMORY = [0] * WORDS


class Scoreboard:
    """Predicts every port in every cycle from the requests; one step per cycle."""

    def __init__(self, dut):
        self.dut, self.cycle = dut, 0
        self.offers = [(getattr(dut, f"i__{n}__valid"), getattr(dut, f"i__{n}__ready"),
                        getattr(dut, f"i__{n}__payload")) for n in range(SOURCES)]
        self.restart()

    def restart(self):
        """The memory is idle, or has been reset."""
        self.reading = None        # (source, word, beats left)
        self.due = {}              # cycle: (source, data) of a beat at the output
        self.writes = deque()      # (word, beats left) of write requests that lack beats
        self.grants, self.beats = [], [0] * SOURCES

    def step(self):
        self.cycle += 1
        self.output()
        self.grant()
        self.write()

    def output(self):
        dut, beat = self.dut, self.due.pop(self.cycle, None)
        assert bool(dut.valid.value) == (beat is not None)
        if beat is not None:
            assert (int(dut.source.value), int(dut.data.value)) == beat
            self.beats[beat[0]] += 1
        if self.reading is not None:  # its word is looked up before this cycle's write
            source, word, left = self.reading
            self.due[self.cycle + CHIP_READ_LATENCY - 1] = source, MEMORY[word % WORDS]
            self.reading = (source, word + 1, left - 1) if left > 1 else None

    def grant(self):
        valid = [bool(v.value) for v, _, _ in self.offers]
        taken = [n for n, (v, r, _) in enumerate(self.offers) if v.value and r.value]
        if self.reading is not None or not any(valid):
            assert not taken
        else:
            assert taken == [valid.index(True)], "the first of the waiting ones, at once"
        for source in taken:
            request = unpack(request_layout(CONFIG), int(self.offers[source][2].value))
            self.reading = source, request["address"] // BEAT, request["beats"]
            self.grants.append(source)

    def write(self):
        dut = self.dut
        written = unpack(chip_write_layout(CONFIG), int(dut.written.value))
        assert bool(dut.idle.value) == (not self.writes)
        assert bool(written["valid"]) == bool(dut.beat__valid.value)
        ready = len(self.writes) < 2
        assert dut.beat__ready.value and bool(dut.write__ready.value) == ready
        if dut.beat__valid.value:
            word, left = self.writes[0]
            data = int(dut.beat__payload.value)
            assert (written["address"], written["data"]) == (word % WORDS * BEAT, data)
            MEMORY[word % WORDS] = data
            self.writes[0] = word + 1, left - 1
            if left == 1:
                self.writes.popleft()
        if dut.write__valid.value and ready:
            request = unpack(request_layout(CONFIG), int(dut.write__payload.value))
            self.writes.append((request["address"] // BEAT, request["beats"]))


async def prepare(dut):
    for stream in (*(f"i__{n}" for n in range(SOURCES)), "write", "beat"):
        getattr(dut, f"{stream}__valid").value = 0
    await start(dut)
    board = Scoreboard(dut)
    watch(dut, board.step)
    return board


def requests(beats):
    """Payloads for these numbers of beats, anywhere; one in four runs over the end."""
    for count in random.sample(beats, len(beats)):
        word = random.randrange(WORDS) if random.random() < 0.75 else WORDS - 1
        yield pack(request_layout(CONFIG), {"address": word * BEAT, "beats": count})


def gaps(idle):
    return [int(random.random() < idle) for _ in range(61)]


async def feed(dut, board, count, idle):
    """``count`` beats, whenever a request lacks one."""
    while count:
        dut.beat__valid.value = bool(board.writes) and random.random() >= idle
        count -= bool(dut.beat__valid.value)
        dut.beat__payload.value = random.getrandbits(8 * BEAT)
        await RisingEdge(dut.clk)
    dut.beat__valid.value = 0


async def traffic(dut, board, beats, read_idle, write_idle):
    """Requests of these beats from every source and the writer, to the end."""
    tasks = [send(dut, f"i__{n}", requests(beats), gaps=gaps(read_idle)) for n in range(SOURCES)]
    tasks += [send(dut, "write", requests(beats), gaps=gaps(write_idle)),
              feed(dut, board, sum(beats), write_idle)]
    for task in [cocotb.start_soon(task) for task in tasks]:
        await task
    await until(dut, lambda: board.reading is None)
    await ClockCycles(dut.clk, CHIP_READ_LATENCY + 1)
    assert dut.idle.value and not board.due
    assert sorted(board.grants) == sorted(list(range(SOURCES)) * len(beats))
    assert board.beats == [sum(beats)] * SOURCES


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def serves_every_source(dut):
    board = await prepare(dut)
    for share in (0.2, 0.5, 0.8):
        await traffic(dut, board, [1, 1, 2, 3, 16, 16, 16, 7, 40], share, 1 - share)
        board.restart()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reads_and_writes_a_beat_per_cycle(dut):
    """All sources ask all the time: no cycle without a beat, and the sources in turn."""
    board, beats = await prepare(dut), [1] * 8 + [16] * 8 + [2] * 4
    begin = board.cycle
    await traffic(dut, board, beats, 0, 0)
    assert board.grants == sorted(board.grants)
    assert board.cycle - begin <= SOURCES * sum(beats) + CHIP_READ_LATENCY + 6


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reads_what_was_written_as_soon_as_it_is_idle(dut):
    board = await prepare(dut)
    for address in (0, WORDS // 2 * BEAT, (WORDS - 5) * BEAT):
        payload = pack(request_layout(CONFIG), {"address": address, "beats": 5})
        await send(dut, "write", [payload])
        await feed(dut, board, 5, 0)
        assert dut.idle.value
        written = MEMORY[address // BEAT:address // BEAT + 5]
        assert len(set(written)) == 5
        await send(dut, f"i__{SOURCES - 1}", [payload])
        await ClockCycles(dut.clk, CHIP_READ_LATENCY + 6)  # the scoreboard compares
    assert board.beats[SOURCES - 1] == 15


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_reset_forgets_requests_and_keeps_the_beats(dut):
    board = await prepare(dut)
    for _ in range(10):
        running = [cocotb.start_soon(task) for task in (
            send(dut, "i__0", requests([16] * 4)), send(dut, "write", requests([16] * 3)),
            feed(dut, board, 40, 0.3))]
        await ClockCycles(dut.clk, random.randint(3, 30))
        for task in running:
            task.cancel()
        for stream in ("i__0", "write", "beat"):
            getattr(dut, f"{stream}__valid").value = 0
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        board.restart()
        dut.rst.value = 0
        await traffic(dut, board, [1, 5, 16], 0.3, 0.3)
