# amaranth: UnusedElaboratable=no
"""RegisterBank: AXI4-Lite handshakes, and the driver against the RTL."""

import random
from itertools import product
from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, preset
from hwgate.machine.driver import Driver, EngineError
from hwgate.machine.regs import (
    Access,
    ErrorCause,
    Field,
    Register,
    RegisterMap,
    counter_names,
    engine_registers,
)
from hwgate.rtl.axi import Response
from hwgate.rtl.regs import READ_CYCLES, WRITE_CYCLES, RegisterBank, port_name
from hwgate.sim.block import run_block
from support.rtl import GAPS, run

#: Every kind of field, at, below and across byte boundaries; RW word, pulse and input.
SMALL = RegisterMap("small", (
    Register("FIRST", "", (Field("pulse", 3, Access.W1P, ""),
                           Field("wide", 17, Access.RW, "", reset=0x1_2345),
                           Field("level", 4, Access.RO, ""),
                           Field("late", 2, Access.W1P, ""))),
    Register("WORD", "", (Field("value", 32, Access.RW, ""),)),
    Register("FIXED", "", (Field("value", 32, Access.RO, "", constant=0xdead_beef),)),
))
BEYOND = SMALL.bytes


class Master:
    """AXI4-Lite master with an order of the write channels and late acceptance of answers."""

    def __init__(self, ctx, bank, *, address_late=0, data_late=0, answer_late=0):
        self.ctx, self.bus = ctx, bank.bus
        self.address_late, self.data_late, self.answer_late = address_late, data_late, answer_late

    async def access(self, offset, value=None, strobe=0xf):
        """Answer and data of one access, once it was taken; a write if there is a ``value``."""
        bus, write = self.bus, value is not None
        pending = ({"aw": (self.address_late, {"addr": offset}),
                    "w": (self.data_late, {"data": value, "strb": strobe})} if write else
                   {"ar": (self.address_late, {"addr": offset})})
        answer = "b" if write else "r"
        cycle, waited, seen = 0, 0, None
        while True:
            for channel, (late, payload) in pending.items():
                if cycle == late:
                    self.ctx.set(getattr(bus, f"{channel}valid"), 1)
                    for name, payload_value in payload.items():
                        self.ctx.set(getattr(bus, f"{channel}{name}"), payload_value)
            self.ctx.set(getattr(bus, f"{answer}ready"), waited >= self.answer_late)
            channels = [*pending, answer]
            _, _, *values = await self.ctx.tick().sample(
                *(getattr(bus, f"{c}valid") for c in channels),
                *(getattr(bus, f"{c}ready") for c in channels),
                getattr(bus, f"{answer}resp"), bus.rdata)
            valid = dict(zip(channels, values, strict=False))
            ready = dict(zip(channels, values[len(channels):], strict=False))
            for channel in list(pending):
                if valid[channel] and ready[channel]:
                    del pending[channel]
                    self.ctx.set(getattr(bus, f"{channel}valid"), 0)
                    for name in ("addr", "data", "strb"):
                        if hasattr(bus, f"{channel}{name}"):
                            self.ctx.set(getattr(bus, f"{channel}{name}"), ~0)
            if valid[answer]:
                assert not pending, "answered before the access was complete"
                result = Response(values[-2]), None if write else values[-1]
                assert seen in (None, result), "the answer changed before it was taken"
                seen, waited = result, waited + 1
                if ready[answer]:
                    self.ctx.set(getattr(bus, f"{answer}ready"), 0)
                    return result
            else:
                assert seen is None, "the answer went away before it was taken"
            cycle += 1

    async def read(self, offset):
        response, value = await self.access(offset)
        assert response is Response.OKAY
        return value

    async def write(self, offset, value):
        assert await self.access(offset, value) == (Response.OKAY, None)


def in_master(bank, bench, **options):
    """Run ``bench(ctx, master)``."""
    async def wrapped(ctx):
        await bench(ctx, Master(ctx, bank, **options))
    run(bank, wrapped, deadline=100_000)


def outputs(ctx, bank):
    """Values of the RW ports, and of the pulses."""
    return {port_name(r, f): ctx.get(getattr(bank, port_name(r, f)))
            for r in bank.regmap.registers for f in r.fields if f.access is not Access.RO}


def merge(old, new, strobe):
    mask = sum(0xff << 8 * byte for byte in range(4) if strobe >> byte & 1)
    return old & ~mask | new & mask


@pytest.mark.parametrize("address_late, data_late, answer_late",
                         list(product((0, 1, 4), (0, 1, 4), (0, 1, 3))))
def test_random_accesses_match_a_word_model(address_late, data_late, answer_late):
    bank = RegisterBank(SMALL)

    async def bench(ctx, master):
        rng = random.Random(1)
        first, word = SMALL["FIRST"].pack({"wide": 0x1_2345}), 0
        keep = SMALL["FIRST"].pack({"wide": 0x1_ffff})
        for _ in range(60):
            level = rng.randrange(16)
            ctx.set(bank.first__level, level)
            offset = rng.choice([0, 4, 8, BEYOND, BEYOND + 4, 0xffc]) + rng.randrange(4)
            if rng.random() < 0.6:
                value, strobe = rng.getrandbits(32), rng.randrange(16)
                response, _ = await master.access(offset, value, strobe)
                if offset // 4 == 0:
                    first = merge(first, value, strobe) & keep
                elif offset // 4 == 1:
                    word = merge(word, value, strobe)
            else:
                response, value = await master.access(offset)
                levels = SMALL["FIRST"].pack({"level": level})
                expected = {0: first | levels, 1: word, 2: 0xdead_beef}
                assert value == expected.get(offset // 4, 0)
            assert response is (Response.OKAY if offset < BEYOND else Response.SLVERR)
            ports = outputs(ctx, bank)
            assert ports["first__wide"] == SMALL["FIRST"].unpack(first)["wide"]
            assert ports["word__value"] == word

    in_master(bank, bench, address_late=address_late, data_late=data_late,
              answer_late=answer_late)


@pytest.mark.parametrize("strobe", range(16))
def test_pulse_lasts_one_cycle_and_needs_its_strobe(strobe):
    bank, seen = RegisterBank(SMALL), []

    async def monitor(ctx):
        for _ in range(30):
            seen.append((ctx.get(bank.first__pulse), ctx.get(bank.first__late)))
            await ctx.tick()

    async def bench(ctx):
        await Master(ctx, bank).access(SMALL.offset("FIRST"), 0xffff_ffff, strobe)

    run(bank, monitor, bench)
    pulses = [pair for pair in seen if pair != (0, 0)]
    expected = (7 if strobe & 1 else 0, 3 if strobe & 8 else 0)
    assert pulses == ([expected] if expected != (0, 0) else [])


@pytest.mark.parametrize("offset", [BEYOND, BEYOND + 4, 0x800, 0xffc])
def test_unmapped_accesses_answer_an_error_and_change_nothing(offset):
    bank = RegisterBank(SMALL)

    async def bench(ctx, master):
        before = outputs(ctx, bank)
        assert await master.access(offset, 0xffff_ffff) == (Response.SLVERR, None)
        assert outputs(ctx, bank) == before
        assert await master.access(offset) == (Response.SLVERR, 0)
        assert await master.access(SMALL.offset("FIXED")) == (Response.OKAY, 0xdead_beef)

    in_master(bank, bench)


def test_latencies():
    bank = RegisterBank(SMALL)

    async def bench(ctx):
        bus = bank.bus
        ctx.set(bus.awvalid, 1)
        ctx.set(bus.wvalid, 1)
        ctx.set(bus.wstrb, 0xf)
        ctx.set(bus.wdata, 1)
        ctx.set(bus.arvalid, 1)
        assert [ctx.get(r) for r in (bus.awready, bus.wready, bus.arready)] == [1, 1, 1]
        for cycle in range(1, max(READ_CYCLES, WRITE_CYCLES) + 3):
            await ctx.tick()
            for valid in (bus.awvalid, bus.wvalid, bus.arvalid):
                ctx.set(valid, 0)
            assert ctx.get(bus.rvalid) == (cycle >= READ_CYCLES)
            assert ctx.get(bus.bvalid) == (cycle >= WRITE_CYCLES)
            assert ctx.get(bank.first__pulse) == (cycle == WRITE_CYCLES)

    run(bank, bench)


@pytest.mark.parametrize("stalls", GAPS)
def test_reads_and_writes_at_the_same_time(stalls):
    """Both directions back to back, with valid high throughout: none loses or mixes a word."""
    bank, words = RegisterBank(SMALL), [random.Random(n).getrandbits(32) for n in range(40)]
    pattern = GAPS[stalls] or (0,)
    read, answered = [], []

    async def writer(ctx):
        bus, sent = bank.bus, {"aw": 0, "w": 0}
        ctx.set(bus.awaddr, SMALL.offset("WORD"))
        ctx.set(bus.wstrb, 0xf)
        for cycle in range(100_000):
            ctx.set(bus.awvalid, sent["aw"] < len(words))
            ctx.set(bus.wvalid, sent["w"] < len(words))
            ctx.set(bus.wdata, words[min(sent["w"], len(words) - 1)])
            ctx.set(bus.bready, not pattern[cycle % len(pattern)])
            _, _, aw, w, b = await ctx.tick().sample(
                bus.awvalid & bus.awready, bus.wvalid & bus.wready, bus.bvalid & bus.bready)
            sent["aw"] += aw
            sent["w"] += w
            if b:
                answered.append(ctx.get(bank.word__value))
            if len(answered) == len(words):
                return

    async def reader(ctx):
        bus, asked, offered = bank.bus, 0, None
        ctx.set(bus.araddr, SMALL.offset("WORD"))
        for cycle in range(80):
            ctx.set(bus.arvalid, cycle < 70)
            ctx.set(bus.rready, cycle >= 70 or not pattern[-1 - cycle % len(pattern)])
            _, _, address, valid, ready, data = await ctx.tick().sample(
                bus.arvalid & bus.arready, bus.rvalid, bus.rready, bus.rdata)
            assert offered in (None, (valid, data)), "the answer changed before it was taken"
            asked += address
            offered = (valid, data) if valid and not ready else None
            if valid and ready:
                read.append(data)
        assert len(read) == asked

    run(bank, writer, reader)
    assert answered == words
    positions = [[0, *words].index(value) for value in read]
    assert positions == sorted(positions)
    assert len(read) >= 5


@pytest.mark.parametrize("delay", range(1 + WRITE_CYCLES))
def test_pulse_reads_as_zero(delay):
    """A read that samples the registers ``delay`` cycles around the pulse."""
    bank, pulses = RegisterBank(SMALL), []

    async def bench(ctx):
        bus = bank.bus
        ctx.set(bus.awvalid, 1)
        ctx.set(bus.wvalid, 1)
        ctx.set(bus.wdata, SMALL["FIRST"].pack({"pulse": 7, "late": 3}))
        ctx.set(bus.wstrb, 0b1001)
        for cycle in range(delay + READ_CYCLES):
            ctx.set(bus.arvalid, cycle == delay)
            await ctx.tick()
            pulses.append(ctx.get(bank.first__pulse))
            ctx.set(bus.awvalid, 0)
            ctx.set(bus.wvalid, 0)
        assert ctx.get(bus.rvalid)
        assert SMALL["FIRST"].unpack(ctx.get(bus.rdata))["pulse"] == 0
        assert SMALL["FIRST"].unpack(ctx.get(bus.rdata))["late"] == 0

    run(bank, bench)
    assert pulses.count(7) == 1


def test_map_must_fit_the_address():
    with pytest.raises(ValueError, match="^Register map 'small' has 12 bytes, but an address of "
                                         "3 bits reaches 8$"):
        RegisterBank(SMALL, address_bits=3)


each_config = pytest.mark.parametrize(
    "config", [AcceleratorConfig(), preset("tiny"), preset("wide", lanes=16)],
    ids=lambda c: f"lanes{c.lanes}")


@each_config
def test_driver_on_the_bank(config):
    bank = RegisterBank(engine_registers(config))

    async def engine(ctx):
        """Done some cycles after a start, with an error if the program address says so."""
        layers = 0
        while True:  # not `async for`: it breaks when the body takes more than a cycle
            _, _, start = await ctx.tick().sample(bank.control__start)
            if start:
                ctx.set(bank.status__done, 0)
                ctx.set(bank.status__busy, 1)
                await ctx.tick().repeat(20)
                layers += 1
                ctx.set(bank.layers__value, layers)
                ctx.set(bank.status__error, ctx.get(bank.program__address) >> 4)
                ctx.set(bank.status__busy, 0)
                ctx.set(bank.status__done, 1)

    async def bench(ctx):
        master = Master(ctx, bank)
        driver = Driver(master, config)
        await driver.check()
        names = counter_names(config)
        for number, name in enumerate(names):
            ctx.set(getattr(bank, f"{name}__value"), number << 20 | number)
        counters = await driver.counters()
        assert list(counters.values()) == [n << 20 | n for n in range(len(names))]
        await driver.start(0, irq=True)
        assert ctx.get(bank.control__irq_enable)
        status = await driver.wait()
        assert (status.error, status.layers) == (ErrorCause.NONE, 1)
        await driver.start(ErrorCause.READ << 4)
        assert not ctx.get(bank.control__irq_enable)
        with pytest.raises(EngineError, match="READ after 2 layers") as caught:
            await driver.wait()
        assert caught.value.cause is ErrorCause.READ

    run(bank, bench, background=[engine], deadline=100_000)


@each_config
@pytest.mark.parametrize("seed", [1, 2])
def test_axi_lite_master_on_verilator(config, seed):
    run_block(RegisterBank(engine_registers(config)), Path(__file__).with_name("bench_regs.py"),
              parameters={"config": config.to_dict()}, seed=seed)
