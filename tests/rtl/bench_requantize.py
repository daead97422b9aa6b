"""Bench of Requantize: ties, both ends of the clamp, residuals and parameters that change every
cycle."""

import random
from collections import Counter
from itertools import product
from typing import NamedTuple

import cocotb
import numpy as np

from hwgate.machine.config import RESIDUAL_SHIFT, AcceleratorConfig, FormatConfig
from hwgate.quant.requantize import SHIFTS, requantize
from hwgate.rtl.requantize import REQUANTIZE_LATENCY, RESIDUAL_LATENCY
from hwgate.sim.streams import parameters, start
from support.cycles import assert_delayed, bits, ordered_pairs, play

#: Width of a bias in the job header, and of a residual operand.
BIAS_BITS, RESIDUAL_BITS = 32, 8


class Case(NamedTuple):
    """Inputs of one output, named as the ports."""

    psum: int
    bias: int
    mult: int
    shift: int
    relu: bool = False
    residual: int = 0
    mult_residual: int = 0
    relu_first: bool = False

    @property
    def product(self):
        """The scaled psum, before it is clamped."""
        return (self.psum + self.bias) * self.mult

    @property
    def added(self):
        """What the residual adds."""
        return self.residual * self.mult_residual << RESIDUAL_SHIFT

    @property
    def signs(self):
        """(of the product, of what is added, ``relu_first``): what an output may be made of."""
        return int(np.sign(self.product)), int(np.sign(self.added)), bool(self.relu_first)


def limits():
    """Limits of a psum, a bias, a factor and an activation."""
    formats = AcceleratorConfig.from_dict(parameters()["config"]).formats
    return tuple(FormatConfig.limits(width) for width in (
        formats.accumulator, BIAS_BITS, formats.multiplier, formats.activation))


def golden(cases):
    """Activations by the golden model."""
    *_, (low, high) = limits()
    psum, bias, mult, shift, relu, residual, factor, relu_first = (
        np.array(column, np.int64) for column in zip(*cases, strict=True))
    return np.maximum(requantize(psum, bias, mult, shift, low, high, residual,
                                 factor << RESIDUAL_SHIFT, relu_first != 0),
                      np.where(relu, 0, low))


async def check(dut, cases):
    """Play cases back to back, each residual late as it comes; returns the activations."""
    expected = golden(cases)
    widths = {name: len(getattr(dut, name)) for name in Case._fields}
    inputs = [{name: bits(int(value), widths[name]) for name, value in case._asdict().items()}
              for case in cases] + [{}] * RESIDUAL_LATENCY
    late = [0] * RESIDUAL_LATENCY + [bits(case.residual, RESIDUAL_BITS) for case in cases]
    await start(dut)
    trace = await play(dut, (values | {"residual": residual} for values, residual
                             in zip(inputs, late, strict=True)), ["o"], after=REQUANTIZE_LATENCY)
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


def operands():
    """Extremes of a residual and of its factor, and a zero of each."""
    *_, factors, _ = limits()
    return [*product(FormatConfig.limits(RESIDUAL_BITS), factors), (0, factors[1]), (-1, 0)]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def ties_and_clamp_bounds(dut):
    """Around the ties next to zero and to both ends of the clamp, at every kind of factor.

    Each with a residual and without: the product makes up for what it adds.
    """
    _, _, (mult_low, mult_high), (low, high) = limits()
    rng, cases, exact = random.Random(1), [], {}
    for shift, mult, activation, relu in product(
            (SHIFTS[0], 2, 7, 16, 24, 31, 32, 40, 42, 45, SHIFTS[1]),
            (1, -1, 3, 1 << 5, mult_high, mult_low),
            (low - 1, low, low + 1, 0, 1, high, high + 1, high + 2), (0, 1)):
        tie = (2 * activation - 1) << shift - 1
        for operand in ((0, 0), rng.choice(operands())):
            added = operand[0] * operand[1] << RESIDUAL_SHIFT
            for offset in (-1, 0, 1):
                parts = split((tie - added) // mult + offset, rng)
                if parts is not None:
                    case = Case(*parts, mult, shift, bool(relu), *operand)
                    cases.append(case)
                    if case.product + case.added == tie:
                        exact.setdefault((activation, operand != (0, 0)), set()).add(shift)
    rng.shuffle(cases)
    outcomes = await check(dut, cases)
    assert set(outcomes) >= {low, low + 1, 0, 1, high - 1, high}
    for activation, added in product((low, low + 1, 0, 1, high, high + 1), (False, True)):
        assert exact[activation, added] >= {SHIFTS[0], 2, 7, 16}
    # 2**46 is in reach of 16-bit factors.
    assert SHIFTS[1] in exact[1, False] or mult_low > -(1 << 14)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_outcome_follows_every_outcome(dut):
    """Both ends of the clamp, zero by either ReLU, a tie, a plain value, a residual of either sign
    to a product of either sign; with unlike parameters."""
    *_, (low, high) = limits()
    outcomes = {Case(*values): outcome for values, outcome in (
        ((70000, 5, 100, 8), high), ((-70000, 5, 100, 8), low), ((-70000, 5, 100, 8, True), 0),
        ((70000, -1, -100, 9), low), ((0, -1, 1, 1), 0), ((-2, 0, 3, 2), -1),
        ((30, 2, 1, 5, True), 1), ((0, 0, 0, SHIFTS[1]), 0),
        # Products of 256, 512, -256 and -7000000; residuals add 256 times their factor.
        ((28, 4, 8, 9, False, 1, 1), 1), ((28, 4, 8, 9, False, 1, 1, True), 1),
        ((60, 4, 8, 8, False, -1, 3), -1), ((60, 4, 8, 8, False, 1, -3, True), -1),
        ((60, 4, 8, 8, True, -3, 1), 0), ((60, 4, 8, 8, False, -1, 1, True), 1),
        ((-60, 28, 8, 8, False, 1, 2), 1), ((-60, 28, 8, 8, False, 1, 1, True), 1),
        ((-60, 28, 8, 8, False, -1, 1), -2), ((-60, 28, 8, 8, False, -1, 1, True), -1),
        ((-70005, 5, 100, 8, False, 1, 1, True), 1), ((-70005, 5, 100, 8, True, -1, 1, True), 0),
        ((-70005, 5, 100, 8, False, 127, 127, True), high),
        ((-70005, 5, 100, 8, False, -128, 127, True), low))}
    assert {case.signs for case in outcomes} >= set(product((-1, 1), (-1, 1), (False, True)))
    cases = ordered_pairs(outcomes)
    assert list(await check(dut, cases)) == [outcomes[case] for case in cases]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def residuals_of_either_sign_and_any_weight(dut):
    """Operands from smallest to largest, beside products of either sign that are a quarter, equal
    and four times as large, and none, with and without ``relu_first``; shifts keep it visible."""
    *_, factors, (_, high) = limits()
    rng, cases = random.Random(4), []
    residuals = {*FormatConfig.limits(RESIDUAL_BITS), -100, -2, -1, 0, 1, 3, 64}
    for residual, factor, quarters, mult, relu, relu_first in product(
            sorted(residuals), (factors[0], factors[0] // 3, -1, 0, 1, 5, factors[1]),
            (-16, -4, -1, 0, 1, 4, 16), (1, -3, factors[1]), (False, True), (False, True)):
        size = abs(residual * factor << RESIDUAL_SHIFT) or 1 << 12
        parts = split(quarters * size // (4 * mult), rng)
        largest = max(abs(quarters) * size // 4, size)
        shift = max(SHIFTS[0], largest.bit_length() - high.bit_length() - rng.randint(0, 1))
        if parts is not None:
            cases.append(Case(*parts, mult, shift, relu, residual, factor, relu_first))
    rng.shuffle(cases)
    outcomes = await check(dut, cases)
    plain = golden([case._replace(residual=0) for case in cases])
    late = golden([case._replace(relu_first=False) for case in cases])
    felt, first = Counter(), Counter()
    for case, outcome, without, later in zip(cases, outcomes, plain, late, strict=True):
        felt[case.signs] += int(outcome != without)
        first[case.signs] += int(outcome != later)
    for product_sign, added_sign, relu_first in product((-1, 0, 1), (-1, 1), (False, True)):
        signs = product_sign, added_sign, relu_first
        assert felt[signs] > 20, (signs, felt)
        assert (first[signs] > 20) == (product_sign < 0 and relu_first), (signs, first)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def extremes(dut):
    """Every combination of smallest and largest operands, at every shift."""
    psums, biases, mults, _ = limits()
    cases = [Case(*values[:4], relu, *operand, relu_first)
             for *values, (relu, operand, relu_first) in product(
                 psums, biases, (*mults, -1, 1), range(SHIFTS[0], SHIFTS[1] + 1),
                 product((False, True), operands(), (False, True)))]
    random.Random(2).shuffle(cases)
    await check(dut, cases)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def random_parameters_every_cycle(dut):
    psums, biases, mults, (low, high) = limits()
    places, rng, cases = (high + 1).bit_length(), random.Random(3), []
    for _ in range(3000):
        wide = rng.randint(2, 31)
        psum, bias = (max(ends[0], min(ends[1], rng.randrange(-1 << wide, 1 << wide)))
                      for ends in (psums, biases))
        case = Case(psum, bias, rng.randint(*mults), SHIFTS[0], rng.random() < 0.3,
                    rng.randint(*FormatConfig.limits(RESIDUAL_BITS)), rng.randint(*mults),
                    rng.random() < 0.5)
        if rng.random() < 0.5:  # of a product's size
            scale = max(1, abs(case.added) // max(1, abs(case.product)))
            case = case._replace(mult_residual=case.mult_residual // scale)
        size = abs(case.product + case.added).bit_length()
        shift = max(SHIFTS[0], min(SHIFTS[1], size - rng.randint(0, places)))
        cases.append(case._replace(shift=shift))
    outcomes = await check(dut, cases)
    assert len(set(outcomes)) > (high - low) // 2
    assert {case.signs for case in cases} >= set(product((-1, 1), (-1, 1), (False, True)))
