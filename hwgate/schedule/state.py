"""State of a layer's schedule: times that become known, requests to read, their arbiters."""

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, product
from typing import Any, NamedTuple

from hwgate.machine.bursts import burst_count
from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.machine.counters import LANE_COUNTERS
from hwgate.machine.layouts import header_layout, tiles_of
from hwgate.plan.geometry import image_beats
from hwgate.plan.layer import LayerPlan
from hwgate.plan.stored import StoredMap
from hwgate.rtl.burst import FIRST_BURST_CYCLES, IDLE_CYCLES
from hwgate.rtl.lane import decision_latency
from hwgate.rtl.onchip import CHIP_READ_LATENCY
from hwgate.rtl.reader import (
    CHOICE_CYCLES,
    GRANT_LATENCY,
    KEPT_LATENCY,
    OUTSTANDING,
    read_beat_latency,
)
from hwgate.rtl.sequencer import DECODE_CYCLES
from hwgate.rtl.unpack import block_beat
from hwgate.schedule.open_pixels import OpenPixels

__all__ = ["HALVES", "NEVER", "Arbiter", "Block", "Kept", "LaneJob", "LaneState", "LayerState",
           "Read", "Request", "Times"]

#: Halves of a double buffer.
HALVES = 2

#: A cycle after all others.
NEVER = 1 << 62



class Times(list[Any]):
    """Times that become known one after the other, and the blocks that wait for the next one."""

    def __init__(self, ready: list["Block"]):
        super().__init__()
        self._ready, self.waiting = ready, list["Block"]()

    def add(self, time: Any) -> None:
        """The next time is known: whoever waited for it can go on."""
        self.append(time)
        self.wake()

    def wake(self) -> None:
        """Times have been appended: whoever waited for them can go on."""
        if self.waiting:
            self._ready += self.waiting
            self.waiting.clear()


#: A block; it yields what it waits for.
Block = Generator[Times, None, None]
#: Part of a block that ends with the cycles of a grant and of the first beat.
Read = Generator[Times, None, tuple[int, int]]


class Kept(NamedTuple):
    """Whether weights have a place in the on-chip weight memory, and are there already."""

    keep: bool
    there: bool


_NOT_KEPT = Kept(False, False)


@dataclass(slots=True)
class Request:
    """A read request that waits from cycle ``valid`` on for its grant and its first beat."""

    valid: int
    address: int
    beats: int
    stream: str
    answer: Times
    kept: Kept


class Arbiter:
    """Requests by their source; the first of those that wait is granted first."""

    def __init__(self) -> None:
        self.requests: dict[int, Request] = {}
        self.free = 0  # cycle from which it can grant

    def next(self) -> int:
        """Cycle of the next grant, or :data:`NEVER`."""
        if not self.requests:
            return NEVER
        return max(self.free, min(request.valid for request in self.requests.values()))

    def take(self, now: int) -> Request:
        """The request that is granted in cycle ``now``."""
        source = min(n for n, request in self.requests.items() if request.valid <= now)
        return self.requests.pop(source)


class LaneJob(NamedTuple):
    """A job of a lane: its tile and channel, whether it is the score before that channel, and the
    number of the job that decides on its pixels."""

    tile: int
    channel: int
    score: bool
    decider: int


class LaneState:
    """Times that a lane's blocks tell each other."""

    def __init__(self, order: Sequence[tuple[int, bool]], tiles: int,
                 times: Callable[[], Times]):
        self.jobs, decider = list[LaneJob](), -1
        shared = any(score for _, score in order)
        for tile, (channel, score) in product(range(tiles), order):
            decider = len(self.jobs) if score or not shared else decider
            self.jobs.append(LaneJob(tile, channel, score, decider))
        #: Jobs with outputs, in each tile.
        self.channels = sum(not score for _, score in order)
        #: Cycle from which each pass has its weights, and from which each swap freed its block.
        self.weights = {"base": times(), "conditional": times()}
        self.freed = {"base": times(), "conditional": times()}
        #: Cycle from which each job counts as done, and of those with outputs by themselves.
        self.done, self.outputs = times(), times()
        #: Conditional blocks that are wanted: (cycle, channel, blocks).
        self.runs = times()
        self.counters = dict.fromkeys(LANE_COUNTERS, 0)


class LayerState:
    """The blocks of the engine during one layer."""

    def __init__(self, config: AcceleratorConfig, timing: MemoryTiming, plan: LayerPlan,
                 descriptor: Mapping[str, int], opened: OpenPixels | None,
                 stored: Mapping[str, StoredMap]):
        self.config, self.timing, self.plan, self.d = config, timing, plan, descriptor
        self.tiles = tiles_of(descriptor)
        self.opened, self.stored_maps = opened, stored
        self.decision = decision_latency(config)
        self.block_beats = [block_beat(config, n) for n in range(config.request_blocks)]
        self.header_beats = header_layout(config).size_bytes // config.bus.bytes
        # Beats of the windows of the tiles before each one.
        self.beats_before = list(accumulate(
            (descriptor["in_planes"] * tile["images"] * image_beats(config, tile)
             for tile in self.tiles), initial=0))
        self._ready: list[Block] = []  # blocks that can go on
        self.lanes = [LaneState(order, descriptor["tiles"], self.times) for order in plan.order]
        self.loaded = self.times()    # cycle from which each plane can be read
        self.window_beats = self.times()  # cycle in which the loader takes each beat
        self.operand_beats = self.times()  # the same, of the residual loader
        self.operands = self.times()  # the same as loaded, of the residual operand
        self.stored = self.times()    # cycle from which each tile has left the output columns
        self.map_ends = self.times()  # cycle from which each of the two loaders is idle
        self.bytes: dict[str, int] = {}
        self.chip_bytes = 0  # read from and written to the on-chip map memory
        self.kept_bytes = 0  # read from and written to the on-chip weight memory
        self.asked = set[int]()  # channels whose conditional weights have come
        self.bus, self.chip = Arbiter(), Arbiter()
        # Cycles from which a request can be granted, and be cut into bursts.
        self.grants_from = self.cuts_from = 0
        self.end = -1
        #: (blocks, beats) of the requests for so many blocks.
        self.chunks = cache(lambda blocks: plan.chunks(blocks, config))
        self.beat_latency = read_beat_latency(config)
        #: Cycle of the last beat on the bus, if shared of writes, too; at first of the descriptor.
        self.last_beat = -self.beat_latency - DECODE_CYCLES
        self.last_owed = self.last_beat  # of reads, on the bus or from the weight memory
        #: Parts of writes that join the queue of a shared bus: (cycle, beats).
        self.writes = deque[tuple[int, int]]()
        self.moved = self.times()  # cycle in which each beat of a write moves on it
        # Last beats of the requests on their way; as many as the reader has room for, and the one
        # whose beats come.
        requests = OUTSTANDING * (3 + 2 * len(self.lanes)) + 1
        self._ends = deque([-1] * requests, maxlen=requests)

    def times(self) -> Times:
        """Times that blocks of this layer wait for."""
        return Times(self._ready)

    def run(self, blocks: list[Block]) -> None:
        """Let the blocks go on until each has ended or waits for what never comes.

        Raises
        ------
        AssertionError
            If the layer has not ended: the model has a deadlock.
        """
        ready, bus, chip, writes = self._ready, self.bus, self.chip, self.writes
        ready += blocks
        while True:
            while ready:
                block = ready.pop()
                missing = next(block, None)
                if missing is not None:
                    missing.waiting.append(block)
            # What a grant makes known comes after it, so the earlier one is next.
            on_bus, on_chip = bus.next(), chip.next()
            if writes and writes[0][0] < min(self._address(on_bus),
                                             on_chip + CHOICE_CYCLES + GRANT_LATENCY):
                self._turn_of_writes(*writes.popleft())
            elif on_chip < on_bus:
                self._grant_on_chip(chip.take(on_chip), on_chip)
            elif on_bus < NEVER:
                self._grant_on_bus(bus.take(on_bus), on_bus)
            else:
                break
        if self.end < 0:
            raise AssertionError(f"The schedule of layer {self.plan.layer.name!r} is stuck")

    def _grant_on_bus(self, request: Request, now: int) -> None:
        """Grants of the reader: beats come in their order, from the bus or the weight memory.
        A request that is chosen waits for its room among those on their way."""
        grant = self._grant(now)
        size = request.beats * self.config.bus.bytes
        self.kept_bytes += size * request.kept.keep
        if request.kept.there:
            start = max(grant + KEPT_LATENCY, self.last_owed + 1)
            self.last_owed = start + request.beats - 1
        else:
            interval = self.timing.beat_interval
            cut = self._address(now) - FIRST_BURST_CYCLES
            start = max(cut + FIRST_BURST_CYCLES + self.timing.read_latency,
                        self.last_beat + interval, self.last_owed + 1)
            self.last_beat = self.last_owed = start + (request.beats - 1) * interval
            bursts = burst_count(self.config, request.address, request.beats)
            self.cuts_from = cut + FIRST_BURST_CYCLES + bursts - 1 + IDLE_CYCLES
            self.grants_from = cut + 1
            self.bytes[request.stream] = self.bytes.get(request.stream, 0) + size
        self._ends.append(self.last_owed)
        self.bus.free = grant + CHOICE_CYCLES
        request.answer.add((grant, start + self.beat_latency))

    def _grant(self, now: int) -> int:
        """Cycle in which a request that is chosen now is granted."""
        return max(now + CHOICE_CYCLES, self._ends[0] + 1, self.grants_from)

    def _address(self, now: int) -> int:
        """Cycle of its first address on the bus."""
        return max(self._grant(now) + GRANT_LATENCY, self.cuts_from + FIRST_BURST_CYCLES)

    def _turn_of_writes(self, now: int, beats: int) -> None:
        """Beats of a write that have joined the queue of a shared bus. Those of a request that is
        granted later follow them: its first address comes after cycle ``now``."""
        interval = self.timing.beat_interval
        first = max(now + 1, self.last_beat + interval)
        self.last_beat = first + (beats - 1) * interval
        self.moved += range(first, self.last_beat + 1, interval)
        self.moved.wake()

    def weight_interval(self, kept: Kept) -> int:
        """Cycles per beat of weights, from the bus or the weight memory."""
        return 1 if kept.there else self.timing.beat_interval

    def _grant_on_chip(self, request: Request, now: int) -> None:
        self.chip.free = now + request.beats
        self.chip_bytes += request.beats * self.config.bus.bytes
        request.answer.add((now, now + CHIP_READ_LATENCY))

    def read(self, source: int, valid: int, address: int, beats: int, stream: str,
             chip: bool = False, kept: Kept = _NOT_KEPT) -> Read:
        """Read ``beats`` beats of a map, which may be on chip, or of weights, which may be kept;
        ends with the cycles of the grant and of the first beat."""
        answer = self.times()
        arbiter = self.chip if chip else self.bus
        arbiter.requests[source] = Request(valid, address, beats, stream, answer, kept)
        yield answer
        grant, beat = answer[0]
        return grant, beat
