"""Model of Issue, and of what it meets in a lane, for its bench.

Job slots, weight queues, progress of loaders and store, task lists, and a gate that decides a fixed
time after a window has left. Imported inside the simulator.
"""

import random
from collections import deque
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.layouts import FIRST, LAST, Gated, descriptor_layout
from hwgate.quant.issue import Window, job_windows, path_order
from hwgate.quant.pixels import pixel
from hwgate.rtl.fetch import JOBS_ALIVE, job_layout
from hwgate.rtl.issue import ISSUE_LATENCY
from hwgate.rtl.lane import decision_latency
from hwgate.rtl.structs import CONTEXTS, header_struct, pixel_layout
from hwgate.sim.streams import pack, parameters
from support.tiles import PLACES, descriptor_bits, place_of

__all__ = ["CONFIG", "DECISION", "HALVES", "Job", "Layer", "Model", "OPERANDS", "PLANES", "STROBES",
           "WHOLE", "packer", "slice_jobs"]

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
WORDS = CONFIG.buffers.window_words
#: Cycles from a window at the output to its decision.
DECISION = decision_latency(CONFIG) - ISSUE_LATENCY
#: Planes of a tile, and of its residual operand; tiles that two halves hold.
PLANES, OPERANDS, HALVES = 4, 3, 2
#: Rows of windows that a base pass counts ahead, at most.
ROWS_AHEAD = 3
#: ``early_words`` of a layer whose passes wait for whole planes.
WHOLE = 0xFFFF
#: Outputs that make something happen around the block.
STROBES = ("take", "task_clear", "task_rewind", "task_next", "base__ready", "cond__ready")


def packer(layout):
    """Bits of a structure by its values, remembered: packing is slow."""
    return cache(lambda **values: pack(layout, values))


pixel_bits = packer(pixel_layout(CONFIG))


@dataclass
class Job:
    """A job of a scenario, and when it gets what it needs."""

    opened: list | None = None  # open pixels; None: not gated
    base: int = 1
    cond: int = 1
    tile: int = 0
    header_at: int = 0  # cycle from which its header may come
    base_late: int = 0  # cycles from then to its first base block; may be negative
    cond_late: int = 0  # cycles from what asks for conditional blocks to the first one
    every: int = 0      # cycles between its blocks
    operand: int | None = None  # plane of the residual operand that it adds

    @property
    def base_at(self):
        return self.header_at + self.base_late

    kind: Gated | None = None  # NONE or OWN unless given; jobs after a score have its open pixels
    tasks: int = 0  # its task list

    def __post_init__(self):
        if self.kind is None:
            self.kind = Gated.NONE if self.opened is None else Gated.OWN

    @property
    def gated(self):
        return self.opened is not None

    @property
    def listed(self):
        """Pixels that its conditional passes visit."""
        return [] if self.kind == Gated.SCORE else self.opened or []

    def bits(self, res_group, last, kind):
        """The job in its slot, the lane's last one or not, its tile of this kind; fields that the
        block does not use are random."""
        values, header = ({name: random.getrandbits(f.width - 1) for name, f in layout
                           if name != "header"}
                          for layout in (job_layout(CONFIG), header_struct(CONFIG)))
        header |= {"base_blocks": self.base, "cond_blocks": self.cond, "gated": self.kind}
        if self.operand is not None:  # any channel of the output group that the plane is added to
            values["channel"] = ((res_group + self.operand) * CONFIG.channels
                                 + random.randrange(CONFIG.channels))
        return pack(job_layout(CONFIG), values | {
            "tile": self.tile, "last": last, "header": header, "tasks": self.tasks,
            "adds": self.operand is not None, "out_pixels": kind["pixels"],
            **{name: kind[name] for name in ("images", "early_words", "pad_top", "row_end")}})


def slice_jobs(opened, jobs, base=1, cond=1, **kind):
    """A score with these open pixels, and so many jobs that follow it."""
    return [Job(opened, base, kind=Gated.SCORE, **kind),
            *(Job(opened, base, cond, kind=Gated.SHARED, **kind) for _ in range(jobs))]


@dataclass
class Pass:
    """One pass of a job; without windows, the place of a conditional path that is skipped."""

    job: int
    cond: bool
    number: int
    windows: list[Window]
    clear: bool  # it fills its task list anew
    adds: bool  # from it on there may be outputs, to which a residual operand is added
    ends_job: bool
    head: dict = field(default_factory=lambda: {"base": random.randrange(WORDS),
                                                "row": random.randrange(3),
                                                "column": random.randrange(3),
                                                "plane": random.randrange(PLANES)})


@dataclass
class Layer:
    """A scenario: jobs that are all gated, or none of them; scores and jobs that follow them are
    in no layer with others.

    Tiles come in rounds of ``round_tiles``, all of them in one unless it is given; ``others`` are
    ``pixels``, ``images`` and ``early_words`` of tiles at some places, if they differ.
    """

    jobs: list[Job]
    pixels: int = 5  # of an image
    width: int = 3
    step: int = 1  # distance of windows in pixels; three times as far in bank mode
    reduce: bool = False
    loaded_at: dict = field(default_factory=dict)  # from which cycle (tile, plane) is loaded
    words_at: dict = field(default_factory=dict)   # ... and pixels of it: [(cycle, number)]
    early_words: int = WHOLE  # pixels that the first row of windows needs
    early_step: int = 0       # and how many more each further row
    added_at: dict = field(default_factory=dict)   # ... and an operand's (tile, plane)
    stored_at: dict = field(default_factory=dict)  # from which cycle a tile is stored
    planes: dict = field(default_factory=dict)  # plane of a path's pass (cond, number), not random
    decision: int = DECISION
    images: int = 1  # of a tile
    round_tiles: int | None = None
    others: dict = field(default_factory=dict)

    def __post_init__(self):
        self.seen, self.oldest = (-1, {}), self.jobs[0].tile  # that of the oldest job at work
        self.rows = {place: {"pad_top": random.getrandbits(2), "row_end": random.getrandbits(16)}
                     for place in PLACES}
        self.row_words, self.res_group = random.randrange(WORDS), random.randrange(4)
        self.image_words = random.randrange(WORDS)
        self.tiles = 1 + max(job.tile for job in self.jobs)
        self.gated = self.jobs[0].gated
        assert all(job.gated == self.gated for job in self.jobs)
        decided = accumulate(job.kind != Gated.SHARED for job in self.jobs)
        self.jobs = [replace(job, tasks=(number - 1) % CONTEXTS)
                     for job, number in zip(self.jobs, decided, strict=True)]
        self.adds = any(job.operand is not None for job in self.jobs)
        step_q, step_m = divmod(self.step, 3)
        self.round_tiles = self.round_tiles or self.tiles
        fields = {f.name: random.getrandbits(f.bits - 1) for f in descriptor_layout().fields}
        own = {f"{name}_{which}" for which, names in (("first", FIRST), ("last", LAST))
               for name in names}
        fields = {name: value for name, value in fields.items() if name not in own}
        self.descriptor = descriptor_bits(fields | {
            "out_width": self.width, "step_q": step_q,
            "step_m": step_m, "row_step": step_q * self.row_words, "row_words": self.row_words,
            "reduce": self.reduce, "res_group": self.res_group,
            "image_words": self.image_words, "early_step": self.early_step})

    def kind(self, place):
        """Pixels of an image, images, early words and rows of tiles at a place."""
        return {"pixels": self.pixels, "images": self.images, "early_words": self.early_words,
                **self.rows[place], **self.others.get(place, {})}

    def of(self, tile):
        """The same of a tile."""
        return self.kind(place_of(tile, self.round_tiles))

    def passes(self):
        """Passes of all jobs in order."""
        found = []
        windows = [list(job_windows(job.base, job.cond, job.gated, self.reduce,
                                    self.of(job.tile)["pixels"], job.listed,
                                    images=self.of(job.tile)["images"],
                                    beat_pixels=CONFIG.beat_pixels)) for job in self.jobs]
        for number, cond in path_order(len(self.jobs), self.gated):
            job = self.jobs[number]
            blocks = job.base if not cond else job.cond if job.listed else 1
            for block in range(blocks):
                final = block == blocks - 1
                found.append(Pass(
                    number, cond, block,
                    [w for w in windows[number] if (w.cond, w.block) == (cond, block)],
                    clear=final and job.gated and not cond and job.kind != Gated.SHARED,
                    adds=final and not cond and job.operand is not None,
                    ends_job=final and cond == job.gated))
                if (cond, block) in self.planes:
                    found[-1].head["plane"] = self.planes[cond, block]
        return found

    def progress(self, now):
        """Loaded tiles, planes of the next one and pixels of its next plane, the same of the
        residual operand, of which nothing comes if no job adds one, and stored tiles in a cycle.

        Tiles are loaded into the halves that the oldest job has left, and stored when their jobs
        have ended; the operand is no further behind than if every tile waited for it.
        """
        if self.seen[0] != now:
            self.seen = now, self._progress(now)
        return self.seen[1]

    def _progress(self, now):
        limit = self.oldest + HALVES, 0
        (tile, plane), added = (
            min(limit, next((place for place, at in times.items() if at > now), (self.tiles, 0)))
            for times in (self.loaded_at, self.added_at))
        stored = next((tile for tile, at in self.stored_at.items() if at > now), self.tiles)
        stored = min(stored, self.oldest)
        added = max(added, (self.oldest - 1, 0)) if self.adds else (0, 0)
        words = max((n for at, n in self.words_at.get((tile, plane), ())
                     if at <= now and (tile, plane) < limit), default=0)
        return {"loaded_tile": tile, "loaded_plane": plane, "loaded_words": words,
                "residual_tile": added[0], "residual_plane": added[1], "stored_tile": stored}

    def readable(self, now, tile, plane, row=None):
        """A plane is loaded, or what a row of windows needs of it."""
        progress = self.progress(now)
        next_plane = progress["loaded_tile"], progress["loaded_plane"]
        return next_plane > (tile, plane) or (
            row is not None and next_plane == (tile, plane)
            and progress["loaded_words"] >= self.of(tile)["early_words"] + row * self.early_step)

    def ends_image(self, tile, index):
        """A window is the last one of its image."""
        return (index + 1) % self.of(tile)["pixels"] == 0

    def ends_row(self, tile, index):
        """A window is the last one of a whole row."""
        return (index % self.of(tile)["pixels"] + 1) % self.width == 0

    def pixel_bits(self, tile, index):
        """Position of a window of a tile, as it travels."""
        found = pixel(index, self.step, self.width, self.row_words, count=self.of(tile)["pixels"],
                      image_words=self.image_words, beat_pixels=CONFIG.beat_pixels,
                      reduce=self.reduce)
        mask = (1 << (WORDS - 1).bit_length()) - 1
        return pixel_bits(**found | {name: found[name] & mask for name in ("yq", "ya", "xq")})


class Tasks:
    """Task lists and gate of a lane, as the block sees them."""

    def __init__(self, jobs):
        self.jobs = jobs
        self.items, self.drained = [[] for _ in range(CONTEXTS)], [False] * CONTEXTS
        self.reading, self.position, self.valid, self.last = 0, 0, False, False
        self.ended = None  # job whose last decision came in the cycle before
        # Windows that decide, and the first one of a job after its score: (cycle, job, open pixel
        # or None, the job's last decision, asks).
        self.coming = deque()

    def of(self, job):
        """Tasks of a job so far, and whether there will be no more."""
        return self.items[self.jobs[job].tasks], self.drained[self.jobs[job].tasks]

    def step(self, now, clear, rewind, taken):
        """To the next cycle; ``clear`` and ``rewind`` are jobs or None. The job that asks for its
        conditional weights, or None: its first task came, or it begins with tasks of its score."""
        self.position = self.position + taken if rewind is None else 0
        self.reading = self.reading if rewind is None else self.jobs[rewind].tasks
        self.last = self.position + 1 == len(self.items[self.reading])
        if self.ended is not None:  # its tasks have counted for a cycle
            self.drained[self.jobs[self.ended].tasks] = True
        self.ended = None
        if clear is not None:
            place = self.jobs[clear].tasks
            self.items[place], self.drained[place] = [], False
        self.valid = self.position < len(self.items[self.reading])
        if not self.coming or self.coming[0][0] > now:
            return None
        _, job, index, last, asks = self.coming.popleft()
        items = self.items[self.jobs[job].tasks]
        if self.jobs[job].kind == Gated.SHARED:
            return job if asks and items else None
        self.ended = job if last else None
        if index is not None:
            items.append(index)
        first = index is not None and len(items) == 1 and self.jobs[job].kind == Gated.OWN
        return job if first else None


class Model:
    """What the block must do: passes in order, each as soon as nothing holds it up."""

    def __init__(self, layer):
        self.layer, self.tasks = layer, Tasks(layer.jobs)
        self.passes = deque(layer.passes())
        self.running, self.left = None, deque()
        self.rows = self.released = 0  # that may be read, and that have been since the start
        self.chosen, self.ready = None, False  # the next pass; nothing held it up a cycle ago
        self.sent = self.arrived = self.done = 0  # jobs: base blocks, header, end, each in order
        self.over = [False] * len(layer.jobs)
        self.skipped = False  # a job in the cycle before
        self.started = None  # pass that starts in this cycle
        self.fresh, self.slots = [False] * JOBS_ALIVE, [random.getrandbits(60)] * JOBS_ALIVE
        self.blocks = {False: deque(), True: deque()}  # by path: (cycle, head)
        self._arrive(-1)

    @property
    def all_arrived(self):
        return self.arrived == len(self.layer.jobs)

    def head(self, cond, now):
        """Pass at the head of a weight queue, or None."""
        queue = self.blocks[cond]
        return queue[0][1] if queue and queue[0][0] <= now else None

    def cycle(self, now):
        """Expected outputs of a cycle: what it is spent on, strobes, and the window issued, with
        its pass and whether that ends."""
        tasks, was, end, window = self.tasks, self.running, self.running is None, None
        if was and was.cond:
            if tasks.valid:
                window = self.left.popleft()
                assert window.pixel == tasks.items[tasks.reading][tasks.position]
            end = tasks.of(was.job)[1] and (tasks.last or not tasks.valid)
        elif was:
            window = self._row_window(now, was)
            end = not self.left

        strobes, self.started = dict.fromkeys(STROBES, 0), None
        if was and end:
            assert not self.left
            self.running = None
            self.over[was.job] |= was.ends_job
        if self.chosen is None:
            held = self._choose(now, strobes)
        else:
            held, starts = self._held(now), end and self.ready
            self.ready = held is None and not starts
            if starts:
                self._start(strobes)
        strobes["task_next"] = bool(window and window.cond)
        if window is not None:
            activity = "conditional" if was.cond else "base"
        elif was:
            activity = "gate" if was.cond else "windows"
        else:
            activity = held or "turnaround"
        return activity, strobes, (was, window, end) if window else None

    def _row_window(self, now, running):
        """The window of a base pass, or None if its row is not known to be there; another row may
        be known from the next cycle on."""
        job = self.layer.jobs[running.job]
        window = self.left.popleft() if self.rows else None
        more = self.rows < ROWS_AHEAD and self.layer.readable(
            now, job.tile, running.head["plane"], self.released)
        self.released += more
        self.rows += more - bool(window and self.layer.ends_row(job.tile, window.pixel))
        return window

    def _start(self, strobes):
        """The pass that was chosen starts."""
        new = self.running = self.started = self.chosen
        self.chosen, self.left, self.rows, self.released = None, deque(new.windows), 1, 1
        strobes["task_rewind"], strobes["task_clear"] = new.cond, new.clear

    def _choose(self, now, strobes):
        """Choose the next pass, or skip one, also while another runs; why it could not be chosen,
        or None."""
        if self.skipped:
            self.skipped = False
            return "gate"
        if not self.passes:
            return "idle"
        new = self.passes[0]
        listed, first = self.layer.jobs[new.job].listed, new.number == 0
        if new.cond and first and not (listed and self.tasks.of(new.job)[0]):
            if self._skips(new.job):
                self.over[self.passes.popleft().job] = self.skipped = True
            return "gate"
        fresh = self.fresh[new.job % JOBS_ALIVE]
        if self.head(new.cond, now) is None or not new.cond and first and not fresh:
            return "weights"
        self.chosen = self.passes.popleft()
        strobes["cond__ready" if new.cond else "base__ready"] = 1
        if not new.cond and first:
            strobes["take"] = 1 << new.job % JOBS_ALIVE
        return None

    def _skips(self, job):
        """A job is known to have no conditional passes."""
        return self.layer.jobs[job].kind == Gated.SCORE or self.tasks.of(job)[1]

    def _held(self, now):
        """Why the pass that was chosen cannot start, or None."""
        new, progress, job = self.chosen, self.layer.progress(now), self.layer.jobs[self.chosen.job]
        added = progress["residual_tile"], progress["residual_plane"]
        if (not self.layer.readable(now, job.tile, new.head["plane"], None if new.cond else 0)
                or new.adds and added <= (job.tile, job.operand)):
            return "windows"
        first = not new.cond and new.number == 0
        return "output" if first and job.tile >= progress["stored_tile"] + HALVES else None

    def step(self, now, strobes, issued):
        """Everything moves on to the next cycle."""
        layer, jobs = self.layer, self.layer.jobs
        for cond, name in ((False, "base__ready"), (True, "cond__ready")):
            if strobes[name]:
                self.blocks[cond].popleft()
        for slot in range(JOBS_ALIVE):
            self.fresh[slot] &= not strobes["take"] >> slot & 1
        if issued and not issued[1].cond and layer.gated:
            job, window = issued[0].job, issued[1]
            asks = window.init and window.swap
            if window.gate or asks and jobs[job].kind == Gated.SHARED:
                opened = window.gate and window.pixel in jobs[job].opened
                self.tasks.coming.append((now + 1 + layer.decision, job,
                                          window.pixel if opened else None,
                                          window.gate and window.last, asks))
        # A job without conditional passes is over, and its slot another one's, with its last
        # decision, perhaps long before its turn comes to be skipped.
        if self.tasks.coming and self.tasks.coming[0][0] <= now:
            _, job, _, last, _ = self.tasks.coming[0]
            self.over[job] |= last and not jobs[job].listed
        started = self.started and self.started.job
        first = self.tasks.step(now, started if strobes["task_clear"] else None,
                                started if strobes["task_rewind"] else None, strobes["task_next"])
        if first is not None:
            self._send(now + 1 + jobs[first].cond_late, first, True)
        while self.done < len(jobs) and self.over[self.done]:
            self.done += 1
        layer.oldest = jobs[min(self.done, len(jobs) - 1)].tile
        alive = min(self.done + JOBS_ALIVE, len(jobs))
        # A job is known for a cycle before its first block comes.
        if self.sent < min(alive, self.arrived) and jobs[self.sent].base_at <= now + 1:
            self._send(now + 1, self.sent, False)
            self.sent += 1
        self._arrive(now)

    def _arrive(self, now):
        """A header, a cycle before its job may go on."""
        layer, jobs = self.layer, self.layer.jobs
        if (self.arrived < min(self.done + JOBS_ALIVE, len(jobs))
                and jobs[self.arrived].header_at <= now + 2):
            self.fresh[self.arrived % JOBS_ALIVE] = True
            self.slots[self.arrived % JOBS_ALIVE] = jobs[self.arrived].bits(
                layer.res_group, self.arrived == len(jobs) - 1,
                layer.of(jobs[self.arrived].tile))
            self.arrived += 1

    def _send(self, at, number, cond):
        """Blocks of one path of a job, from a cycle on."""
        waiting = [p for p in self.passes if p.job == number and p.cond == cond]
        self.blocks[cond] += [(at + n * self.layer.jobs[number].every, p.head)
                              for n, p in enumerate(waiting)]
