"""Bench of TaskList: jobs of every density, and passes that begin at any time."""

import random
from itertools import count, cycle, product

import cocotb

from cycle_helpers import ordered_pairs, play
from hwgate.config import AcceleratorConfig
from hwgate.quant.tasks import task_list
from hwgate.rtl.structs import pixel_layout
from hwgate.rtl.tasks import TASK_LATENCY
from hwgate.sim.streams import parameters, start
from rtl_helpers import GAPS


class Timeline:
    """Inputs of every cycle, and what the contract says about the outputs of that cycle."""

    def __init__(self):
        config = AcceleratorConfig.from_dict(parameters()["config"])
        self.depth, self.pixel_bits = config.buffers.pixels, pixel_layout(config).size
        self.inputs, self.expected = [], []
        self.tasks, self.position = [], 0  # tasks: (cycle of the append, pixel)

    @property
    def valid(self):
        """A pixel is at the output in the cycle that comes next."""
        visible = [since for since, _ in self.tasks[self.position:self.position + 1]
                   if since + TASK_LATENCY <= len(self.inputs)]
        return bool(visible)

    def step(self, *, pixel=None, clear=False, rewind=False, take=False):
        """One cycle, in which ``pixel`` is appended; without one, the port is all ones."""
        assert not (take and not self.valid) and not (clear and pixel is not None)
        self.expected.append((self.valid, len(self.tasks), self.position,
                              self.tasks[self.position][1] if self.valid else None))
        if clear:
            self.tasks = []
        elif pixel is not None:
            self.tasks.append((len(self.inputs), pixel))
        self.position = 0 if rewind else self.position + take
        self.inputs.append({"clear": clear, "append": pixel is not None, "rewind": rewind,
                            "next": take, "pixel": (1 << self.pixel_bits) - 1 if pixel is None
                            else pixel})

    def job(self, decisions, rng, *, gaps=(), stalls=(), passes=1, delay=0):
        """A job, from its clear to its last pass; returns the pixels to be taken.

        Decisions pause by ``gaps``, takes by ``stalls``; the first pass begins ``delay`` cycles
        after the clear, any other in the cycle in which the one before it ends.
        """
        pixels = [rng.getrandbits(self.pixel_bits) for _ in decisions]
        pauses, holds = cycle(gaps or (0,)), cycle(stalls or (0,))
        decided, begun = 0, False
        self.step(clear=True)
        for now in count():
            pixel = None
            if decided < len(decisions) and not next(pauses):
                pixel = pixels[decided] if decisions[decided] else None
                decided += 1
            take = begun and self.valid and not next(holds)
            listed = len(self.tasks) + (pixel is not None)
            over = begun and decided == len(decisions) and self.position + take == listed
            passes -= over
            self.step(pixel=pixel, take=take, rewind=now == delay or over and passes > 0)
            begun = begun or now == delay
            if over and not passes:
                return [pixels[index] for index in task_list(decisions)]

    async def check(self, dut):
        """Play, compare every cycle, and return the pixels taken."""
        await start(dut)
        trace = await play(dut, self.inputs, ["valid", "count", "position", "o"])
        for now, (seen, expected) in enumerate(zip(trace, self.expected, strict=True)):
            wanted = expected if expected[0] else (*expected[:3], seen[3])
            assert seen == wanted, f"cycle {now}: {seen}, not {wanted}"
        return [seen[3] for seen, values in zip(trace, self.inputs, strict=True)
                if values["next"]]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_density_follows_every_density(dut):
    """No pixel, the first, the last, every second, all of the largest tile; with pauses."""
    timeline, rng, expected = Timeline(), random.Random(1), []
    some = min(timeline.depth, 40)
    kinds = [[0] * some, [1] + [0] * (some - 1), [0] * (some - 1) + [1], [0, 1] * (some // 2),
             [1] * timeline.depth]
    patterns = cycle(product(GAPS.values(), GAPS.values()))
    for number in ordered_pairs(range(len(kinds))):
        gaps, stalls = next(patterns)
        passes = rng.randint(1, 3)
        expected += passes * timeline.job(kinds[number], rng, gaps=gaps, stalls=stalls,
                                          passes=passes, delay=rng.choice([0, 1, 5, some + 3]))
    assert await timeline.check(dut) == expected


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_pass_begins_at_every_time(dut):
    """All decisions of a small tile; the first pass begins before, with and after each append."""
    timeline, rng, expected = Timeline(), random.Random(2), []
    for decisions in product((0, 1), repeat=4):
        for delay, gaps in product(range(8), ((), (1, 0), (1, 1, 0))):
            expected += 2 * timeline.job(decisions, rng, gaps=gaps, passes=2, delay=delay)
    assert await timeline.check(dut) == expected


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def random_control(dut):
    """Appends, takes and rewinds in any combination; the list fills up and is cleared."""
    timeline, rng, rewound, full = Timeline(), random.Random(3), set(), 0
    for _ in range(12 * timeline.depth):
        listed, take = len(timeline.tasks), timeline.valid and rng.random() < 0.8
        full += listed == timeline.depth
        clear = rng.random() < (0.2 if listed == timeline.depth else 0.002)
        append = not clear and listed < timeline.depth and rng.random() < 0.6
        rewind = rng.random() < 0.05
        timeline.step(clear=clear, rewind=rewind, take=take,
                      pixel=rng.getrandbits(timeline.pixel_bits) if append else None)
        rewound.add((rewind, take, append))
    assert full
    assert len(rewound) == 8
    await timeline.check(dut)
