"""Bench of Requantize: ties, both ends of the clamp, and parameters that change every cycle."""

import random
from itertools import product

import cocotb
import numpy as np
from cycle_helpers import assert_delayed, bits, ordered_pairs, play

from hwgate.config import AcceleratorConfig, FormatConfig
from hwgate.quant.requantize import SHIFTS, requantize
from hwgate.rtl.requantize import REQUANTIZE_LATENCY
from hwgate.sim.streams import parameters, start

#: Width of a bias in the job header.
BIAS_BITS = 32


def limits():
    """Limits of a psum, a bias, a factor and an activation."""
    formats = AcceleratorConfig.from_dict(parameters()["config"]).formats
    return tuple(FormatConfig.limits(width) for width in (
        formats.accumulator, BIAS_BITS, formats.multiplier, formats.activation))


async def check(dut, cases):
    """Play cases (psum, bias, mult, shift, relu) back to back; returns the activations."""
    *_, (low, high) = limits()
    psum, bias, mult, shift, relu = (np.array(column) for column in zip(*cases, strict=True))
    expected = np.where(relu, requantize(psum, bias, mult, shift, 0, high),
                        requantize(psum, bias, mult, shift, low, high))
    await start(dut)
    names = ("psum", "bias", "mult", "shift", "relu")
    widths = {name: len(getattr(dut, name)) for name in names}
    trace = await play(dut, ({name: bits(int(value), widths[name])
                              for name, value in zip(names, case, strict=True)}
                             for case in cases), ["o"], after=REQUANTIZE_LATENCY)
    assert_delayed(trace, REQUANTIZE_LATENCY, [(bits(int(value), 8),) for value in expected])
    return expected


def split(total, rng):
    """(psum, bias) of sum ``total``, or None if there is none."""
    (psum_low, psum_high), (bias_low, bias_high), *_ = limits()
    low, high = max(psum_low, total - bias_high), min(psum_high, total - bias_low)
    if low > high:
        return None
    psum = rng.randint(low, high)
    return psum, total - psum


def ties(shift, mult, activation):
    """Sums whose product is at, just below and just above the tie that rounds to ``activation``."""
    tie = (2 * activation - 1) << shift - 1
    return [tie // mult + offset for offset in (-1, 0, 1)]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def ties_and_clamp_bounds(dut):
    """Around the ties next to zero and to both ends of the clamp, at every kind of factor."""
    _, _, (mult_low, mult_high), (low, high) = limits()
    rng, cases, exact = random.Random(1), [], {}
    for shift, mult, activation, relu in product(
            (SHIFTS[0], 2, 7, 16, 24, 31, 32, 40, 42, 45, SHIFTS[1]),
            (1, -1, 3, 1 << 5, mult_high, mult_low),
            (low - 1, low, low + 1, 0, 1, high, high + 1, high + 2), (0, 1)):
        for total in ties(shift, mult, activation):
            parts = split(total, rng)
            if parts is not None:
                cases.append((*parts, mult, shift, relu))
                if total * mult == (2 * activation - 1) << shift - 1:
                    exact.setdefault(activation, set()).add(shift)
    rng.shuffle(cases)
    outcomes = await check(dut, cases)
    assert set(outcomes) >= {low, low + 1, 0, 1, high - 1, high}
    for activation in (low, low + 1, 0, 1, high, high + 1):
        assert exact[activation] >= {SHIFTS[0], 2, 7, 16}
    assert SHIFTS[1] in exact[1] or mult_low > -(1 << 14)  # 2**46 is in reach of 16-bit factors


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_outcome_follows_every_outcome(dut):
    """Both ends of the clamp, zero by the ReLU, a tie, a plain value, with unlike parameters."""
    *_, (low, high) = limits()
    outcomes = {(70000, 5, 100, 8, 0): high, (-70000, 5, 100, 8, 0): low,
                (-70000, 5, 100, 8, 1): 0, (70000, -1, -100, 9, 0): low, (0, -1, 1, 1, 0): 0,
                (-2, 0, 3, 2, 0): -1, (30, 2, 1, 5, 1): 1, (0, 0, 0, SHIFTS[1], 0): 0}
    cases = ordered_pairs(outcomes)
    assert list(await check(dut, cases)) == [outcomes[case] for case in cases]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def extremes(dut):
    """Every combination of smallest and largest operands, at every shift."""
    psums, biases, mults, _ = limits()
    cases = list(product(psums, biases, (*mults, -1, 1), range(SHIFTS[0], SHIFTS[1] + 1), (0, 1)))
    random.Random(2).shuffle(cases)
    await check(dut, cases)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def random_parameters_every_cycle(dut):
    psums, biases, mults, (low, high) = limits()
    places, rng, cases = (high + 1).bit_length(), random.Random(3), []
    for _ in range(1500):
        wide = rng.randint(2, 31)
        psum, bias = (max(ends[0], min(ends[1], rng.randrange(-1 << wide, 1 << wide)))
                      for ends in (psums, biases))
        mult = rng.randint(*mults)
        size = abs((psum + bias) * mult).bit_length()
        shift = max(SHIFTS[0], min(SHIFTS[1], size - rng.randint(0, places)))
        cases.append((psum, bias, mult, shift, rng.random() < 0.3))
    outcomes = await check(dut, cases)
    assert len(set(outcomes)) > (high - low) // 2
