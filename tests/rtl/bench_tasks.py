"""Bench of TaskList: jobs of every density in both contexts, and passes that begin at any time."""

import random
from itertools import count, cycle, product

import cocotb

from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.tasks import task_list
from hwgate.rtl.structs import CONTEXTS, pixel_layout
from hwgate.rtl.tasks import TASK_LATENCY
from hwgate.sim.streams import parameters, start
from support.cycles import ordered_pairs, play
from support.rtl import GAPS


class Timeline:
    """Inputs of every cycle, and what the contract says about the outputs of that cycle.

    A port that means nothing in a cycle is random, or all ones.
    """

    def __init__(self, seed):
        config = AcceleratorConfig.from_dict(parameters()["config"])
        self.depth, self.pixel_bits = config.buffers.pixels, pixel_layout(config).size
        self.count_bits = (self.depth - 1).bit_length() + 1
        self.rng, self.inputs, self.expected = random.Random(seed), [], []
        self.lists = [[] for _ in range(CONTEXTS)]  # of (cycle from which it counts, pixel)
        self.held, self.enough, self.limit = [], False, 0  # of the image that is appended to
        self.reading = self.position = 0
        self.counted = [0] * CONTEXTS  # in the cycle before

    @property
    def valid(self):
        """A pixel is at the output in the cycle that comes next."""
        visible = [since for since, _ in self.lists[self.reading][self.position:self.position + 1]
                   if since + TASK_LATENCY <= len(self.inputs)]
        return bool(visible)

    def gain(self, pixel):
        """Pixels that begin to count with this one, or none."""
        enough = pixel is not None and (self.enough or len(self.held) == self.limit)
        return (len(self.held) + 1) * enough

    def step(self, *, to=0, pixel=None, clear=None, rewind=None, take=False, image_last=None):
        """One cycle, in which ``pixel`` is appended to a list, maybe the last one of its image;
        ``clear`` and ``rewind`` name one, or none."""
        assert not (take and not self.valid) and not (clear == to and pixel is not None)
        if image_last is None:  # without a limit, images do not matter
            image_last = not self.limit and self.rng.random() < 0.5
        gained, held = self.gain(pixel), len(self.held) + (pixel is not None)
        dropped = held * (image_last and not gained)
        counts = sum(len(tasks) << self.count_bits * n for n, tasks in enumerate(self.lists))
        o = self.lists[self.reading][self.position][1] if self.valid else None
        some = sum(bool(tasks) << n for n, tasks in enumerate(self.lists))
        last = self.position + 1 == self.counted[self.reading]
        self.expected.append((self.valid, counts, some, gained > 0, dropped, last, o))
        self.counted = [len(tasks) for tasks in self.lists]
        free = self.rng.randrange(CONTEXTS)
        self.inputs.append({
            "clear": clear is not None, "clear_list": free if clear is None else clear,
            "append": pixel is not None, "append_list": free if pixel is None else to,
            "pixel": (1 << self.pixel_bits) - 1 if pixel is None else pixel,
            "limit": self.limit, "image_last": image_last,
            "rewind": rewind is not None, "list": free if rewind is None else rewind,
            "next": take})
        if clear is not None:
            self.lists[clear] = []
        if pixel is not None:
            self.held.append(pixel)
        if gained:
            self.lists[to] += [(len(self.inputs) - 1, one) for one in self.held]
        if gained or image_last:
            self.held = []
        self.enough = (self.enough or gained > 0) and not image_last
        self.position = 0 if rewind is not None else self.position + take
        self.reading = self.reading if rewind is None else rewind

    def pixels(self, decisions):
        """A random pixel for each decision."""
        return [self.rng.getrandbits(self.pixel_bits) for _ in decisions]

    def job(self, context, decisions, *, gaps=(), stalls=(), passes=1, delay=0, image=None):
        """A job, from its clear to its last pass; returns the pixels to be taken.

        With a limit, an image has so many decisions. Decisions pause by ``gaps``, takes by
        ``stalls``; the first pass begins ``delay`` cycles after the clear, any other in the cycle
        in which the one before it ends.
        """
        pixels = self.pixels(decisions)
        pauses, holds = cycle(gaps or (0,)), cycle(stalls or (0,))
        decided, begun = 0, False
        self.step(clear=context)
        for now in count():
            pixel, last = None, False if image else None
            if decided < len(decisions) and not next(pauses):
                pixel = pixels[decided] if decisions[decided] else None
                decided += 1
                last = decided % image == 0 if image else None
            take = begun and self.valid and not next(holds)
            listed = len(self.lists[context]) + self.gain(pixel)
            over = begun and decided == len(decisions) and self.position + take == listed
            passes -= over
            again = now == delay or over and passes > 0
            self.step(to=context, pixel=pixel, take=take, rewind=context if again else None,
                      image_last=last)
            begun = begun or now == delay
            if over and not passes:
                return [pixels[index] for index in task_list(decisions, self.limit, image)]

    def overlap(self, context, decisions, passes, *, gaps=(), stalls=(), delay=0):
        """Decisions on a job in ``context`` while the list of another job, in the other one, is
        read in so many passes, from ``delay`` cycles after the clear on; returns (pixels that are
        taken, pixels of the job)."""
        other, pixels = 1 - context, self.pixels(decisions)
        pauses, holds = cycle(gaps or (0,)), cycle(stalls or (0,))
        listed = [pixel for _, pixel in self.lists[other]]
        wanted, decided, begun = listed * passes, 0, False
        passes = passes if listed else 0  # without a task there is no pass
        self.step(clear=context)
        for now in count():
            pixel = None
            if decided < len(decisions) and not next(pauses):
                pixel = pixels[decided] if decisions[decided] else None
                decided += 1
            take = begun and bool(passes) and self.valid and not next(holds)
            over = take and self.position + 1 == len(listed)
            passes -= over
            again = passes > 0 and (now == delay or over)
            self.step(to=context, pixel=pixel, take=take, rewind=other if again else None)
            begun = begun or now == delay
            if not passes and decided == len(decisions):
                return wanted, [pixels[index] for index in task_list(decisions)]

    async def check(self, dut):
        """Play, compare every cycle, and return the pixels taken."""
        await start(dut)
        names = ["valid", "count", "some", "counted", "dropped", "last", "o"]
        trace = await play(dut, self.inputs, names)
        for now, (seen, expected) in enumerate(zip(trace, self.expected, strict=True)):
            wanted = expected if expected[0] else (*expected[:-2], *seen[-2:])
            assert seen == wanted, f"cycle {now}: {seen}, not {wanted}"
        return [seen[-1] for seen, values in zip(trace, self.inputs, strict=True)
                if values["next"]]


def densities(depth):
    """No pixel, the first, the last, every second, all of the largest tile."""
    some = min(depth, 40)
    return [[0] * some, [1] + [0] * (some - 1), [0] * (some - 1) + [1], [0, 1] * (some // 2),
            [1] * depth]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_density_follows_every_density(dut):
    """A pass reads a list while the gate writes it; with pauses, in one context and in turns."""
    timeline, expected = Timeline(1), []
    rng, kinds = timeline.rng, densities(timeline.depth)
    patterns = cycle(product(GAPS.values(), GAPS.values()))
    for turn, number in enumerate(ordered_pairs(range(len(kinds)))):
        gaps, stalls = next(patterns)
        passes = rng.randint(1, 3)
        expected += passes * timeline.job(turn // 3 % CONTEXTS, kinds[number], gaps=gaps,
                                          stalls=stalls, passes=passes,
                                          delay=rng.choice([0, 1, 5, 43]))
    assert await timeline.check(dut) == expected


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def one_job_is_decided_while_another_is_read(dut):
    """Every density beside every density: neither list disturbs the other."""
    timeline, expected, before = Timeline(4), [], []
    rng, kinds = timeline.rng, densities(timeline.depth)
    patterns = cycle(product(GAPS.values(), GAPS.values()))
    for turn, number in enumerate(ordered_pairs(range(len(kinds)))):
        gaps, stalls = next(patterns)
        passes = rng.randint(1, 3)
        taken, listed = timeline.overlap(turn % CONTEXTS, kinds[number], passes, gaps=gaps,
                                         stalls=stalls, delay=rng.choice([0, 1, 5]))
        assert taken == before * passes
        expected, before = expected + taken, listed
    assert await timeline.check(dut) == expected


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_pass_begins_at_every_time(dut):
    """All decisions of a small tile; the first pass begins before, with and after each append."""
    timeline, expected = Timeline(2), []
    for turn, decisions in enumerate(product((0, 1), repeat=4)):
        for delay, gaps in product(range(8), ((), (1, 0), (1, 1, 0))):
            expected += 2 * timeline.job(turn % CONTEXTS, decisions, gaps=gaps, passes=2,
                                         delay=delay)
    assert await timeline.check(dut) == expected


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def images_of_few_pixels(dut):
    """No pixel, fewer than the limit, as many, one more and all of an image, after images of each
    of these kinds; the last decision open or closed. Passes begin at any time."""
    timeline, expected, image = Timeline(5), [], 5
    rng, most, patterns = timeline.rng, timeline.depth // 5, cycle(product(GAPS.values(),
                                                                         GAPS.values()))
    for limit in (1, 2, 4, 5):
        timeline.limit = limit
        kinds = {n: [places for places in product((0, 1), repeat=image) if sum(places) == n]
                 for n in {0, limit - 1, limit, min(limit + 1, image), image}}
        images = [rng.choice(kinds[n]) for n in ordered_pairs(kinds)]
        images += [places for n in kinds for places in kinds[n]]
        while images:
            count = rng.randint(1, most)
            decisions = [bit for places in images[:count] for bit in places]
            del images[:count]
            gaps, stalls = next(patterns)
            passes = rng.randint(1, 3)
            expected += passes * timeline.job(rng.randrange(CONTEXTS), decisions, gaps=gaps,
                                              stalls=stalls, passes=passes, image=image,
                                              delay=rng.choice([0, 1, 5, 43]))
    assert await timeline.check(dut) == expected


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def an_image_counts_at_every_time(dut):
    """All decisions of two small images; the first pass begins before, with and after each."""
    timeline, expected = Timeline(6), []
    for limit in (1, 2):
        timeline.limit = limit
        for turn, decisions in enumerate(product((0, 1), repeat=6)):
            for delay in range(0, 10, 3):
                expected += 2 * timeline.job(turn % CONTEXTS, decisions, passes=2, delay=delay,
                                             gaps=(1, 0) if turn % 3 else (), image=3)
    assert await timeline.check(dut) == expected


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def random_control(dut):
    """Appends, takes, rewinds and clears in any combination and context; lists fill up."""
    timeline, seen, full = Timeline(3), set(), [0] * CONTEXTS
    rng = timeline.rng
    for _ in range(2000 + 16 * timeline.depth):
        to, take = rng.randrange(CONTEXTS), timeline.valid and rng.random() < 0.8
        listed = len(timeline.lists[to])
        full[to] += listed == timeline.depth
        append = listed < timeline.depth and rng.random() < 0.6
        clear = (to ^ append if rng.random() < (0.2 if listed == timeline.depth else 0.004)
                 else None)
        rewind = rng.randrange(CONTEXTS) if rng.random() < 0.05 else None
        seen.add((rewind, take, append))
        timeline.step(to=to, clear=clear, rewind=rewind, take=take,
                      pixel=rng.getrandbits(timeline.pixel_bits) if append else None)
    assert all(full)
    assert len(seen) == 4 * (CONTEXTS + 1)
    await timeline.check(dut)
