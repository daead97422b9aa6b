"""Bench of Issue: passes, windows and reasons of waiting, cycle for cycle."""

import random
from collections import Counter
from itertools import permutations, product

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge

from hwgate.machine.layouts import Gated
from hwgate.quant.issue import path_order
from hwgate.rtl.fetch import JOBS_ALIVE, job_layout
from hwgate.rtl.issue import (
    CHOICE_LATENCY,
    ISSUE_LATENCY,
    PROGRESS_LATENCY,
    SKIP_CYCLES,
    Activity,
    progress_layout,
    tag_layout,
)
from hwgate.rtl.lane import DRAIN_LATENCY
from hwgate.rtl.tasks import TASK_LATENCY
from hwgate.rtl.weights import pass_layout
from hwgate.sim.streams import start, unpack
from support.cycles import ordered_pairs
from support.issue_model import (
    CONFIG,
    DECISION,
    HALVES,
    OPERANDS,
    PLANES,
    STROBES,
    WHOLE,
    Job,
    Layer,
    Model,
    packer,
    slice_jobs,
)
from support.shares import repeats
from support.tiles import PLACES, place_of

PIXELS, SLOT_BITS = CONFIG.buffers.pixels, job_layout(CONFIG).size
#: Cycle in which the first pass of a layer starts, if nothing holds it up.
BEGINS = 1 + CHOICE_LATENCY
#: Windows of a pass that hides the gate: the last window before it is decided, and the pass that
#: waits for this is chosen.
HIDES = ISSUE_LATENCY + DECISION + CHOICE_LATENCY
#: Members of a tag that are taken from a window.
FROM_WINDOW = ("index", "init", "gate", "emit", "swap", "cond")
IMAGE_LAST = 1 << tag_layout(CONFIG)["image_last"].offset
progress_bits, pass_bits, tag_bits = map(packer, (progress_layout(), pass_layout(CONFIG),
                                                  tag_layout(CONFIG)))


def inputs(model, now):
    """Inputs of a cycle; what is not valid is random."""
    tasks, layer = model.tasks, model.layer
    found = {
        "start": now == 0, "no_more": now == 0 or model.all_arrived,
        "jobs": sum(bits << n * SLOT_BITS for n, bits in enumerate(model.slots)),
        "fresh": 0 if now == 0 else sum(bit << n for n, bit in enumerate(model.fresh)),
        "progress": progress_bits(**layer.progress(now)),
        "task_some": sum(bool(items) << n for n, items in enumerate(tasks.items)),
        "drained": sum(bit << n for n, bit in enumerate(tasks.drained)),
        "task_valid": tasks.valid,
        "task_last": tasks.last if tasks.valid else random.getrandbits(1),
        "task": (layer.pixel_bits(layer.jobs[model.running.job].tile,
                                  tasks.items[tasks.reading][tasks.position])
                 if tasks.valid and model.running and model.running.cond
                 else random.getrandbits(8))}
    for cond, name in ((False, "base"), (True, "cond")):
        head = model.head(cond, now)
        found[f"{name}__valid"] = head is not None
        found[f"{name}__payload"] = (random.getrandbits(16) if head is None
                                     else pass_bits(**head))
    return found


def check_window(dut, layer, issued, now):
    """The window that was issued in the cycle before, or none."""
    tag = int(dut.u__o.value)
    assert tag & 1 == (issued is not None), f"cycle {now}: a window"
    if issued is None:
        return
    at, window, ends = issued
    tile = layer.jobs[at.job].tile
    # Whether a task was the last one may turn out later.
    wanted = tag_bits(valid=1, slot=at.job % JOBS_ALIVE,
                      last=ends if window.cond else window.last,
                      image_last=layer.ends_image(tile, window.pixel),
                      **{name: getattr(window, name) for name in FROM_WINDOW})
    free = IMAGE_LAST if window.cond else 0
    assert (tag ^ wanted) & ~free == 0, f"cycle {now}: {unpack(tag_layout(CONFIG), tag)}"
    assert int(dut.u__pixel.value) == layer.pixel_bits(tile, window.pixel), f"cycle {now}: pixel"
    assert int(dut.u__block.value) == pass_bits(**at.head), f"cycle {now}: pass"
    assert dut.u__half.value == tile % HALVES, f"cycle {now}: half"
    for name in ("pad_top", "row_end"):
        assert int(getattr(dut, f"u__{name}").value) == layer.of(tile)[name], f"cycle {now}: {name}"


async def play(dut, layer):
    """Run a layer until the lane is idle, check every output in every cycle; what the cycles were
    spent on."""
    model, spent, issued, now, started = Model(layer), Counter(), None, 0, None
    driven, dut.u__layer.value, activity = {}, layer.descriptor, "idle"
    while (model.done < len(layer.jobs) or model.passes or model.tasks.coming or issued
           or activity != "idle"):
        for name, value in inputs(model, now).items():
            if driven.get(name) != value:
                getattr(dut, f"u__{name}").value = driven[name] = value
        before = activity
        activity, strobes, issuing = (model.cycle(now) if now
                                      else ("idle", dict.fromkeys(STROBES, 0), None))
        await FallingEdge(dut.clk)
        assert int(dut.u__activity.value) == 1 << Activity[before], f"cycle {now}: {before}"
        for name, value in strobes.items():
            assert int(getattr(dut, f"u__{name}").value) == value, f"cycle {now}: {name}"
        if model.started:
            wanted = layer.jobs[model.started.job].tasks
            assert dut.u__task_list.value == wanted, f"cycle {now}: task list"
            started = None if model.started.cond else now
        check_window(dut, layer, issued, now)
        if started is not None and now == started + ISSUE_LATENCY:
            assert issued and issued[1].swap
        model.step(now, strobes, issuing)
        spent[activity], issued = spent[activity] + (now > 0), issuing
        await RisingEdge(dut.clk)
        now += 1
    assert not model.passes
    return spent


async def begin(dut):
    for name in ("start", "base__valid", "cond__valid", "fresh"):
        getattr(dut, f"u__{name}").value = 0
    dut.u__no_more.value = 1
    await start(dut)


def windows(layer):
    """Windows of a layer by path."""
    found = Counter()
    for one in layer.passes():
        found["conditional" if one.cond else "base"] += len(one.windows)
    return found


def lost_after(windows):
    """Cycles between a pass of so many windows and the next one: one is chosen, and can start,
    after the start of the one before."""
    return max(0, 1 + CHOICE_LATENCY - windows)


def last_path(start, pixels, opened, free, end):
    """Cycles that a lane waits for the gate, and of turnaround, in the conditional pass of its last
    job, whose gate pass starts in a given cycle: it is chosen in cycle ``free`` at the earliest,
    another one runs until ``end``."""
    first, last = (start + ISSUE_LATENCY + DECISION + opened[n] for n in (0, -1))
    chosen = max(free, first + 1)
    begins = max(end, chosen + CHOICE_LATENCY)
    known = max(end, chosen - 1)  # waits for its first task until then
    tasks = begins + len(opened)
    over = max(tasks, last + TASK_LATENCY, drains(start, pixels))
    return known - end + over - tasks, begins - known


def drains(start, pixels):
    """Cycle in which a gate pass that starts in this one is known to have made all decisions."""
    return start + ISSUE_LATENCY + DECISION + pixels - 1 + DRAIN_LATENCY


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def passes_without_lost_cycles(dut):
    """Jobs of one and more passes, down to one window: but for the first one, a pass is late only
    if the one before it ended before it could be chosen and start."""
    await begin(dut)
    for pixels, width, step, jobs in ((1, 1, 1, 9), (2, 1, 3, 5), (7, 3, 2, 5), (12, 5, 6, 2),
                                      (PIXELS, 8, 1, 1)):
        layer = Layer([Job(base=4) for _ in range(jobs)], pixels=pixels, width=width, step=step)
        spent = await play(dut, layer)
        lost = lost_after(pixels) * (len(layer.passes()) - 1)
        assert {name: n for name, n in spent.items() if name != "idle"} == {
            "turnaround": BEGINS + lost, "base": windows(layer)["base"]}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_outcome_follows_every_outcome(dut):
    """No gate open, only the first, only the last, one in between, all; and one window. An ungated
    layer after each."""
    await begin(dut)
    waited = 0
    for pixels, base, cond in ((1, 1, 1), (2, 2, 3), (9, 1, 2), (DECISION + 9, 1, 1)):
        kinds = [[], [0], [pixels - 1], [pixels // 2], list(range(pixels))]
        layer = Layer([Job(opened, base, cond) for opened in ordered_pairs(kinds)], pixels=pixels)
        spent = await play(dut, layer)
        assert spent["conditional"] == windows(layer)["conditional"] > 0
        waited += spent["gate"]
        await play(dut, Layer([Job(base=base)] * random.randint(1, 3), pixels=pixels))
    assert waited


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def every_slice_follows_every_slice(dut):
    """Scores of no open pixel, the first, the last, one in between, all, with one job or more that
    read their list; layers of one slice, and an ungated layer after each."""
    await begin(dut)
    for pixels, base, cond in ((1, 1, 1), (2, 2, 3), (9, 1, 2), (DECISION + 9, 1, 1)):
        kinds = [[], [0], [pixels - 1], [pixels // 2], list(range(pixels))]
        for most in (1, 2, 4):
            jobs = [job for opened in ordered_pairs(kinds)
                    for job in slice_jobs(opened, random.randint(1, most), base, cond)]
            layer = Layer(jobs, pixels=pixels)
            spent = await play(dut, layer)
            assert spent["conditional"] == windows(layer)["conditional"] > 0
        for opened in kinds:
            for count in (1, 2, 3):
                await play(dut, Layer(slice_jobs(opened, count, base, cond), pixels=pixels))
        await play(dut, Layer([Job(base=base)] * random.randint(1, 3), pixels=pixels))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def scores_hide_the_gate(dut):
    """Once its score's decisions have come, no job waits for its gate."""
    await begin(dut)
    for pixels in (HIDES, 2 * DECISION):
        for opened in ([0], [pixels - 1], list(range(pixels))):
            layer = Layer([job for _ in range(3) for job in slice_jobs(opened, 2)], pixels=pixels)
            spent = await play(dut, layer)
            passes = sum(one.cond and bool(one.windows) for one in layer.passes())
            late = lost_after(len(opened)) * (passes - 1)
            assert (spent["gate"], spent["weights"]) == (0, 0)
            assert spent["turnaround"] == BEGINS + late


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def slots_change_before_a_job_is_skipped(dut):
    """A score, or a closed job, is over while the job behind it waits in its many base passes; the
    header of a job of another slice then takes its slot."""
    await begin(dut)
    for pixels in (2, DECISION + 2):
        for closed in ([], [1]):
            jobs = []
            for number in range(6):
                jobs += slice_jobs(closed if number % 2 else [0, 1], 1 + number % 3, base=1)
            for job in jobs[1::2]:
                job.base = 3 * DECISION
            await play(dut, Layer(jobs, pixels=pixels))
            own = [Job(random.choice(([], [0])), base=3 * DECISION if n % 2 else 1)
                   for n in range(9)]
            await play(dut, Layer(own, pixels=pixels))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def layers_of_few_jobs(dut):
    """One, two and three jobs, each closed or open: the last one has nothing to put between."""
    await begin(dut)
    for pixels in (1, 6, DECISION + 6):
        for count in (1, 2, 3):
            for kinds in product(([], [0], list(range(pixels))), repeat=count):
                await play(dut, Layer([Job(opened, 1, 2) for opened in kinds], pixels=pixels))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def base_passes_hide_the_gate(dut):
    """Conditional passes find their list complete; only those of the last job wait."""
    await begin(dut)
    for pixels in (HIDES, 2 * DECISION):
        for opened in ([0], [pixels - 1], list(range(pixels))):
            for count in (2, 5):
                spent = await play(dut, Layer([Job(opened)] * count, pixels=pixels))
                # The last gate pass comes before the conditional pass of the job before it.
                before = BEGINS + pixels
                gate, late = last_path(BEGINS, pixels, opened, before + 1, before + len(opened))
                late += lost_after(len(opened)) * (count - 2)
                assert (spent["gate"], spent["weights"]) == (gate, 0)
                assert spent["turnaround"] == BEGINS + late


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def closed_jobs_are_skipped(dut):
    """Beside a pass that runs, in its last cycle and after it: when each pass starts is computed
    from the latencies."""
    await begin(dut)
    kinds = set()
    for pixels in range(1, ISSUE_LATENCY + DECISION + DRAIN_LATENCY + 2):
        for jobs in (1, 2, 5):
            # Cycle from which the next path is known; all up to ``at`` are accounted for.
            starts, free, at, end, gate, late = [], 1, 0, 0, 0, 0
            for number, cond in path_order(jobs, True):
                if cond:
                    skip = max(free, drains(starts[number], pixels))
                    if number + 1 < jobs:
                        kinds.add((skip > end) - (skip < end))
                    free = skip + SKIP_CYCLES
                    gate, at = gate + max(0, free - 1 - at), max(at, free - 1)
                else:
                    begins = max(at, free + CHOICE_LATENCY)
                    late, at, free = late + begins - at, begins + pixels, begins + 1
                    starts, end = [*starts, begins], at
            spent = await play(dut, Layer([Job([])] * jobs, pixels=pixels))
            assert (spent["gate"], spent["turnaround"]) == (gate, late), (pixels, jobs)
    assert kinds == {-1, 0, 1}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def first_conditional_pass_overtakes_the_gate(dut):
    """It reads the list while the gate writes it: waits for each task, and for the end."""
    await begin(dut)
    for pixels in (1, 4, DECISION + 4, 2 * DECISION + 7):
        for opened in ([0, pixels - 1], [pixels // 2, pixels - 2], [0], [pixels - 1],
                       range(0, pixels, 2), range(pixels)):
            opened = sorted({max(0, n) for n in opened})
            spent = await play(dut, Layer([Job(opened)], pixels=pixels))
            gate, late = last_path(BEGINS, pixels, opened, BEGINS + 1, BEGINS + pixels)
            assert (spent["base"], spent["conditional"]) == (pixels, len(opened))
            assert spent["turnaround"] == BEGINS + late
            assert spent["gate"] == gate


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def each_limit_last(dut):
    """Header, weights, windows, residual operand and output in every order: each wait has the name
    of its reason. An operand counts as windows, if the job adds one."""
    await begin(dut)
    for header, weights, loaded, added, stored in permutations((5, 13, 21, 29, 37)):
        for operand in (None, 1):
            job = Job(tile=2, header_at=header, base_late=weights - header, operand=operand)
            layer = Layer([job], loaded_at={(2, plane): loaded for plane in range(PLANES)},
                          added_at={(2, plane): added for plane in range(OPERANDS)},
                          stored_at={0: stored})
            spent = await play(dut, layer)
            chosen, there = max(header, weights), loaded
            if operand is not None:
                there = max(loaded, added)
            begins = max(chosen + CHOICE_LATENCY, max(there, stored) + PROGRESS_LATENCY)
            windows = max(chosen, there - 1)  # the last cycle of each wait, if there is one
            output = max(windows, stored - 1)
            assert spent["weights"] == chosen - 1
            assert spent["windows"] == windows - chosen
            assert spent["output"] == output - windows
            assert spent["turnaround"] == 1 + begins - output
            assert (spent["base"], spent["gate"]) == (layer.pixels, 0)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def operand_of_a_job(dut):
    """Only a job's last base pass waits for it, and only for its own plane of its own tile."""
    await begin(dut)
    late = 150
    for opened in (None, [], [0, 3]):
        for base in (1, 3):
            for operand in (None, *range(OPERANDS)):
                jobs = [Job(opened, base, 2, tile=1, operand=operand),
                        Job(opened and [1], tile=1, operand=0)]
                for missing in range(OPERANDS):
                    added = {(1, plane): late * (plane >= missing) for plane in range(OPERANDS)}
                    layer = Layer(jobs, added_at=added)
                    spent = await play(dut, layer)
                    if operand is not None and operand >= missing:
                        others = layer.pixels * (base - 1)
                        assert spent["windows"] == late - 1 - (others + BEGINS if others else 1)
                    else:  # the other job may wait
                        assert (spent["windows"] > 0) == (missing == 0)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def limits_of_conditional_passes(dut):
    """Conditional weights and windows that come late, for a path of one and of two passes."""
    await begin(dut)
    late = 6 * DECISION
    for cond_late, loaded in ((0, 0), (late, 0), (0, 90), (late, 90), (DECISION, late)):
        for every in (0, 200):
            layer = Layer([Job([1, 4], cond=2, cond_late=cond_late, every=every), Job([2])],
                          pixels=2 * DECISION, planes={(False, 0): 0})
            layer.loaded_at = {(0, PLANES - 1): loaded}
            spent = await play(dut, layer)
            assert (spent["weights"] > 0) == (max(cond_late, every) >= late), (cond_late, every)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def conditional_passes_wait_for_whole_planes(dut):
    """All pixels but the last one are no help."""
    await begin(dut)
    for whole in (0, 3 * DECISION, 8 * DECISION):
        times = {(0, plane): whole * (plane > 0) for plane in range(PLANES)}
        layer = Layer([Job([0])], loaded_at=times, words_at={(0, 1): [(0, 5000)]}, early_words=1,
                      planes={(False, 0): 0, (True, 0): 1})
        spent = await play(dut, layer)
        chosen = BEGINS + ISSUE_LATENCY + DECISION + 1  # from this cycle on it has a task
        assert spent["windows"] == max(0, whole - 1 - chosen)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def start_beside_the_loader(dut):
    """A base pass starts with the pixels of its first row: at the exact number, not one below it,
    and not with those of another plane or tile; never before its plane if it wants all of it."""
    await begin(dut)
    most, before, there, whole = WHOLE - 1, 10, 40, 90
    for early in (1, 17, most, WHOLE):
        for tile, plane in ((0, 0), (0, 2), (1, 1)):
            places = [(t, p) for t in range(tile + 1) for p in range(PLANES)]
            at = places.index((tile, plane))
            for words in (early - 1, early, early + 1):
                layer = Layer([Job(tile=tile)], early_words=early, planes={(False, 0): plane})
                layer.loaded_at = {place: whole if n >= at else before
                                   for n, place in enumerate(places)}
                layer.words_at = {place: [(0, most)] for place in places[:at]}
                layer.words_at[tile, plane] = [(there, min(words, most))]
                spent = await play(dut, layer)
                comes = there if words >= early < WHOLE else whole
                assert spent["windows"] == comes - 1 - 1  # from the cycle after its choice on


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def rows_follow_the_loader(dut):
    """Two passes over planes that come row by row: when each row starts is computed."""
    await begin(dut)
    lost_inside = 0
    for width, rows in ((1, 1), (1, 5), (4, 1), (3, 4), (8, 3)):
        for _ in range(8):
            early, step = random.randint(1, 30), random.randint(1, 9)
            now = end = lost = late = 0
            chosen = 1  # cycle in which a pass is
            layer = Layer([Job(base=2)], pixels=width * rows, width=width, early_words=early,
                          early_step=step, planes={(False, 0): 0, (False, 1): 1})
            for plane in range(2):
                told = random.randint(0, rows)  # rows whose pixels are counted before the whole
                comes = []
                for row in range(rows):
                    now += random.choice([0, 1, width, 2 * width + 5]) * (row < told)
                    comes.append(now)
                    now += row == told - 1
                layer.loaded_at[0, plane] = now = now + random.choice([0, 7])
                comes = [time if row < told else now for row, time in enumerate(comes)]
                layer.words_at[0, plane] = [(comes[row], early + row * step)
                                            for row in range(told)]
                begins = max(end, chosen + CHOICE_LATENCY, comes[0] + PROGRESS_LATENCY)
                waits = max(0, comes[0] - 1 - max(end, chosen))
                lost, late = lost + waits, late + begins - end - waits
                chosen, due, seen = begins + 1, begins + 1, begins
                for row, time in enumerate(comes):
                    if row:  # one after the other
                        seen = max(seen + 1, time)
                        lost += max(0, seen + PROGRESS_LATENCY - due)
                        lost_inside += due < seen + PROGRESS_LATENCY
                        due = max(due, seen + PROGRESS_LATENCY)
                    due += width
                end = due - 1
            spent = await play(dut, layer)
            assert (spent["windows"], spent["turnaround"]) == (lost, late)
    assert lost_inside


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def tiles_that_differ(dut):
    """Bands of other heights that wait for other pixels, and a last tile of fewer images: two jobs
    of different tiles are in the lane at the same time."""
    await begin(dut)
    for opened in (None, [], [0], [0, 1]):
        for length in (1, 2, 3, 4):
            tiles = [n // 2 for n in range(2 * length * max(1, 4 // length))]
            early = {place: {"early_words": random.randint(1, 9)} for place in PLACES}
            bands = {**early, "last": {"pixels": 4, **early["last"]}}
            for images, others in ((1, bands), (3, {"last": {"images": 1}})):
                layer = Layer([Job(opened, tile=tile, base=2) for tile in tiles], pixels=6,
                              width=2, images=images, round_tiles=length, others=others,
                              early_words=5 if images == 1 else WHOLE, early_step=images == 1)
                last = max(tiles)
                layer.loaded_at = {(tile, plane): 30 * tile + 5 * plane for tile in range(last + 1)
                                   for plane in range(PLANES)}
                layer.words_at = {place: [(max(0, at - 20), 2), (max(0, at - 10), 7)]
                                  for place, at in layer.loaded_at.items()}
                spent = await play(dut, layer)
                assert spent["base"] == windows(layer)["base"]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reduction(dut):
    """One psum for all pixels of an image, begun once and emitted once."""
    await begin(dut)
    for pixels, base in ((1, 1), (1, 3), (6, 1), (6, 3)):
        for images in (1, 2, 5):
            await play(dut, Layer([Job(base=base, tile=n // 2) for n in range(4)], pixels=pixels,
                                  reduce=True, images=images))


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def random_layers(dut):
    await begin(dut)
    total = Counter()
    for _ in range(repeats(60)):
        pixels, at, jobs = random.choice([1, 3, 16, 60]), 0, []
        images = random.choice([n for n in (1, 2, 3) if n * pixels <= PIXELS])
        gated = random.random() < 0.8
        shared = gated and random.random() < 0.5
        count = random.randint(1, 9)
        tiles = [0]
        while len(tiles) < count:
            tiles.append(tiles[-1] + (random.random() < 0.4))
        length = random.choice([n for n in range(1, tiles[-1] + 2) if (tiles[-1] + 1) % n == 0])
        others = {}
        if random.random() < 0.6:
            others["last"] = {"pixels": random.choice([1, 2, pixels]) if images == 1 else pixels,
                              "images": random.randint(1, images)}
        if images == 1:
            for place in PLACES:
                others.setdefault(place, {})["early_words"] = random.choice([1, 20, WHOLE])
        for tile in tiles:
            kind = {"pixels": pixels, "images": images,
                    **others.get(place_of(tile, length), {})}
            windows = range(kind["images"] * kind["pixels"])
            opened = sorted(random.sample(windows, random.randint(0, len(windows))))
            at += random.choice([0, 0, 40])
            opened = random.choice([[], opened, opened]) if gated else None
            if shared and (not jobs or jobs[-1].tile != tile or random.random() < 0.4):
                scored = opened
                jobs.append(Job(scored, random.randint(1, 4), tile=tile, header_at=at,
                                base_late=random.choice([-5, 0, 30]), kind=Gated.SCORE))
            jobs.append(Job(scored if shared else opened,
                            random.randint(1, 4), random.randint(1, 4), tile, at,
                            random.choice([-5, 0, 30]), random.choice([0, 3, 80]),
                            random.choice([0, 2, 25]), random.choice([None, *range(OPERANDS)]),
                            kind=Gated.SHARED if shared else None))
        layer = Layer(jobs, pixels, random.randint(1, 9), random.choice([1, 2, 3, 6]),
                      early_words=random.choice([1, 20, WHOLE]) if images == 1 else WHOLE,
                      early_step=random.randint(0, 20), decision=random.choice([1, DECISION]),
                      images=images, round_tiles=length, others=others)
        for times, planes, most in ((layer.loaded_at, PLANES, 20), (layer.added_at, OPERANDS, 80)):
            now = 0
            for place in ((t, plane) for t in range(tile + 1) for plane in range(planes)):
                before, now = now, now + random.choice([0, 3, most, 5 * most])
                times[place] = now
                if times is layer.loaded_at:
                    words = sorted(random.randint(0, 120) for _ in range(8))
                    layer.words_at[place] = list(zip(
                        sorted(random.randint(before, now) for _ in words), words, strict=True))
        stored = 0
        for n in range(tile + 1):
            layer.stored_at[n] = stored = stored + random.choice([0, 100, 800])
        total += await play(dut, layer)
    assert set(total) >= set(Activity) - {"idle"}
