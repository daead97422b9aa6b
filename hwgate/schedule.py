"""Cycle model of one layer: the schedule that the RTL follows, without stepping through cycles.

Every block is a generator that computes *when* it does things from the times at which others did
theirs, and yields the list that lacks a time it needs. The read arbiter is the only place where
requests compete; granting them in order makes further times known. Latencies are the constants
beside the blocks. Times are cycles since the layer's start strobe.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.bursts import burst_count, split_bursts
from hwgate.compiler import Job, LayerPlan
from hwgate.config import TAPS, AcceleratorConfig, MemoryTiming
from hwgate.counters import LANE_COUNTERS, STREAMS
from hwgate.layouts import descriptor_layout, header_layout
from hwgate.rtl.burst import FIRST_BURST_CYCLES, IDLE_CYCLES
from hwgate.rtl.fetch import JOBS_ALIVE
from hwgate.rtl.issue import ISSUE_LATENCY
from hwgate.rtl.lane import decision_latency
from hwgate.rtl.loader import LOADED_LATENCY
from hwgate.rtl.reader import GRANT_LATENCY, READ_BEAT_LATENCY
from hwgate.rtl.requantize import REQUANTIZE_LATENCY
from hwgate.rtl.sequencer import DECODE_CYCLES, FINISH_CYCLES
from hwgate.rtl.store import STORE_BEAT_LATENCY
from hwgate.rtl.tasks import TASK_LATENCY
from hwgate.rtl.tiles import TILE_CHUNK, TILE_QUEUE
from hwgate.rtl.unpack import UNPACK_LATENCY, block_beat
from hwgate.rtl.weights import BLOCK_LATENCY
from hwgate.rtl.window import WINDOW_LATENCY
from hwgate.rtl.writer import BURST_QUEUE, WRITE_BEAT_LATENCY

__all__ = ["LayerSchedule", "OpenPixels", "end_cycles", "schedule_layer"]

#: Halves of a double buffer.
_HALVES = 2


@dataclass(frozen=True)
class OpenPixels:
    """Decisions of a gated layer, as far as they matter for time.

    Parameters
    ----------
    count, first, last : int (N, Co)
        Open pixels of each image and channel, and the raster index of the first and last one.
    """

    count: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, decision: NDArray[np.bool_]) -> "OpenPixels":
        """Summary of decisions (N, Co, H, W)."""
        flat = decision.reshape(*decision.shape[:2], -1)
        return cls(flat.sum(axis=2), flat.argmax(axis=2),
                   flat.shape[2] - 1 - flat[:, :, ::-1].argmax(axis=2))


@dataclass
class LayerSchedule:
    """When a layer ends, and what it counted.

    Parameters
    ----------
    cycles : int
        From the end of the previous layer to the end of this one.
    bytes : mapping of stream to bytes
    lanes : list of mappings
        Lane counters; each adds up to ``cycles``.
    quiet : int
        Cycles from the last beat that was read to the end.
    """

    cycles: int
    bytes: dict[str, int]
    lanes: list[dict[str, int]]
    quiet: int


def end_cycles(config: AcceleratorConfig, timing: MemoryTiming, last: LayerSchedule) -> int:
    """Cycles from the end of the last layer to done: the fetch of the end of the program."""
    return _descriptor_cycles(config, timing, last)


def _descriptor_cycles(config: AcceleratorConfig, timing: MemoryTiming,
                       previous: LayerSchedule | None) -> int:
    """Cycles from the end of the previous layer, or the start of the program, to a layer's start.

    In between, its descriptor is fetched.
    """
    beats = descriptor_layout().size_bytes // config.bus.bytes
    request = 1 if previous is None else FINISH_CYCLES
    first = request + GRANT_LATENCY + timing.read_latency
    if previous is not None:
        first = max(first, timing.beat_interval - previous.quiet)
    return first + (beats - 1) * timing.beat_interval + READ_BEAT_LATENCY + DECODE_CYCLES


def schedule_layer(config: AcceleratorConfig, timing: MemoryTiming, plan: LayerPlan,
                   descriptor: Mapping[str, int], opened: OpenPixels | None,
                   previous: LayerSchedule | None) -> LayerSchedule:
    """Schedule one descriptor: a layer, or a band of it.

    Parameters
    ----------
    config, timing
        Accelerator and memory.
    plan : LayerPlan
    descriptor : mapping
        Descriptor fields with addresses and tile count, see :class:`hwgate.compiler.Binding`.
    opened : OpenPixels or None
        Decisions of the band; None for an ungated layer.
    previous : LayerSchedule or None
        Of the descriptor before; None for the first of the program.
    """
    before = _descriptor_cycles(config, timing, previous)
    model = _Layer(config, timing, plan, descriptor, opened)
    end = model.run()
    lanes = []
    for lane in model.lanes:
        busy = sum(lane.counters.values())
        lanes.append(lane.counters | {"idle": before + end - busy})
    layer_bytes = dict.fromkeys(STREAMS, 0) | model.bytes
    layer_bytes["program"] = descriptor_layout().size_bytes
    return LayerSchedule(before + end, layer_bytes, lanes, end - model.last_beat)


class _Times(list[Any]):
    """Times that become known one after the other, and the blocks that wait for the next one."""

    def __init__(self, ready: list["_Block"]):
        super().__init__()
        self._ready, self.waiting = ready, list["_Block"]()

    def add(self, time: Any) -> None:
        """The next time is known: whoever waited for it can go on."""
        self.append(time)
        if self.waiting:
            self._ready += self.waiting
            self.waiting.clear()


#: A block; it yields what it waits for.
_Block = Generator[_Times, None, None]
#: Part of a block that ends with the cycles of a grant and of the first beat.
_Read = Generator[_Times, None, tuple[int, int]]


@dataclass(slots=True)
class _Request:
    """A read request that waits from cycle ``valid`` on for its grant and its first beat."""

    valid: int
    address: int
    beats: int
    stream: str
    answer: _Times


class _Lane:
    """Times that a lane's blocks tell each other."""

    def __init__(self, jobs: list[tuple[int, int]], times: Callable[[], _Times]):
        self.jobs = jobs  # (tile, channel)
        #: Cycle from which each pass has its weights, and from which each swap freed its block.
        self.weights = {"base": times(), "conditional": times()}
        self.freed = {"base": times(), "conditional": times()}
        #: Cycle from which each job counts as done.
        self.done = times()
        #: Conditional blocks that are wanted: (cycle, channel, blocks).
        self.runs = times()
        self.counters = dict.fromkeys(LANE_COUNTERS, 0)


class _Layer:
    """The blocks of the engine during one layer."""

    def __init__(self, config: AcceleratorConfig, timing: MemoryTiming, plan: LayerPlan,
                 descriptor: Mapping[str, int], opened: OpenPixels | None):
        self.config, self.timing, self.plan, self.d = config, timing, plan, descriptor
        self.opened = opened
        self.decision = decision_latency(config)
        self._block_beats = [block_beat(config, n) for n in range(config.request_blocks)]
        self.header_beats = header_layout(config).size_bytes // config.bus.bytes
        channels, tiles = descriptor["out_channels"], descriptor["tiles"]
        self._ready: list[_Block] = []  # blocks that can go on
        self.lanes = [
            _Lane([(tile, channel) for tile in range(tiles)
                   for channel in range(n, channels, config.lanes)], self._times)
            for n in range(config.lanes)]
        self.loaded = self._times()    # cycle from which each plane can be read
        self.operands = self._times()  # the same of the residual operand
        self.stored = self._times()    # cycle from which each tile has left the output columns
        self.map_ends = self._times()  # cycle from which each of the two loaders is idle
        self.bytes: dict[str, int] = {}
        self.requests: dict[int, _Request] = {}
        self.end = -1
        self.last_beat = 0  # cycle of the last beat on the bus

    def _times(self) -> _Times:
        return _Times(self._ready)

    def run(self) -> int:
        """Cycle of the layer's end."""
        lanes, count = self.lanes, len(self.lanes)
        ready, requests = self._ready, self.requests
        ready += [self._store(), self._load(1 + 2 * count), self._load_residual(2 + 2 * count)]
        for n, lane in enumerate(lanes):
            ready += [self._issue(lane), self._fetch_jobs(lane, 1 + count + n),
                      self._fetch_conditional(lane, 1 + n)]
        # The arbiter, and the last beat on the bus: at first that of the descriptor.
        free, bus = 0, -READ_BEAT_LATENCY - DECODE_CYCLES
        latency, interval = self.timing.read_latency, self.timing.beat_interval
        while True:
            while ready:
                block = ready.pop()
                missing = next(block, None)
                if missing is not None:
                    missing.waiting.append(block)
            if not requests:
                break
            now = max(free, min(request.valid for request in requests.values()))
            source = min(n for n, request in requests.items() if request.valid <= now)
            request = requests.pop(source)
            bursts = burst_count(self.config, request.address, request.beats)
            free = now + FIRST_BURST_CYCLES + bursts - 1 + IDLE_CYCLES
            start = max(now + GRANT_LATENCY + latency, bus + interval)
            bus = start + (request.beats - 1) * interval
            self.bytes[request.stream] = (self.bytes.get(request.stream, 0)
                                          + request.beats * self.config.bus.bytes)
            request.answer.add((now, start + READ_BEAT_LATENCY))
        if self.end < 0:
            raise AssertionError(f"The schedule of layer {self.plan.layer.name!r} is stuck")
        self.last_beat = bus
        return self.end

    def _read(self, source: int, valid: int, address: int, beats: int, stream: str) -> _Read:
        """Read ``beats`` beats; ends with the cycles of the grant and of the first beat."""
        answer = self._times()
        self.requests[source] = _Request(valid, address, beats, stream, answer)
        yield answer
        grant, beat = answer[0]
        return grant, beat

    # Weights

    def _blocks(self, lane: _Lane, stream: str, source: int, valid: int, address: int, beats: int,
                blocks: int, requested: int, header: int) -> _Read:
        """One request of a :class:`BlockFetch`, when its queue has room; as :meth:`_read`."""
        short = requested + blocks - self.config.buffers.weight_blocks
        if short > 0:
            while len(lane.freed[stream]) < short:
                yield lane.freed[stream]
            valid = max(valid, lane.freed[stream][short - 1])
        grant, beat = yield from self._read(source, valid, address, beats, stream)
        interval, latency = self.timing.beat_interval, UNPACK_LATENCY + BLOCK_LATENCY
        for beats_before in self._block_beats[:blocks]:
            lane.weights[stream].add(beat + (header + beats_before) * interval + latency)
        return grant, beat

    def _fetch_jobs(self, lane: _Lane, source: int) -> _Block:
        """Headers and base blocks of a lane's jobs."""
        d, size = self.d, self.config.bus.bytes
        claim, ready, requested = 1, 1, 0
        for number, (_, channel) in enumerate(lane.jobs):
            if number >= JOBS_ALIVE:
                while len(lane.done) <= number - JOBS_ALIVE:
                    yield lane.done
                claim = max(claim, lane.done[number - JOBS_ALIVE])
            claim = max(claim, ready)
            address = d["weights_address"] + channel * d["job_stride"]
            grant, beat = yield from self._blocks(
                lane, "base", source, claim + 1, address, d["first_beats"], d["first_blocks"],
                requested, self.header_beats)
            requested += d["first_blocks"]
            header = beat + (self.header_beats - 1) * self.timing.beat_interval + UNPACK_LATENCY
            rest = len(self.plan.jobs[channel].base) - d["first_blocks"]
            address += d["first_beats"] * size
            claim = ready = header + 2
            for blocks, beats in self.plan.chunks(rest, self.config):
                grant, _ = yield from self._blocks(lane, "base", source, ready, address, beats,
                                                   blocks, requested, 0)
                requested += blocks
                address += beats * size
                ready = grant + 1

    def _fetch_conditional(self, lane: _Lane, source: int) -> _Block:
        """Conditional blocks of the jobs that open a gate."""
        d, requested, number = self.d, 0, 0
        while True:
            while len(lane.runs) <= number:
                yield lane.runs
            valid, channel, blocks_left = lane.runs[number]
            address = d["weights_address"] + channel * d["job_stride"] + d["cond_offset"]
            for blocks, beats in self.plan.chunks(blocks_left, self.config):
                grant, _ = yield from self._blocks(lane, "conditional", source, valid, address,
                                                   beats, blocks, requested, 0)
                requested += blocks
                address += beats * self.config.bus.bytes
                valid = grant + 1
            number += 1

    # Feature maps

    def _load(self, source: int) -> _Block:
        """The loader: windows of one tile after another."""
        d, config = self.d, self.config
        steps = config.beat_pixels if d["bank_mode"] else config.beat_pixels // config.write_words
        yield from self._tiles(source, "in", "windows", d["plane_beats"], steps, self.loaded)

    def _load_residual(self, source: int) -> _Block:
        """The residual loader."""
        d = self.d
        steps = self.config.slot_reads * (self.config.beat_pixels if d["res_step"] == 2 else 1)
        yield from self._tiles(source, "res", "residual", d["res_beats"], steps, self.operands)

    def _tiles(self, source: int, prefix: str, stream: str, plane: int, steps: int,
               loaded: _Times) -> _Block:
        """A :class:`TileQueue`, whose user takes ``steps`` cycles per beat."""
        d, config = self.d, self.config
        popped: list[int] = []  # cycle from which each beat's place in the queue is free
        valid, busy = 1, 0
        for tile in range(d["tiles"]):
            for lane in self.lanes:
                jobs = len(lane.jobs) // d["tiles"]
                if tile >= _HALVES and jobs:
                    while len(lane.done) < (tile - _HALVES + 1) * jobs:
                        yield lane.done
                    valid = max(valid, lane.done[(tile - _HALVES + 1) * jobs - 1])
            valid += 1
            first = d[f"{prefix}_address"] + tile * d[f"{prefix}_stride"]
            for run in range(d[f"{prefix}_runs"]):
                address = first + run * d[f"{prefix}_run_stride"]
                left = d[f"{prefix}_run_beats"]
                while left:
                    chunk = min(TILE_CHUNK, left)
                    short = len(popped) + chunk - TILE_QUEUE
                    if short > 0:
                        valid = max(valid, popped[short - 1])
                    grant, beat = yield from self._read(source, valid, address, chunk, stream)
                    for n in range(chunk):
                        busy = max(busy, beat + n * self.timing.beat_interval + 1) + steps
                        popped.append(busy)
                        if len(popped) % plane == 0:
                            loaded.add(busy - 1 + LOADED_LATENCY)
                    valid, left = grant + 1, left - chunk
                    address += chunk * config.bus.bytes
        self.map_ends.add(busy)

    # Compute

    def _issue(self, lane: _Lane) -> _Block:
        """A lane's passes, in the order of its jobs."""
        d, opened, decision = self.d, self.opened, self.decision
        pixels, planes = d["out_pixels"], d["in_planes"]
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
            job = self.plan.jobs[channel]
            room = 0
            for number, block in enumerate(job.base):
                while len(base) <= used["base"]:
                    yield base
                plane = tile * planes + self._plane(block)
                while len(self.loaded) <= plane:
                    yield self.loaded
                if number == 0 and tile >= _HALVES:
                    while len(self.stored) <= tile - _HALVES:
                        yield self.stored
                    room = self.stored[tile - _HALVES]
                operand = 0
                operand_group = self._operand(job, channel)
                if number == len(job.base) - 1 and operand_group is not None:
                    wanted = tile * d["res_planes"] + operand_group
                    while len(self.operands) <= wanted:
                        yield self.operands
                    operand = self.operands[wanted]
                begin = start(("weights", base[used["base"]]),
                              ("windows", max(self.loaded[plane], operand)), ("output", room))
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
                        plane = tile * planes + self._plane(block)
                        while len(self.loaded) <= plane:
                            yield self.loaded
                        begin = start(("gate", tasks if number == 0 else 0),
                                      ("weights", conditional[used["conditional"]]),
                                      ("windows", self.loaded[plane]))
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

    def _operand(self, job: Job, channel: int) -> int | None:
        """Channel group of the residual operand that a job waits for: one with a factor."""
        factors = self.plan.layer.mult_residual
        return job.operand if factors is not None and factors[channel] else None

    def _plane(self, block: int) -> int:
        """Last plane that a pass reads."""
        if self.d["bank_mode"]:
            return min(TAPS * (block + 1), self.d["in_planes"]) - 1
        return block

    # Outputs

    def _store(self) -> _Block:
        """The store and the writer."""
        d, config = self.d, self.config
        taps = d["pool"] ** 2 * config.slot_reads
        units = d["out_beats"] if d["pool"] == 1 else d["store_pixels"]
        per_beat = 1 if d["pool"] == 1 else config.beat_pixels
        at, idle = 1, 1  # from when the store waits, and the writer's splitter is idle
        sent: list[int] = []      # last beat of each burst
        answered = 0
        for tile in range(d["tiles"]):
            address = d["out_address"] + tile * d["out_stride"]
            for plane in range(d["out_planes"]):
                need = -(-(plane + 1) * config.channels // config.lanes)
                ready = at
                for lane in self.lanes:
                    jobs = len(lane.jobs) // d["tiles"]
                    if jobs:
                        job = tile * jobs + min(need, jobs) - 1
                        while len(lane.done) <= job:
                            yield lane.done
                        ready = max(ready, lane.done[job])
                begin = max(ready, idle)
                beats_done, idle = 0, begin
                for _, beats in split_bursts(config, address, d["out_beats"]):
                    idle += 1
                    if len(sent) >= BURST_QUEUE:
                        idle = max(idle, sent[len(sent) - BURST_QUEUE] + 1)
                    beats_done += beats
                    done_units = min(units, beats_done * per_beat)
                    sent.append(begin + done_units * taps + STORE_BEAT_LATENCY
                                + WRITE_BEAT_LATENCY)
                    answered = max(answered + 1, sent[-1] + self.timing.write_latency)
                idle += 1
                at = begin + units * taps + 1
                address += d["out_plane_stride"]
                self.bytes["output"] = (self.bytes.get("output", 0)
                                        + d["out_beats"] * config.bus.bytes)
            self.stored.add(at)
        while len(self.map_ends) < 2:
            yield self.map_ends
        self.end = max(at, answered + 1, *self.map_ends)
