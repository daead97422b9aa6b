"""Model of Issue, and of what it meets in a lane, for its bench.

Job slots, weight queues, progress of loaders and store, task list, and a gate that decides a fixed
time after a window has left. Imported inside the simulator.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from functools import cache

from hwgate.config import AcceleratorConfig
from hwgate.quant.issue import Window, job_windows
from hwgate.quant.pixels import pixel
from hwgate.rtl.fetch import JOBS_ALIVE, job_layout
from hwgate.rtl.issue import ISSUE_LATENCY
from hwgate.rtl.lane import decision_latency
from hwgate.rtl.structs import descriptor_struct, header_struct, pixel_layout
from hwgate.sim.streams import pack, parameters

__all__ = ["CONFIG", "DECISION", "HALVES", "Job", "Layer", "Model", "OPERANDS", "PLANES", "STROBES",
           "packer"]

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
WORDS = CONFIG.buffers.window_words
#: Cycles from a window at the output to its decision.
DECISION = decision_latency(CONFIG) - ISSUE_LATENCY
#: Planes of a tile, and of its residual operand; tiles that two halves hold.
PLANES, OPERANDS, HALVES = 4, 3, 2
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
    cond_late: int = 0  # cycles from its first task to its first conditional block
    every: int = 0      # cycles between its blocks
    operand: int | None = None  # plane of the residual operand that it adds

    @property
    def base_at(self):
        return self.header_at + self.base_late

    @property
    def gated(self):
        return self.opened is not None

    def bits(self, res_group):
        """The job in its slot; fields that the block does not use are random."""
        values, header = ({name: random.getrandbits(f.width - 1) for name, f in layout
                           if name != "header"}
                          for layout in (job_layout(CONFIG), header_struct(CONFIG)))
        header |= {"base_blocks": self.base, "cond_blocks": self.cond, "gated": self.gated,
                   "mult_residual": 0}
        if self.operand is not None:
            # Any factor but zero, and any channel of the output group that the plane is added to.
            header["mult_residual"] = random.choice((1, -2)) << random.randrange(15)
            values["channel"] = ((res_group + self.operand) * CONFIG.channels
                                 + random.randrange(CONFIG.channels))
        return pack(job_layout(CONFIG), values | {"tile": self.tile, "header": header})


@dataclass
class Pass:
    """One pass of a job; without windows, the place of a conditional path that is skipped."""

    job: int
    cond: bool
    number: int
    windows: list[Window]
    clear: bool  # it fills the task list anew
    adds: bool  # from it on there may be outputs, to which a residual operand is added
    ends_job: bool
    head: dict = field(default_factory=lambda: {"base": random.randrange(WORDS),
                                                "row": random.randrange(3),
                                                "column": random.randrange(3),
                                                "plane": random.randrange(PLANES)})


@dataclass
class Layer:
    """A scenario."""

    jobs: list[Job]
    pixels: int = 5  # of an image
    width: int = 3
    step: int = 1  # distance of windows in pixels; three times as far in bank mode
    reduce: bool = False
    loaded_at: dict = field(default_factory=dict)  # from which cycle (tile, plane) is loaded
    added_at: dict = field(default_factory=dict)   # ... and an operand's (tile, plane)
    stored_at: dict = field(default_factory=dict)  # from which cycle a tile is stored
    decision: int = DECISION
    images: int = 1  # of a tile

    def __post_init__(self):
        self.row_words, self.res_group = random.randrange(WORDS), random.randrange(4)
        self.image_words = random.randrange(WORDS)
        self.tiles = 1 + max(job.tile for job in self.jobs)
        self.adds = any(job.operand is not None for job in self.jobs)
        step_q, step_m = divmod(self.step, 3)
        fields = {name: random.getrandbits(f.width - 1) for name, f in descriptor_struct()}
        self.descriptor = pack(descriptor_struct(), fields | {
            "out_pixels": self.pixels, "out_width": self.width, "step_q": step_q,
            "step_m": step_m, "row_step": step_q * self.row_words, "row_words": self.row_words,
            "reduce": self.reduce, "res_group": self.res_group, "images": self.images,
            "image_words": self.image_words})

    def passes(self):
        """Passes of all jobs in order."""
        found = []
        for number, job in enumerate(self.jobs):
            windows = list(job_windows(
                job.base, job.cond, job.gated, self.reduce, self.pixels, job.opened or [],
                images=self.images, beat_pixels=CONFIG.beat_pixels))
            paths = [(False, job.base)]
            if job.gated:
                paths.append((True, job.cond if job.opened else 1))
            for cond, blocks in paths:
                for block in range(blocks):
                    final = block == blocks - 1
                    found.append(Pass(
                        number, cond, block,
                        [w for w in windows if (w.cond, w.block) == (cond, block)],
                        clear=final and job.gated and not cond,
                        adds=final and not cond and job.operand is not None,
                        ends_job=final and cond == job.gated))
        return found

    def progress(self, now):
        """Loaded tiles and planes of the next one, the same of the residual operand, of which
        nothing comes if no job adds one, and stored tiles in a cycle."""
        (tile, plane), added = (
            next((place for place, at in times.items() if at > now), (self.tiles, 0))
            for times in (self.loaded_at, self.added_at))
        stored = next((tile for tile, at in self.stored_at.items() if at > now), self.tiles)
        added = added if self.adds else (0, 0)
        return {"loaded_tile": tile, "loaded_plane": plane, "residual_tile": added[0],
                "residual_plane": added[1], "stored_tile": stored}

    def pixel_bits(self, index):
        """Position of a window, as it travels."""
        found = pixel(index, self.step, self.width, self.row_words, count=self.pixels,
                      image_words=self.image_words, beat_pixels=CONFIG.beat_pixels,
                      reduce=self.reduce)
        mask = (1 << (WORDS - 1).bit_length()) - 1
        return pixel_bits(**found | {name: found[name] & mask for name in ("yq", "ya", "xq")})


class Tasks:
    """Task list and gate of a lane, as the block sees them."""

    def __init__(self):
        self.items, self.position, self.valid, self.drained = [], 0, False, False
        self.coming = deque()  # decisions: (cycle, open pixel or None, last)

    def step(self, now, clear, rewind, taken):
        """To the next cycle; true if the first task of a job came."""
        ahead = 0 if rewind else self.position + taken
        self.position, self.valid = ahead, ahead < len(self.items) and not clear
        if clear:
            self.items, self.drained = [], False
        if not self.coming or self.coming[0][0] > now:
            return False
        _, index, self.drained = self.coming.popleft()
        if index is not None:
            self.items.append(index)
        return index is not None and len(self.items) == 1


class Model:
    """What the block must do: passes in order, each as soon as nothing holds it up."""

    def __init__(self, layer):
        self.layer, self.tasks, self.passes = layer, Tasks(), deque(layer.passes())
        self.running, self.left = None, deque()
        self.sent = self.arrived = self.done = 0  # jobs: base blocks, header, end
        self.ended = []
        self.fresh, self.slots = [False] * JOBS_ALIVE, [random.getrandbits(60)] * JOBS_ALIVE
        self.blocks = {False: deque(), True: deque()}  # by path: (cycle, head)

    @property
    def all_arrived(self):
        return self.arrived == len(self.layer.jobs)

    def head(self, cond, now):
        """Pass at the head of a weight queue, or None."""
        queue = self.blocks[cond]
        return queue[0][1] if queue and queue[0][0] <= now else None

    def cycle(self, now):
        """Expected outputs of a cycle: activity, strobes, and the pass and window issued."""
        tasks, end, window = self.tasks, self.running is None, None
        if self.running and self.running.cond:
            if tasks.valid:
                window = self.left.popleft()
                assert window.pixel == tasks.items[tasks.position]
            taken = tasks.position + (window is not None)
            end = tasks.drained and taken == len(tasks.items)
        elif self.running:
            window = self.left.popleft()
            end = not self.left
        was, held = self.running, self._held(now)
        if window is not None:
            activity = "conditional" if was.cond else "base"
        else:
            activity = "gate" if was else held or "turnaround"

        strobes, self.ended = dict.fromkeys(STROBES, 0), []
        if was and end:
            self.running, self.ended = None, [was]
        if end and held is None:
            new = self.running = self.passes.popleft()
            self.left = deque(new.windows)
            strobes["cond__ready" if new.cond else "base__ready"] = 1
            strobes["task_rewind"], strobes["task_clear"] = new.cond, new.clear
            if not new.cond and new.number == 0:
                strobes["take"] = 1 << new.job % JOBS_ALIVE
        elif not was and held == "gate" and tasks.drained:
            self.ended = [self.passes.popleft()]
        strobes["task_next"] = bool(window and window.cond)
        return activity, strobes, (was, window) if window else None

    def _held(self, now):
        """Why the next pass cannot start, or None."""
        if not self.passes:
            return "idle"
        new, progress = self.passes[0], self.layer.progress(now)
        first = not new.cond and new.number == 0
        if new.cond and new.number == 0 and not self.tasks.items:
            return "gate"
        if self.head(new.cond, now) is None or first and not self.fresh[new.job % JOBS_ALIVE]:
            return "weights"
        job = self.layer.jobs[new.job]
        tile = job.tile
        if (progress["loaded_tile"], progress["loaded_plane"]) <= (tile, new.head["plane"]):
            return "windows"
        added = progress["residual_tile"], progress["residual_plane"]
        if new.adds and added <= (tile, job.operand):
            return "windows"
        return "output" if first and tile >= progress["stored_tile"] + HALVES else None

    def step(self, now, strobes, issued):
        """Everything moves on to the next cycle."""
        layer, jobs = self.layer, self.layer.jobs
        for cond, name in ((False, "base__ready"), (True, "cond__ready")):
            if strobes[name]:
                self.blocks[cond].popleft()
        for slot in range(JOBS_ALIVE):
            self.fresh[slot] &= not strobes["take"] >> slot & 1
        if issued and issued[1].gate:
            index = issued[1].pixel
            self.tasks.coming.append((now + 1 + layer.decision, index if index in
                                      jobs[issued[0].job].opened else None, issued[1].last))
        if self.tasks.step(now, strobes["task_clear"], strobes["task_rewind"],
                           strobes["task_next"]):
            self._send(now + 1 + jobs[self.passes[0].job].cond_late, self.passes[0].job, True)
        self.done += sum(ended.ends_job for ended in self.ended)
        alive = min(self.done + JOBS_ALIVE, len(jobs))
        if self.sent < alive and jobs[self.sent].base_at <= now + 1:
            self._send(now + 1, self.sent, False)
            self.sent += 1
        if self.arrived < alive and jobs[self.arrived].header_at <= now + 1:
            self.fresh[self.arrived % JOBS_ALIVE] = True
            self.slots[self.arrived % JOBS_ALIVE] = jobs[self.arrived].bits(layer.res_group)
            self.arrived += 1

    def _send(self, at, number, cond):
        """Blocks of one path of a job, from a cycle on."""
        waiting = [p for p in self.passes if p.job == number and p.cond == cond]
        self.blocks[cond] += [(at + n * self.layer.jobs[number].every, p.head)
                              for n, p in enumerate(waiting)]
