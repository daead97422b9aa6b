"""Bench of Sequencer: programs in a memory of any speed, layers of any length, errors at any
moment. Every run leaves a log of (cycle, event), which must be the one its inputs call for."""

import random

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.layouts import Opcode, descriptor_layout
from hwgate.machine.regs import ErrorCause
from hwgate.rtl.burst import request_layout
from hwgate.rtl.sequencer import DECODE_CYCLES, FINISH_CYCLES, START_CYCLES
from hwgate.sim.streams import pack, parameters, start
from support.shares import repeats

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
LAYOUT, BEAT = descriptor_layout(), CONFIG.bus.bytes
SIZE = LAYOUT.size_bytes

#: What the sequencer decides, and what it is told.
OUTPUTS, INPUTS = ("begin", "layer_done", "clear"), ("finished", "read_error", "write_error")


def descriptor(opcode=Opcode.LAYER, digest=CONFIG.digest):
    """Random bytes in every field but two."""
    values = LAYOUT.unpack(random.randbytes(SIZE))
    return LAYOUT.pack(values | {"opcode": int(opcode), "digest": digest})


def program(layers, end=None):
    """Some layers, and the end of the program or something in its place."""
    return [*(descriptor() for _ in range(layers)),
            descriptor(Opcode.END) if end is None else end]


class Bench:
    """Memory and datapath around the sequencer; :meth:`run` runs a program and checks its log.

    ``idle`` is the share of cycles in which nothing comes though something could.
    """

    def __init__(self, dut, *, latency=12, idle=0.3, length=25):
        self.dut, self.latency, self.idle, self.length = dut, latency, idle, length

    async def run(self, listing, *, read_error=None, write_error=None, busy=0, drain=0):
        """Run to done; the cycles from start to done, and the cause and the layers it reports.

        Errors come in the given cycles after the start, and for ``busy`` cycles from then on the
        bus is not quiet; nor is it for ``drain`` cycles from the start on.
        """
        self.errors = {"read_error": read_error, "write_error": write_error}
        self.troubled = {e + n for e in self.errors.values() if e is not None
                         for n in range(busy + 1)} | {*range(drain)}
        self.listing, self.log, self.quiet, self.cycle = listing, [], [], 0
        self.base = BEAT * random.randrange(1 << 10)
        self.beats, self.wait, self.fetched, self.running = [], 0, 0, 0
        self.before = {"request": False, "halt": False, "done": False}
        self.dut.program.value = self.base
        while not self.before["done"] or self.cycle < 2:
            assert self.cycle < 10_000, "never done"
            self.drive()
            await FallingEdge(self.dut.clk)
            self.observe()
            await RisingEdge(self.dut.clk)
            self.cycle += 1
        outputs = [event for event in self.log if event[1] in (*OUTPUTS, "halt", "done")]
        cause, wanted = expected(self.listing, self.log, self.quiet)
        assert outputs == wanted
        layers = sum(event == "layer_done" for _, event in outputs)
        status = int(self.dut.error.value), int(self.dut.layers.value)
        assert status == (cause, layers)
        assert not self.dut.busy.value
        return outputs[-1][0], cause, layers

    def drive(self):
        """Inputs of a cycle."""
        dut, random_beat = self.dut, random.getrandbits(8 * BEAT)
        occupied = (self.beats or self.running) and not self.before["halt"] or 0 < self.cycle < 3
        dut.start.value = self.cycle == 0 or bool(occupied) and random.random() < 0.05  # ignored
        self.wait -= self.wait > 0
        comes = bool(self.beats) and not self.wait and random.random() >= self.idle
        fetching = bool(self.beats)
        dut.valid.value, dut.last.value = comes, len(self.beats) == 1
        dut.data.value = int.from_bytes(self.beats.pop(0), "little") if comes else random_beat
        dut.finished.value = self.running == 1
        self.running -= self.running > 0
        for name, cycle in self.errors.items():
            getattr(dut, name).value = cycle == self.cycle
        traffic = self.running > 0 and random.random() < 0.8
        self.quiet.append(not (fetching or traffic or self.cycle in self.troubled))
        dut.quiet.value = self.quiet[-1]
        dut.o__ready.value = not self.before["halt"] and random.random() >= self.idle

    def observe(self):
        """Log the events of a cycle; what begins here is driven from the next one on."""
        dut = self.dut
        seen = {name for name in (*OUTPUTS, *INPUTS) if getattr(dut, name).value}
        if dut.valid.value and dut.last.value:
            seen.add("last")
        now = {"request": bool(dut.o__valid.value), "halt": bool(dut.halt.value),
               "done": bool(dut.done.value) and self.cycle > 0}
        seen |= {name for name, level in now.items() if level and not self.before[name]}
        self.before = now
        self.log += [(self.cycle, name) for name in sorted(seen)]
        assert bool(dut.busy.value) == (self.cycle > 0 and not now["done"])
        if now["request"] and dut.o__ready.value:
            assert int(dut.o__payload.value) == pack(request_layout(CONFIG), {
                "address": self.base + self.fetched * SIZE, "beats": SIZE // BEAT})
            raw = self.listing[self.fetched]
            self.beats = [raw[at:at + BEAT] for at in range(0, SIZE, BEAT)]
            self.wait, self.fetched = random.randint(0, self.latency), self.fetched + 1
        if "begin" in seen:
            self.running = random.randint(1, self.length)
        if self.running or "finished" in seen:
            assert (int(dut.layer.value).to_bytes(SIZE, "little")
                    == self.listing[self.fetched - 1]), "stable while the layer runs"
        if "clear" in seen:
            self.running = 0


def expected(listing, log, quiet):
    """Cause and log of outputs that the inputs of a run call for."""
    faults, wanted, end = [], [], None
    lasts = [cycle for cycle, event in log if event == "last"]
    requests = [cycle for cycle, event in log if event == "request"]
    finishes = [cycle for cycle, event in log if event == "finished"]
    cleared = 1 + next(n for n, still in enumerate(quiet) if still and n >= 1)
    begun = cleared - 2 + START_CYCLES
    assert all(request == due for request, due in zip(
        requests, [begun, *(cycle + FINISH_CYCLES for cycle in finishes)], strict=False))
    for raw, last in zip(listing, lasts, strict=False):
        fields = LAYOUT.unpack(raw)
        if fields["opcode"] not in (Opcode.LAYER, Opcode.END):
            faults.append((last + DECODE_CYCLES - 1, 2, ErrorCause.OPCODE))
        elif fields["digest"] != CONFIG.digest:
            faults.append((last + DECODE_CYCLES - 1, 2, ErrorCause.DIGEST))
        elif fields["opcode"] == Opcode.END:
            end = last + DECODE_CYCLES
        else:
            wanted.append((last + DECODE_CYCLES, "begin"))
    wanted += [(cycle + FINISH_CYCLES - 1, "layer_done") for cycle in finishes]
    faults += [(cycle, order, cause) for order, (name, cause) in enumerate(
        [("read_error", ErrorCause.READ), ("write_error", ErrorCause.WRITE)])
        for cycle, event in log if event == name and cycle > cleared]
    wanted += [(1, "halt"), (cleared, "clear")]
    if faults and (end is None or min(faults)[0] < end):
        cycle, _, cause = min(faults)
        halt = cycle + 1
        clear = 1 + next(n for n, still in enumerate(quiet) if still and n >= halt)
        wanted = [event for event in wanted if event[0] < halt]
        wanted += [(halt, "halt"), (clear, "clear"), (clear + 1, "done")]
    else:
        cause = ErrorCause.NONE
        wanted.append((end + 1, "done"))
    return cause, sorted(wanted)


async def prepare(dut, **options):
    for name in ("start", "valid", "last", *INPUTS):
        getattr(dut, name).value = 0
    dut.quiet.value = 1
    await start(dut)
    assert not (dut.busy.value or dut.done.value or dut.o__valid.value)
    return Bench(dut, **options)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def layers_run_in_order(dut):
    for options in ({"latency": 0, "idle": 0, "length": 1}, {}, {"latency": 99, "idle": 0.8}):
        bench = await prepare(dut, **options)
        for layers in (0, 1, 2, 7):
            _, cause, done = await bench.run(program(layers))
            assert (cause, done) == (ErrorCause.NONE, layers)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def bad_descriptors_stop_it(dut):
    """Unknown opcodes (all zeros among them), another digest, in the first place and later."""
    bench = await prepare(dut)
    bits = [descriptor(opcode, CONFIG.digest ^ 1 << n) for n in (0, 7, 31)
            for opcode in (Opcode.LAYER, Opcode.END)]
    bad = [(bytes(SIZE), ErrorCause.OPCODE), (b"\xff" * SIZE, ErrorCause.OPCODE),
           *((descriptor(opcode), ErrorCause.OPCODE) for opcode in (0, 3, 0x81, 0xff)),
           *((raw, ErrorCause.DIGEST) for raw in bits)]
    for layers in (0, 1, 3):
        for raw, wanted in bad:
            _, cause, done = await bench.run(program(layers, raw))
            assert (cause, done) == (wanted, layers)
    _, cause, done = await bench.run(program(2))
    assert (cause, done) == (ErrorCause.NONE, 2)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def an_error_in_any_cycle_stops_it(dut):
    """Each cycle of a short run in turn; a clean run follows every one."""
    bench = await prepare(dut, latency=2, idle=0, length=6)
    causes = set()
    for busy in (0, 15):
        for cycle in range(1, 60):
            errors = random.choice([{"read_error": cycle}, {"write_error": cycle},
                                    {"read_error": cycle, "write_error": cycle},
                                    {"read_error": cycle + 2, "write_error": cycle},
                                    {"read_error": cycle, "write_error": cycle + 2}])
            _, cause, done = await bench.run(program(2), busy=busy, **errors)
            causes.add((cause, done))
            _, cause, done = await bench.run(program(2), drain=busy)
            assert (cause, done) == (ErrorCause.NONE, 2)
    assert causes >= {(cause, done) for cause in (ErrorCause.READ, ErrorCause.WRITE)
                      for done in (0, 1)}


@cocotb.test(timeout_time=500, timeout_unit="us")
async def random_runs(dut):
    bench = await prepare(dut)
    for _ in range(repeats(60)):
        end = random.choice([None, None, bytes(SIZE), descriptor(Opcode.LAYER, 0)])
        cycle = random.randint(1, 200)
        error = random.choice([{}, {}, {"read_error": cycle}, {"write_error": cycle}])
        await bench.run(program(random.randint(0, 4), end), busy=random.choice([0, 0, 30]),
                        drain=random.choice([0, 0, 30]), **error)
