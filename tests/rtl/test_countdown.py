"""Countdown against counting."""

import random

import pytest

from hwgate.rtl.countdown import Countdown
from support.rtl import run


@pytest.mark.parametrize("bits", [3, 16])
def test_the_last_step_is_told_with_it(bits):
    """Runs of every short length, of the longest, and of any; restarts in the midst of them."""
    rng, dut, longest = random.Random(bits), Countdown(bits), (1 << bits) - 1
    lengths = [*range(1, 8), min(longest, 300), *(rng.randint(1, min(longest, 40))
                                                  for _ in range(60))]
    told = []

    async def bench(ctx):
        for length in lengths:
            broken_off = rng.choice([None, None, rng.randrange(length)])
            ctx.set(dut.count, length)
            ctx.set(dut.restart, 1)
            ctx.set(dut.next, rng.randrange(2))  # a restart wins
            await ctx.tick()
            ctx.set(dut.restart, 0)
            for step in range(1, length + 1):
                ctx.set(dut.next, 0)
                await ctx.tick().repeat(rng.choice([0, 0, 3]) or 1)
                assert ctx.get(dut.last) == (step == length)
                told.append(ctx.get(dut.last))
                if step == broken_off:
                    break
                ctx.set(dut.next, 1)
                await ctx.tick()

    run(dut, bench)
    assert {0, 1} <= set(told)
