"""Bench of DotProduct: every multiplier by itself, and the largest and smallest sums."""

import cocotb
import numpy as np

from hwgate.machine.config import TAPS, AcceleratorConfig, FormatConfig
from hwgate.quant.dot import dot
from hwgate.rtl.dot import dot_latency
from hwgate.sim.streams import parameters, start
from support.cycles import assert_delayed, bits, ordered_pairs, play


def given():
    """Configuration, shape of a block, and limits of an activation and a weight."""
    config = AcceleratorConfig.from_dict(parameters()["config"])
    formats = config.formats
    return (config, (TAPS, config.channels), FormatConfig.limits(formats.activation),
            FormatConfig.limits(formats.weight))


def port(block):
    """Bits of a block: its bytes, tap after tap."""
    return int.from_bytes(block.astype(np.int8).tobytes(), "little")


async def check(dut, cases):
    """Play (window, weights) back to back; returns the sums."""
    config, *_ = given()
    await start(dut)
    trace = await play(dut, ({"window": port(window), "weights": port(weights)}
                             for window, weights in cases), ["o"], after=dot_latency(config))
    sums = [int(dot(window, weights)) for window, weights in cases]
    assert_delayed(trace, dot_latency(config), [(bits(total, config.dot_bits),) for total in sums])
    return sums


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def each_multiplier_alone(dut):
    """One product at a time; all others are zero on one side, or on the other, or on both."""
    _, shape, xs, ws = given()
    cases = []
    for place in np.ndindex(shape):
        for x in xs:
            for w in ws:
                for others_x, others_w in ((0, w), (x, 0), (0, 0)):
                    window, weights = np.full(shape, others_x), np.full(shape, others_w)
                    window[place], weights[place] = x, w
                    cases.append((window, weights))
    sums = await check(dut, cases)
    assert set(sums) == {x * w for x in xs for w in ws}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_outcome_follows_every_outcome(dut):
    """Largest, smallest and zero sums, alternating signs, and random operands."""
    _, shape, xs, ws = given()
    rng = np.random.default_rng(1)
    full = [(np.full(shape, x), np.full(shape, w)) for x in (*xs, 0) for w in (*ws, 0)]
    chess = np.indices(shape).sum(axis=0) % 2
    mixed = [(np.where(chess, *xs), np.where(chess, *pair)) for pair in (ws, ws[::-1])]
    noise = [(rng.integers(xs[0], xs[1] + 1, shape), rng.integers(ws[0], ws[1] + 1, shape))
             for _ in range(4)]
    kinds = [*full, *mixed, *noise]
    sums = await check(dut, [kinds[n] for n in ordered_pairs(range(len(kinds)))])
    count = shape[0] * shape[1]
    assert (max(sums), min(sums)) == (count * xs[0] * ws[0],
                                      count * min(xs[0] * ws[1], xs[1] * ws[0]))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def random_operands_every_cycle(dut):
    _, shape, xs, ws = given()
    rng = np.random.default_rng(2)
    sums = await check(dut, [(rng.integers(xs[0], xs[1] + 1, shape),
                              rng.integers(ws[0], ws[1] + 1, shape)) for _ in range(300)])
    assert min(sums) < 0 < max(sums)
