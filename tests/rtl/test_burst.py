"""BurstSplitter against the pure function, cycle for cycle."""

import random
from itertools import pairwise
from pathlib import Path

import pytest

from hwgate.machine.bursts import AXI_PAGE_BYTES, split_bursts
from hwgate.machine.config import AcceleratorConfig, BusConfig
from hwgate.rtl.burst import FIRST_BURST_CYCLES, IDLE_CYCLES, REQUEST_BEATS_BITS, BurstSplitter
from hwgate.sim.block import run_block
from support.rtl import GAPS, receive, run, send
from support.shares import rest_slow

CONFIGS = [AcceleratorConfig(bus=BusConfig(data_bits=bits, burst_beats=longest,
                                           address_bits=address))
           for bits, longest, address in [(128, 256, 32), (64, 256, 32), (128, 16, 24),
                                          (64, 64, 16)]]


def name_of(config):
    bus = config.bus
    return f"{bus.data_bits}bit-{bus.burst_beats}beats-{bus.address_bits}addr"


each_config = pytest.mark.parametrize("config", CONFIGS, ids=name_of)


def edge_requests(config):
    """Requests that end, start and cross around every limit, longest one included."""
    size, longest = config.bus.bytes, config.bus.burst_beats
    page = AXI_PAGE_BYTES // size
    requests = [(page_offset * size + pages * AXI_PAGE_BYTES, beats)
                for page_offset in (0, 1, page - longest, page - 2, page - 1)
                for pages in (0, 3)
                for beats in (1, 2, longest - 1, longest, longest + 1, page - 1, page, page + 1)]
    whole = min((1 << REQUEST_BEATS_BITS) - 1, (1 << config.bus.address_bits) // size)
    end = (1 << config.bus.address_bits) - size
    return [*requests, (end, 1), (end - 2 * size, 3), (end + size - whole * size, whole)]


def random_requests(config, seed, count=30):
    rng = random.Random(seed)
    words = (1 << config.bus.address_bits) // config.bus.bytes
    requests = []
    for _ in range(count):
        beats = min(rng.choice([1, 7, 40, 300, 1500]) + rng.randrange(20), words)
        requests.append((rng.randrange(words - beats + 1) * config.bus.bytes, beats))
    return requests


def expected_bursts(config, requests):
    """Payloads of the output stream."""
    return [(address, beats - 1, last) for request in requests
            for bursts in [split_bursts(config, *request)]
            for number, (address, beats) in enumerate(bursts)
            for last in [number == len(bursts) - 1]]


def simulate(config, requests, *, gaps=(), stalls=()):
    """Bursts of the RTL for ``requests``, and those of the function."""
    dut, results = BurstSplitter(config), []
    expected = expected_bursts(config, requests)

    async def source(ctx):
        await send(ctx, dut.i, ({"address": a, "beats": n} for a, n in requests), gaps=gaps)

    async def sink(ctx):
        results.extend(await receive(ctx, dut.o, len(expected), gaps=stalls))
        assert not ctx.get(dut.o.valid)

    run(dut, source, sink, deadline=20 * (len(expected) + len(requests)) + 100)
    return [(r.address, r.beats_minus_1, bool(r.last)) for r in results], expected


@each_config
def test_function_covers_the_request_within_the_limits(config):
    for address, beats in edge_requests(config) + random_requests(config, 3, count=200):
        bursts = split_bursts(config, address, beats)
        ends = [start + count * config.bus.bytes for start, count in bursts]
        assert bursts[0][0] == address
        assert ends[-1] == address + beats * config.bus.bytes
        assert ends[:-1] == [start for start, _ in bursts[1:]]
        for (start, count), end in zip(bursts, ends, strict=True):
            assert 1 <= count <= config.bus.burst_beats
            assert start // AXI_PAGE_BYTES == (end - 1) // AXI_PAGE_BYTES
        for (_, count), (start, _) in pairwise(bursts):  # none is shorter than it must be
            assert count == config.bus.burst_beats or start % AXI_PAGE_BYTES == 0


@each_config
def test_matches_function_at_the_limits(config):
    results, expected = simulate(config, edge_requests(config))
    assert results == expected


@each_config
@pytest.mark.parametrize("gaps", GAPS)
@pytest.mark.parametrize("stalls", GAPS)
def test_matches_function_under_gaps_and_stalls(config, gaps, stalls):
    requests = random_requests(config, f"{gaps}-{stalls}")
    results, expected = simulate(config, requests, gaps=GAPS[gaps], stalls=GAPS[stalls])
    assert results == expected


@each_config
def test_cycles_of_back_to_back_requests(config):
    requests = random_requests(config, 5)
    dut, taken = BurstSplitter(config), []

    async def bench(ctx):
        ctx.set(dut.o.ready, 1)
        for address, beats in requests:
            assert ctx.get(dut.i.ready)
            ctx.set(dut.i.payload, {"address": address, "beats": beats})
            ctx.set(dut.i.valid, 1)
            await ctx.tick().repeat(FIRST_BURST_CYCLES)
            bursts = split_bursts(config, address, beats)
            for number, burst in enumerate(bursts, 1):
                assert not ctx.get(dut.i.ready)
                assert ctx.get(dut.o.valid)
                taken.append((ctx.get(dut.o.p.address), ctx.get(dut.o.p.beats_minus_1) + 1))
                assert taken[-1] == burst
                await ctx.tick().repeat(IDLE_CYCLES if number == len(bursts) else 1)

    run(dut, bench)
    assert len(taken) > len(requests)


@pytest.mark.parametrize("config", rest_slow(CONFIGS[:3]), ids=name_of)
@pytest.mark.parametrize("gaps, stalls", [("always", "always"), ("random", "bursty")])
def test_matches_function_on_verilator(config, gaps, stalls):
    requests = edge_requests(config) + random_requests(config, 6)
    run_block(BurstSplitter(config), Path(__file__).with_name("bench_burst.py"),
              parameters={"config": config.to_dict(), "requests": requests,
                          "bursts": expected_bursts(config, requests),
                          "gaps": GAPS[gaps], "stalls": GAPS[stalls]})


@pytest.mark.parametrize("address, beats, sentence", [
    (0, 0, "A request must have at least 1 beat, not 0"),
    (8, 1, "A request must start at a multiple of 16 bytes, not at 0x8"),
    (0xffff_fff0, 2, "A request of 2 beats at 0xfffffff0 must end by 0x100000000"),
])
def test_function_refuses(address, beats, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        split_bursts(AcceleratorConfig(), address, beats)
