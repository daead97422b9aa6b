"""Schedule of a lane's passes."""

from hwgate.compiler import Job
from hwgate.config import TAPS
from hwgate.rtl.issue import ISSUE_LATENCY
from hwgate.rtl.requantize import REQUANTIZE_LATENCY
from hwgate.rtl.tasks import TASK_LATENCY
from hwgate.rtl.window import WINDOW_LATENCY
from hwgate.schedule.state import HALVES, Block, LaneState, LayerState

__all__ = ["issue"]



def issue(layer: LayerState, lane: LaneState) -> Block:
    """A lane's passes, in the order of its jobs."""
    d, opened, decision = layer.d, layer.opened, layer.decision
    pixels, planes = d["images"] * d["out_pixels"], d["in_planes"]
    swapped = ISSUE_LATENCY + WINDOW_LATENCY
    counters = lane.counters
    base, conditional = lane.weights["base"], lane.weights["conditional"]
    used = {"base": 0, "conditional": 0}
    at = 0  # last cycle that has been accounted for; a pass may start in it
    running = False  # ... because a pass ends in it

    def start(*limits: tuple[str, int]) -> int:
        """Cycle in which a pass starts; accounts for the wait by its reasons in turn."""
        nonlocal at
        earliest = at if running else at + 1
        begin = max(earliest, *(time for _, time in limits))
        if begin == at:
            return at
        for reason, time in limits:
            if time - 1 > at:
                counters[reason] += time - 1 - at
                at = time - 1
        counters["turnaround"] += begin - at
        at = begin
        return at

    for tile, channel in lane.jobs:
        job = layer.plan.jobs[channel]
        room = 0
        for number, block in enumerate(job.base):
            while len(base) <= used["base"]:
                yield base
            plane = tile * planes + _plane(layer, block)
            while len(layer.loaded) <= plane:
                yield layer.loaded
            if number == 0 and tile >= HALVES:
                while len(layer.stored) <= tile - HALVES:
                    yield layer.stored
                room = layer.stored[tile - HALVES]
            operand = 0
            operand_group = _operand(layer, job, channel)
            if number == len(job.base) - 1 and operand_group is not None:
                wanted = tile * d["res_planes"] + operand_group
                while len(layer.operands) <= wanted:
                    yield layer.operands
                operand = layer.operands[wanted]
            begin = start(("weights", base[used["base"]]),
                          ("windows", max(layer.loaded[plane], operand)), ("output", room))
            used["base"] += 1
            lane.freed["base"].add(begin + swapped)
            counters["base"] += pixels
            at, running = begin + pixels, True
        last_window = at
        if opened is not None:
            gate = begin + decision  # the first decision is in this cycle
            drained = gate + pixels
            count = int(opened.count[tile, channel])
            if count == 0:
                counters["gate"] += drained - at
                at, running = drained, False
            else:
                tasks = gate + int(opened.first[tile, channel]) + 1
                lane.runs.add((tasks, channel, len(job.conditional)))
                for number, block in enumerate(job.conditional):
                    while len(conditional) <= used["conditional"]:
                        yield conditional
                    plane = tile * planes + _plane(layer, block)
                    while len(layer.loaded) <= plane:
                        yield layer.loaded
                    begin = start(("gate", tasks if number == 0 else 0),
                                  ("weights", conditional[used["conditional"]]),
                                  ("windows", layer.loaded[plane]))
                    used["conditional"] += 1
                    lane.freed["conditional"].add(begin + swapped)
                    at = last_window = begin + count
                    if number == 0:
                        last_task = gate + int(opened.last[tile, channel])
                        last_window = max(at, last_task + TASK_LATENCY)
                        at = max(last_window, drained)
                        counters["gate"] += at - begin - count
                    counters["conditional"] += count
                    running = True
        # ISSUE_LATENCY counts from the start of a pass, one cycle before its first window.
        lane.done.add(last_window - 1 + decision + REQUANTIZE_LATENCY + 1)


def _operand(layer: LayerState, job: Job, channel: int) -> int | None:
    """Channel group of the residual operand that a job waits for: one with a factor."""
    factors = layer.plan.layer.mult_residual
    return job.operand if factors is not None and factors[channel] else None


def _plane(layer: LayerState, block: int) -> int:
    """Last plane that a pass reads."""
    if layer.d["bank_mode"]:
        return min(TAPS * (block + 1), layer.d["in_planes"]) - 1
    return block
