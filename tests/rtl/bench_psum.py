"""Bench of PsumMemory: accesses to one place at every distance, with everything in between."""

import random
from itertools import product

import cocotb

from hwgate.machine.config import AcceleratorConfig, FormatConfig
from hwgate.quant.psum import accumulate
from hwgate.rtl.psum import PSUM_LATENCY, PSUM_LOOKUP
from hwgate.rtl.structs import CONTEXTS
from hwgate.sim.streams import parameters, start
from support.cycles import assert_delayed, bits, play
from support.rtl import GAPS


def given():
    """Configuration and limits of a dot product."""
    config = AcceleratorConfig.from_dict(parameters()["config"])
    return config, FormatConfig.limits(config.dot_bits)


async def check(dut, accesses, rng):
    """Play accesses (place, init, addend) back to back; those of None are idle cycles.

    An idle cycle shows the place of a neighbour, ``init`` and an addend all the same.
    Returns the sums.
    """
    config, _ = given()
    addends, inputs = [], []
    for cycle, access in enumerate(accesses):
        near = [other for other in accesses[max(0, cycle - 3):cycle + 4] if other is not None]
        place, init, addend = access or (rng.choice(near)[0] if near else 0, rng.getrandbits(1),
                                         rng.choice([-1, 1, 77]))
        addends.append(addend)
        inputs.append({"valid": access is not None, "place": place, "init": init})
    late = [0] * PSUM_LOOKUP + addends
    idle = {"valid": 0}
    await start(dut)
    trace = await play(dut, ({**values, "dot": bits(addend, config.dot_bits)} for values, addend
                             in zip(inputs + [idle] * PSUM_LOOKUP, late, strict=True)), ["o"],
                       after=PSUM_LATENCY)
    sums = accumulate(access for access in accesses if access is not None)
    expected = iter(sums)
    assert_delayed(trace, PSUM_LOOKUP + PSUM_LATENCY, [
        None if access is None else (bits(next(expected), config.formats.accumulator),)
        for access in accesses])
    return sums


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def one_place_at_every_distance(dut):
    """Every sequence of four steps between two accesses to a place: it, its init, another, idle."""
    rng, accesses, distances = random.Random(1), [], set()
    for number, steps in enumerate(product(("same", "init", "other", "idle"), repeat=4)):
        place, other = 2 * number % 8, (2 * number + 1) % 8
        accesses += [(other, True, rng.randint(-99, 99)), (place, True, rng.randint(-99, 99))]
        for step in steps:
            addend = rng.randint(-99, 99)
            accesses.append({"same": (place, False, addend), "init": (place, True, addend),
                             "other": (other, False, addend), "idle": None}[step])
        accesses.append((place, False, rng.randint(-99, 99)))
        touched = [step in ("same", "init") for step in steps]
        distances.add(touched[::-1].index(True) + 1 if any(touched) else len(steps) + 1)
    assert distances == set(range(1, 6))
    await check(dut, accesses, rng)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def places_that_differ_in_one_bit(dut):
    """Two places in turn, for every address bit, that of the context among them, at every
    distance; then all of the memory."""
    config, _ = given()
    places, rng = CONTEXTS * config.buffers.pixels, random.Random(2)
    accesses = [(place, True, place + 1) for place in range(places)]
    for bit in range((places - 1).bit_length()):
        for place, distance in product((0, places - 1), range(1, 5)):
            accesses += [(place, False, 3), (place ^ 1 << bit, False, 5)]
            accesses += [None] * (distance - 1) + [(place, False, 7)]
    accesses += [(place, False, -place) for place in range(places)]
    await check(dut, accesses, rng)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def random_accesses_with_pauses(dut):
    config, (low, high) = given()
    rng = random.Random(3)
    for count, gaps in product((1, 2, 3, 5, CONTEXTS * config.buffers.pixels), GAPS.values()):
        accesses, started, pauses = [], set(), gaps or (0,)
        for cycle in range(200):
            if pauses[cycle % len(pauses)]:
                accesses.append(None)
                continue
            place = rng.randrange(count)
            init = place not in started or rng.random() < 0.2
            started.add(place)
            accesses.append((place, init, rng.randint(low // 64, high // 64)))
        await check(dut, accesses, rng)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def up_to_the_limits_of_the_accumulator(dut):
    """Largest addends until the sum is the largest, then the smallest, and back to zero."""
    config, addend = given()
    limits = FormatConfig.limits(config.formats.accumulator)
    accesses, total = [(0, True, 0)], 0
    for goal in (limits[1], limits[0], 0):
        while total != goal:
            step = max(addend[0], min(addend[1], goal - total))
            accesses.append((0, False, step))
            total += step
    sums = await check(dut, accesses, random.Random(4))
    assert (min(sums), max(sums)) == limits
