"""Bench of Gate: every outcome at, above and below every kind of threshold."""

import random

import cocotb

from hwgate.machine.config import AcceleratorConfig, FormatConfig
from hwgate.quant.gate import decide
from hwgate.rtl.gate import GATE_LATENCY
from hwgate.sim.streams import parameters, start
from support.cycles import assert_delayed, bits, ordered_pairs, play

#: Width of a threshold: a job header has 32 bits for it whatever the accumulator's width.
THRESHOLD_BITS = 32


async def check(dut, cases):
    """Play cases (gate, psum, threshold) back to back; returns the decisions."""
    config = AcceleratorConfig.from_dict(parameters()["config"])
    width = config.formats.accumulator
    await start(dut)
    trace = await play(dut, ({"gate": gate, "psum": bits(psum, width),
                              "threshold": bits(threshold, THRESHOLD_BITS)}
                             for gate, psum, threshold in cases), ["open", "o_psum"],
                       after=GATE_LATENCY)
    decisions = [bool(decide(psum, threshold)) or not gate for gate, psum, threshold in cases]
    assert_delayed(trace, GATE_LATENCY, [(opened, bits(psum, width)) for opened, (_, psum, _)
                                         in zip(decisions, cases, strict=True)])
    return decisions


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_outcome_follows_every_outcome(dut):
    """Open, tie, one below, not gated; at thresholds across the range of a psum and beyond."""
    config = AcceleratorConfig.from_dict(parameters()["config"])
    low, high = FormatConfig.limits(config.formats.accumulator)
    lowest, highest = FormatConfig.limits(THRESHOLD_BITS)
    edges = [(threshold, threshold + offset) for threshold in (low, low + 1, -1, 0, 1, high - 1,
                                                               high) for offset in (-1, 0, 1)]
    edges += [(lowest, low), (lowest, high), (highest, low), (highest, high)]
    cases = ordered_pairs((gate, psum, threshold) for threshold, psum in edges
                          if low <= psum <= high for gate in (1, 0))
    decisions = await check(dut, cases)
    for offset, opened in ((-1, False), (0, False), (1, True)):
        found = {decision for decision, (gate, psum, threshold)
                 in zip(decisions, cases, strict=True) if gate and psum - threshold == offset}
        assert found == {opened}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def psums_around_random_thresholds(dut):
    config = AcceleratorConfig.from_dict(parameters()["config"])
    low, high = FormatConfig.limits(config.formats.accumulator)
    rng, cases = random.Random(1), []
    for _ in range(500):
        threshold = rng.randint(low + 1, high - 1)
        psum = rng.choice([threshold - 1, threshold, threshold + 1, rng.randint(low, high)])
        cases.append((rng.random() < 0.8, psum, threshold))
    decisions = await check(dut, cases)
    assert 100 < sum(decisions) < 400
