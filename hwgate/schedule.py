"""Cycle model of one layer: the schedule that the RTL follows, without stepping through cycles.

Every block is a generator that computes *when* it does things from the times at which others did
theirs, and yields while it needs a time that nobody knows yet. The read arbiter is the only place
where requests compete; granting them in order makes further times known. Latencies are the
constants beside the blocks. Times are cycles since the layer's start strobe.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwgate.bursts import split_bursts
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
    """

    cycles: int
    bytes: dict[str, int]
    lanes: list[dict[str, int]]


def end_cycles(config: AcceleratorConfig, timing: MemoryTiming) -> int:
    """Cycles from the end of the last layer to done: the fetch of the end of the program."""
    return FINISH_CYCLES + _descriptor_cycles(config, timing)


def _descriptor_cycles(config: AcceleratorConfig, timing: MemoryTiming) -> int:
    """Cycles from the request for a descriptor to the start of its layer."""
    beats = descriptor_layout().size_bytes // config.bus.bytes
    return (GRANT_LATENCY + timing.read_latency + (beats - 1) * timing.beat_interval
            + READ_BEAT_LATENCY + DECODE_CYCLES)


def schedule_layer(config: AcceleratorConfig, timing: MemoryTiming, plan: LayerPlan,
                   descriptor: Mapping[str, int], opened: OpenPixels | None,
                   first: bool) -> LayerSchedule:
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
    first : bool
        The descriptor is the first of the program.
    """
    before = _descriptor_cycles(config, timing) + (1 if first else FINISH_CYCLES)
    model = _Layer(config, timing, plan, descriptor, opened)
    end = model.run()
    lanes = []
    for lane in model.lanes:
        counters = dict.fromkeys(LANE_COUNTERS, 0) | lane.counters
        counters["idle"] = before + end - sum(counters.values())
        lanes.append(counters)
    layer_bytes = dict.fromkeys(STREAMS, 0) | model.bytes
    layer_bytes["program"] = descriptor_layout().size_bytes
    return LayerSchedule(before + end, layer_bytes, lanes)


@dataclass
class _Request:
    """A read request that waits from cycle ``valid`` on for its grant and its first beat."""

    valid: int
    address: int
    beats: int
    stream: str
    answer: tuple[int, int] | None = None


@dataclass
class _Lane:
    """Times that a lane's blocks tell each other."""

    index: int
    jobs: list[tuple[int, int]]  # (tile, channel)
    #: Cycle from which each pass has its weights, and each swap has freed its block.
    weights: dict[str, list[int]] = field(default_factory=lambda: {"base": [], "conditional": []})
    freed: dict[str, list[int]] = field(default_factory=lambda: {"base": [], "conditional": []})
    #: Cycle from which each job counts as done, and jobs' runs of conditional blocks.
    done: list[int] = field(default_factory=list)
    runs: list[tuple[int, int, int]] = field(default_factory=list)  # (cycle, channel, blocks)
    counters: dict[str, int] = field(default_factory=lambda: {"weights": 0})


class _Layer:
    """The blocks of the engine during one layer."""

    def __init__(self, config: AcceleratorConfig, timing: MemoryTiming, plan: LayerPlan,
                 descriptor: Mapping[str, int], opened: OpenPixels | None):
        self.config, self.timing, self.plan, self.d = config, timing, plan, descriptor
        self.opened = opened
        self.decision = decision_latency(config)
        self.header_beats = header_layout(config).size_bytes // config.bus.bytes
        channels, tiles = descriptor["out_channels"], descriptor["tiles"]
        self.lanes = [_Lane(n, [(tile, channel) for tile in range(tiles)
                                for channel in range(n, channels, config.lanes)])
                      for n in range(config.lanes)]
        self.loaded: list[int] = []   # cycle from which each plane can be read
        self.stored: list[int] = []   # cycle from which each tile has left the output columns
        self.bytes: dict[str, int] = {}
        self.requests: dict[int, _Request] = {}
        self.operands: list[int] = []  # the same of the residual operand
        self.maps_end, self.tiles_left = 0, 2  # cycle from which every plane has been loaded
        self.end = 0

    def run(self) -> int:
        """Cycle of the layer's end."""
        lanes, count = self.lanes, len(self.lanes)
        blocks: list[Iterator[None]] = [self._store(), self._load_residual(1 + 2 * count),
                                        self._load(2 + 2 * count)]
        for n, lane in enumerate(lanes):
            blocks += [self._issue(lane), self._fetch_jobs(lane, 1 + count + n),
                       self._fetch_conditional(lane, 1 + n)]
        free, bus = 0, -1  # the arbiter, and the last beat on the bus
        while True:
            known = -1
            while known != (known := self._known()):
                blocks = [block for block in blocks if next(block, self) is not self]
            if not self.requests:
                break
            now = max(free, min(request.valid for request in self.requests.values()))
            source = min(n for n, request in self.requests.items() if request.valid <= now)
            request = self.requests.pop(source)
            bursts = len(split_bursts(self.config, request.address, request.beats))
            free = now + FIRST_BURST_CYCLES + bursts - 1 + IDLE_CYCLES
            start = max(now + GRANT_LATENCY + self.timing.read_latency,
                        bus + self.timing.beat_interval)
            bus = start + (request.beats - 1) * self.timing.beat_interval
            self.bytes[request.stream] = (self.bytes.get(request.stream, 0)
                                          + request.beats * self.config.bus.bytes)
            request.answer = now, start + READ_BEAT_LATENCY
        if blocks:
            raise AssertionError(f"The schedule of layer {self.plan.layer.name!r} is stuck")
        return self.end

    def _known(self) -> int:
        """Grows with every time that becomes known."""
        return (len(self.loaded) + len(self.operands) + len(self.stored) + len(self.requests)
                + sum(len(lane.done) + len(lane.runs) + len(lane.weights["base"])
                      + len(lane.weights["conditional"]) + len(lane.freed["base"])
                      + len(lane.freed["conditional"]) for lane in self.lanes))


    def _read(self, source: int, valid: int, address: int, beats: int,
              stream: str) -> Generator[None, None, tuple[int, int]]:
        """Read ``beats`` beats; returns the cycles of the grant and of the first beat."""
        request = self.requests[source] = _Request(valid, address, beats, stream)
        while request.answer is None:
            yield
        return request.answer

    # Weights

    def _blocks(self, lane: _Lane, stream: str, source: int, valid: int, address: int, beats: int,
                blocks: int, requested: int,
                header: int) -> Generator[None, None, tuple[int, int]]:
        """One request of a :class:`BlockFetch`, when its queue has room; as :meth:`_read`."""
        short = requested + blocks - self.config.buffers.weight_blocks
        if short > 0:
            while len(lane.freed[stream]) < short:
                yield
            valid = max(valid, lane.freed[stream][short - 1])
        grant, beat = yield from self._read(source, valid, address, beats, stream)
        interval, latency = self.timing.beat_interval, UNPACK_LATENCY + BLOCK_LATENCY
        lane.weights[stream] += [
            beat + (header + block_beat(self.config, n)) * interval + latency
            for n in range(blocks)]
        return grant, beat

    def _fetch_jobs(self, lane: _Lane, source: int) -> Iterator[None]:
        """Headers and base blocks of a lane's jobs."""
        d, size = self.d, self.config.bus.bytes
        claim, ready, requested = 1, 1, 0
        for number, (_, channel) in enumerate(lane.jobs):
            if number >= JOBS_ALIVE:
                while len(lane.done) <= number - JOBS_ALIVE:
                    yield
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

    def _fetch_conditional(self, lane: _Lane, source: int) -> Iterator[None]:
        """Conditional blocks of the jobs that open a gate."""
        d, requested, number = self.d, 0, 0
        while True:
            while len(lane.runs) <= number:
                if len(lane.done) == len(lane.jobs):
                    return
                yield
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

    def _load(self, source: int) -> Iterator[None]:
        """The loader: windows of one tile after another."""
        d, config = self.d, self.config
        steps = config.beat_pixels if d["bank_mode"] else config.beat_pixels // config.write_words
        yield from self._tiles(source, "in", "windows", d["plane_beats"], steps, self.loaded)

    def _load_residual(self, source: int) -> Iterator[None]:
        """The residual loader."""
        d = self.d
        steps = self.config.slot_reads * (self.config.beat_pixels if d["res_step"] == 2 else 1)
        yield from self._tiles(source, "res", "residual", d["res_beats"], steps, self.operands)

    def _tiles(self, source: int, prefix: str, stream: str, plane: int, steps: int,
               loaded: list[int]) -> Iterator[None]:
        """A :class:`TileQueue`, whose user takes ``steps`` cycles per beat."""
        d, config = self.d, self.config
        popped: list[int] = []  # cycle from which each beat's place in the queue is free
        valid, busy = 1, 0
        for tile in range(d["tiles"]):
            for lane in self.lanes:
                jobs = len(lane.jobs) // d["tiles"]
                if tile >= _HALVES and jobs:
                    while len(lane.done) < (tile - _HALVES + 1) * jobs:
                        yield
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
                            loaded.append(busy - 1 + LOADED_LATENCY)
                    valid, left = grant + 1, left - chunk
                    address += chunk * config.bus.bytes
        self.maps_end = max(self.maps_end, busy)
        self.tiles_left -= 1

    # Compute

    def _issue(self, lane: _Lane) -> Iterator[None]:
        """A lane's passes, in the order of its jobs."""
        d, opened, decision = self.d, self.opened, self.decision
        pixels, planes = d["out_pixels"], d["in_planes"]
        swapped = ISSUE_LATENCY + WINDOW_LATENCY
        counters = lane.counters
        counters |= dict.fromkeys(("base", "conditional", "windows", "output", "gate",
                                   "turnaround"), 0)
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
                    yield
                plane = tile * planes + self._plane(block)
                while len(self.loaded) <= plane:
                    yield
                if number == 0 and tile >= _HALVES:
                    while len(self.stored) <= tile - _HALVES:
                        yield
                    room = self.stored[tile - _HALVES]
                operand = 0
                if number == len(job.base) - 1 and self._adds(job, channel):
                    wanted = tile * d["res_planes"] + job.operand
                    while len(self.operands) <= wanted:
                        yield
                    operand = self.operands[wanted]
                begin = start(("weights", base[used["base"]]),
                              ("windows", max(self.loaded[plane], operand)), ("output", room))
                used["base"] += 1
                lane.freed["base"].append(begin + swapped)
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
                    lane.runs.append((tasks, channel, len(job.conditional)))
                    for number, block in enumerate(job.conditional):
                        while len(conditional) <= used["conditional"]:
                            yield
                        plane = tile * planes + self._plane(block)
                        while len(self.loaded) <= plane:
                            yield
                        begin = start(("gate", tasks if number == 0 else 0),
                                      ("weights", conditional[used["conditional"]]),
                                      ("windows", self.loaded[plane]))
                        used["conditional"] += 1
                        lane.freed["conditional"].append(begin + swapped)
                        at = last_window = begin + count
                        if number == 0:
                            last_task = gate + int(opened.last[tile, channel])
                            last_window = max(at, last_task + TASK_LATENCY)
                            at = max(last_window, drained)
                            counters["gate"] += at - begin - count
                        counters["conditional"] += count
                        running = True
            # ISSUE_LATENCY counts from the start of a pass, one cycle before its first window.
            lane.done.append(last_window - 1 + decision + REQUANTIZE_LATENCY + 1)
            yield

    def _adds(self, job: Job, channel: int) -> bool:
        """The job waits for its residual operand: it has one, with a factor."""
        factors = self.plan.layer.mult_residual
        return job.operand is not None and factors is not None and bool(factors[channel])

    def _plane(self, block: int) -> int:
        """Last plane that a pass reads."""
        if self.d["bank_mode"]:
            return min(TAPS * (block + 1), self.d["in_planes"]) - 1
        return block

    # Outputs

    def _store(self) -> Iterator[None]:
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
                            yield
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
            self.stored.append(at)
        while self.tiles_left:
            yield
        self.end = max(at, answered + 1, self.maps_end)
