"""Amaranth's simulator with a deadline, and stream traffic with gaps.

A *gap pattern* is a sequence of bits, repeated for ever, in which 1 means "not in this cycle";
``GAPS`` names the ones every block is tested with.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, cycle
from typing import Any

from amaranth.hdl import Value
from amaranth.sim import Simulator

__all__ = ["GAPS", "random_gaps", "receive", "run", "send"]


def random_gaps(seed: int, share: float = 0.5, length: int = 97) -> tuple[int, ...]:
    """Gap pattern with about ``share`` ones."""
    rng = random.Random(seed)
    return tuple(int(rng.random() < share) for _ in range(length))


#: Gap patterns by test id.
GAPS: dict[str, tuple[int, ...]] = {
    "always": (), "alternate": (1, 0), "bursty": (1, 1, 1, 0, 0), "random": random_gaps(1),
    "rare": random_gaps(2, share=0.9),
}


def run(dut: Any, *benches: Callable[[Any], Any],
        background: Iterable[Callable[[Any], Any]] = (), deadline: int = 10_000,
        vcd: str | None = None) -> None:
    """Simulate until every bench (``async def bench(ctx)``) has returned.

    Parameters
    ----------
    dut : amaranth component
    benches : async functions of the simulator context
    background : more of them, which need not return
    deadline : int
        Cycles after which a bench that has not returned fails the test.
    vcd : str, optional
        File for waveforms.
    """
    running = set(range(len(benches)))

    def tracked(number: int) -> Callable[[Any], Any]:
        async def bench(ctx: Any) -> None:
            await benches[number](ctx)
            running.discard(number)
        return bench

    async def watchdog(ctx: Any) -> None:
        for _ in range(deadline):
            await ctx.tick()
        names = ", ".join(benches[number].__name__ for number in sorted(running))
        raise AssertionError(f"still running after {deadline} cycles: {names}")

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    for number in range(len(benches)):
        sim.add_testbench(tracked(number))
    for bench in [*background, watchdog]:
        sim.add_testbench(bench, background=True)
    if vcd is None:
        sim.run()
    else:
        with sim.write_vcd(vcd):
            sim.run()


async def send(ctx: Any, stream: Any, payloads: Iterable[Any], *,
               gaps: Sequence[int] = ()) -> None:
    """Send every payload; the payload is all ones whenever ``valid`` is low.

    Returns in the cycle after the last one was taken.
    """
    pauses = cycle(chain(gaps, [0]))
    for payload in payloads:
        while next(pauses):
            await ctx.tick()
        ctx.set(stream.payload, payload)
        ctx.set(stream.valid, 1)
        # Not `ctx.tick().until()`: a pending `until` cannot be closed when another bench fails.
        ready = 0
        while not ready:
            _, _, ready = await ctx.tick().sample(stream.ready)
        ctx.set(stream.valid, 0)
        ctx.set(Value.cast(stream.payload), -1)


async def receive(ctx: Any, stream: Any, count: int, *, gaps: Sequence[int] = ()) -> list[Any]:
    """Take ``count`` payloads, and check that an offer stays until it is taken.

    Returns in the cycle after the last one was taken.
    """
    pauses, offered = cycle(chain(gaps, [0])), None
    taken: list[Any] = []
    while len(taken) < count:
        ready = not next(pauses)
        ctx.set(stream.ready, ready)
        _, _, valid, payload = await ctx.tick().sample(stream.valid, stream.payload)
        if offered is not None:
            assert (valid, payload) == (1, offered), f"{offered} changed before it was taken"
        offered = payload if valid and not ready else None
        if valid and ready:
            taken.append(payload)
    ctx.set(stream.ready, 0)
    return taken
