"""Schedule of a lane's passes."""

from collections.abc import Mapping

from hwgate.machine.config import TAPS
from hwgate.plan.layer import Job
from hwgate.rtl.issue import CHOICE_LATENCY, ISSUE_LATENCY, PROGRESS_LATENCY, SKIP_CYCLES
from hwgate.rtl.lane import DRAIN_LATENCY
from hwgate.rtl.requantize import REQUANTIZE_LATENCY
from hwgate.rtl.structs import CONTEXTS
from hwgate.rtl.tasks import TASK_LATENCY
from hwgate.rtl.window import WINDOW_LATENCY
from hwgate.schedule.maps import words_loaded
from hwgate.schedule.state import HALVES, Block, LaneState, LayerState

__all__ = ["issue"]


class _Passes:
    """Progress of a lane's issue unit."""

    def __init__(self, layer: LayerState, lane: LaneState):
        self.layer, self.lane = layer, lane
        self.pixels = [d["images"] * d["out_pixels"] for d in layer.tiles]  # of each tile
        self.at = 0  # last cycle that has been accounted for; a pass may start in it
        self.running = False  # ... because a pass ends in it
        self.chosen = 0  # cycle from which the next pass is known
        self.used = {"base": 0, "conditional": 0}
        #: Of each job: cycle of its gate pass's start, the lost ones before each of its rows.
        self.gates: list[tuple[int, list[int]]] = []
        #: Of each job: cycle after its last window, and whether more may follow.
        self.ends: list[int] = []
        self.open: list[bool] = []

    def start(self, gate: int, weights: int, windows: int, output: int) -> int:
        """Cycle in which a pass starts that waits for decisions, weights, windows and room for its
        output, each until a cycle; accounts for the wait by its reasons in turn."""
        chosen = max(self.chosen, gate, weights)
        begin = max(self.at if self.running else self.at + 1, chosen + CHOICE_LATENCY,
                    max(windows, output) + PROGRESS_LATENCY)
        if begin != self.at:
            for reason, time in (("gate", gate - 1), ("weights", weights - 1),
                                 ("turnaround", chosen), ("windows", windows - 1),
                                 ("output", output - 1), ("turnaround", begin)):
                self.wait(reason, time)
        self.chosen = begin + 1
        return begin

    def wait(self, reason: str, until: int) -> None:
        """Account for the cycles up to ``until``."""
        if until > self.at:
            self.lane.counters[reason] += until - self.at
            self.at = until

    def base(self, number: int) -> Block:
        """Base passes of a job."""
        layer, lane = self.layer, self.lane
        tile, channel, score, decider = lane.jobs[number]
        d, pixels = layer.tiles[tile], self.pixels[tile]
        job, base, room = layer.plan.job(channel, score), lane.weights["base"], 0
        last, loaded = len(job.base) - 1, layer.loaded
        for index, block in enumerate(job.base):
            while len(base) <= self.used["base"]:
                yield base
            plane = tile * d["in_planes"] + _plane(layer, block)
            if index == 0 and tile >= HALVES:
                while len(layer.stored) <= tile - HALVES:
                    yield layer.stored
                room = layer.stored[tile - HALVES]
            operand = windows = 0
            if index == last and (operand_group := _operand(layer, job, channel)) is not None:
                wanted = tile * d["res_planes"] + operand_group
                while len(layer.operands) <= wanted:
                    yield layer.operands
                operand = layer.operands[wanted]
            if len(loaded) <= plane or loaded[plane] >= self.at:
                windows = yield from words_loaded(layer, plane, d["early_words"])
            begin = self.start(0, base[self.used["base"]], max(windows, operand), room)
            self.used["base"] += 1
            lane.freed["base"].add(self._first(begin))
            lane.counters["base"] += pixels
            late: list[int] = []
            if index == last:
                self.gates.append((begin, late))
            # The first task asks for conditional weights, or the first window after a score.
            asks = not score and index == (last if decider == number else 0)
            if len(loaded) > plane and loaded[plane] <= begin:
                late.append(0)
                if asks:
                    self._ask(number, begin, late, pixels)
            else:
                yield from self._rows(begin, d, plane, late, number if asks else None)
                lane.counters["windows"] += late[-1]
            self.at, self.running = begin + pixels + late[-1], True
        self.ends.append(self.at)
        self.open.append(layer.opened is not None and not score
                         and layer.opened.count[tile, channel] > 0)
        self._retire()

    def _rows(self, begin: int, d: Mapping[str, int], plane: int, late: list[int],
              asks: int | None) -> Block:
        """Rows of a base pass over a tile with these fields, which follow the loader.

        ``late`` gets the cycles lost before each row, those of the rows before counted; rows that
        are not listed lost no more. In the pass, job ``asks`` asks for conditional weights.
        """
        layer = self.layer
        lost, words, width, seen = 0, d["early_words"], d["out_width"], begin
        for row in range(d["out_pixels"] // width):
            due = begin + 1 + row * width + lost
            whole = len(layer.loaded) > plane and due - PROGRESS_LATENCY >= layer.loaded[plane]
            if row and not whole:  # rows are seen to be loaded one after the other
                seen = max(seen + 1, (yield from words_loaded(layer, plane, words)))
                lost += max(0, seen + PROGRESS_LATENCY - due)
            late.append(lost)
            if asks is not None and self._ask(asks, begin, late, d["images"] * d["out_pixels"]
                                              if whole else (row + 1) * width):
                asks = None
            if whole:
                break
            words += d["early_step"]

    def _ask(self, number: int, begin: int, late: list[int], pixels: int) -> bool:
        """A job asks for its conditional weights in a pass, if one of its first ``pixels`` makes
        it: its first one after a score, its first open one else."""
        opened, (tile, channel, _, decider) = self.layer.opened, self.lane.jobs[number]
        if opened is None or not opened.count[tile, channel]:
            return False
        first = int(opened.first[tile, channel]) if decider == number else 0
        if first < pixels:
            blocks = len(self.layer.plan.jobs[channel].conditional)
            self.lane.runs.add((self._leaves(begin, late, first), channel, blocks))
        return first < pixels

    def _decision(self, number: int, pixel: int) -> int:
        """Cycle in which a pixel of a job is decided."""
        return self._leaves(*self.gates[self.lane.jobs[number].decider], pixel)

    def _leaves(self, begin: int, late: list[int], pixel: int) -> int:
        """Cycle in which a window of a base pass leaves the pipeline."""
        row = min(pixel // self.layer.d["out_width"], len(late) - 1)
        return begin + self.layer.decision + pixel + late[row]

    def conditional(self, number: int) -> Block:
        """Conditional passes of a job, or the cycle in which they are skipped."""
        layer, lane, opened = self.layer, self.lane, self.layer.opened
        assert opened is not None
        tile, channel, score, _ = lane.jobs[number]
        drained = 0 if score else self._decision(number, self.pixels[tile] - 1) + DRAIN_LATENCY
        count = 0 if score else int(opened.count[tile, channel])
        if count == 0:
            self.chosen = max(self.chosen, drained) + SKIP_CYCLES
            if self.chosen > self.at:
                self.wait("gate", self.chosen - 1)
                self.running = False
            return
        first, last = (self._decision(number, int(at[tile, channel]))
                       for at in (opened.first, opened.last))
        # Pixels of an image become tasks together, once they are more than the limit.
        tasks = max([last + TASK_LATENCY, *(
            self._decision(number, place) + TASK_LATENCY + left - 1
            for place, left in opened.waits.get((tile, channel), ()))])
        conditional = lane.weights["conditional"]
        for index, block in enumerate(layer.plan.jobs[channel].conditional):
            while len(conditional) <= self.used["conditional"]:
                yield conditional
            plane = tile * layer.d["in_planes"] + _plane(layer, block)
            while len(layer.loaded) <= plane:
                yield layer.loaded
            begin = self.start(first + 1 if index == 0 else 0,
                               conditional[self.used["conditional"]], layer.loaded[plane], 0)
            self.used["conditional"] += 1
            lane.freed["conditional"].add(self._first(begin))
            lane.counters["conditional"] += count
            end = begin + count
            self.ends[number] = max(end, tasks) if index == 0 else end
            self.at = max(self.ends[number], drained)
            lane.counters["gate"] += self.at - end
            self.running = True
        self.open[number] = False
        self._retire()

    @staticmethod
    def _first(begin: int) -> int:
        """Cycle in which a pass that starts takes its weights."""
        return begin + ISSUE_LATENCY + WINDOW_LATENCY

    def _retire(self) -> None:
        """Jobs end in their order, as soon as no window can follow."""
        done = self.lane.done
        while len(done) < len(self.ends) and not self.open[len(done)]:
            # ISSUE_LATENCY counts from the start of a pass, one cycle before its first window.
            end = self.ends[len(done)] - 1 + self.layer.decision + REQUANTIZE_LATENCY + 1
            done.add(max(end, done[-1] + 1) if done else end)
            if not self.lane.jobs[len(done) - 1].score:
                self.lane.outputs.add(done[-1])


def issue(layer: LayerState, lane: LaneState) -> Block:
    """A lane's passes: the base passes of a job come before the conditional ones of the job
    before it, those of the last job after its own."""
    passes, jobs, gated = _Passes(layer, lane), len(lane.jobs), layer.opened is not None
    behind = CONTEXTS - 1 if gated else 0
    for number in range(jobs + behind):
        if number < jobs:
            yield from passes.base(number)
        if gated and number >= behind:
            yield from passes.conditional(number - behind)


def _operand(layer: LayerState, job: Job, channel: int) -> int | None:
    """Channel group of the residual operand that a job waits for: one with a factor."""
    factors = layer.plan.layer.mult_residual
    return job.operand if factors is not None and factors[channel] else None


def _plane(layer: LayerState, block: int) -> int:
    """Last plane that a pass reads."""
    if layer.d["bank_mode"]:
        return min(TAPS * (block + 1), layer.d["in_planes"]) - 1
    return block
