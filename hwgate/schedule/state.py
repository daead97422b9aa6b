"""State of a layer's schedule: times that become known, requests for the bus, their arbiter."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwgate.bursts import burst_count
from hwgate.compiler import LayerPlan
from hwgate.config import AcceleratorConfig, MemoryTiming
from hwgate.counters import LANE_COUNTERS
from hwgate.layouts import header_layout
from hwgate.rtl.burst import FIRST_BURST_CYCLES, IDLE_CYCLES
from hwgate.rtl.lane import decision_latency
from hwgate.rtl.reader import GRANT_LATENCY, OUTSTANDING, READ_BEAT_LATENCY
from hwgate.rtl.sequencer import DECODE_CYCLES
from hwgate.rtl.unpack import block_beat

if TYPE_CHECKING:
    from hwgate.schedule.layer import OpenPixels

__all__ = ["HALVES", "Block", "LaneState", "LayerState", "Read", "Request", "Times"]

#: Halves of a double buffer.
HALVES = 2



class Times(list[Any]):
    """Times that become known one after the other, and the blocks that wait for the next one."""

    def __init__(self, ready: list["Block"]):
        super().__init__()
        self._ready, self.waiting = ready, list["Block"]()

    def add(self, time: Any) -> None:
        """The next time is known: whoever waited for it can go on."""
        self.append(time)
        if self.waiting:
            self._ready += self.waiting
            self.waiting.clear()


#: A block; it yields what it waits for.
Block = Generator[Times, None, None]
#: Part of a block that ends with the cycles of a grant and of the first beat.
Read = Generator[Times, None, tuple[int, int]]


@dataclass(slots=True)
class Request:
    """A read request that waits from cycle ``valid`` on for its grant and its first beat."""

    valid: int
    address: int
    beats: int
    stream: str
    answer: Times


class LaneState:
    """Times that a lane's blocks tell each other."""

    def __init__(self, jobs: list[tuple[int, int]], times: Callable[[], Times]):
        self.jobs = jobs  # (tile, channel)
        #: Cycle from which each pass has its weights, and from which each swap freed its block.
        self.weights = {"base": times(), "conditional": times()}
        self.freed = {"base": times(), "conditional": times()}
        #: Cycle from which each job counts as done.
        self.done = times()
        #: Conditional blocks that are wanted: (cycle, channel, blocks).
        self.runs = times()
        self.counters = dict.fromkeys(LANE_COUNTERS, 0)


class LayerState:
    """The blocks of the engine during one layer."""

    def __init__(self, config: AcceleratorConfig, timing: MemoryTiming, plan: LayerPlan,
                 descriptor: Mapping[str, int], opened: "OpenPixels | None"):
        self.config, self.timing, self.plan, self.d = config, timing, plan, descriptor
        self.opened = opened
        self.decision = decision_latency(config)
        self.block_beats = [block_beat(config, n) for n in range(config.request_blocks)]
        self.header_beats = header_layout(config).size_bytes // config.bus.bytes
        channels, tiles = descriptor["out_channels"], descriptor["tiles"]
        self._ready: list[Block] = []  # blocks that can go on
        self.lanes = [
            LaneState([(tile, channel) for tile in range(tiles)
                       for channel in range(n, channels, config.lanes)], self._times)
            for n in range(config.lanes)]
        self.loaded = self._times()    # cycle from which each plane can be read
        self.operands = self._times()  # the same of the residual operand
        self.stored = self._times()    # cycle from which each tile has left the output columns
        self.map_ends = self._times()  # cycle from which each of the two loaders is idle
        self.bytes: dict[str, int] = {}
        self.requests: dict[int, Request] = {}
        self.end = -1
        self.last_beat = 0  # cycle of the last beat on the bus

    def _times(self) -> Times:
        return Times(self._ready)

    def run(self, blocks: list[Block]) -> None:
        """Let the blocks go on until each has ended or waits for what never comes.

        Raises
        ------
        AssertionError
            If the layer has not ended: the model has a deadlock.
        """
        ready, requests = self._ready, self.requests
        ready += blocks
        # The arbiter, and the last beat on the bus: at first that of the descriptor.
        free, bus = 0, -READ_BEAT_LATENCY - DECODE_CYCLES
        latency, interval = self.timing.read_latency, self.timing.beat_interval
        room = OUTSTANDING * (3 + 2 * len(self.lanes))
        last_beats: list[int] = []  # of each request
        while True:
            while ready:
                block = ready.pop()
                missing = next(block, None)
                if missing is not None:
                    missing.waiting.append(block)
            if not requests:
                break
            now = max(free, min(request.valid for request in requests.values()))
            if len(last_beats) >= room:
                now = max(now, last_beats[-room] + 1)
            source = min(n for n, request in requests.items() if request.valid <= now)
            request = requests.pop(source)
            bursts = burst_count(self.config, request.address, request.beats)
            free = now + FIRST_BURST_CYCLES + bursts - 1 + IDLE_CYCLES
            start = max(now + GRANT_LATENCY + latency, bus + interval)
            bus = start + (request.beats - 1) * interval
            last_beats.append(bus)
            self.bytes[request.stream] = (self.bytes.get(request.stream, 0)
                                          + request.beats * self.config.bus.bytes)
            request.answer.add((now, start + READ_BEAT_LATENCY))
        if self.end < 0:
            raise AssertionError(f"The schedule of layer {self.plan.layer.name!r} is stuck")
        self.last_beat = bus

    def read(self, source: int, valid: int, address: int, beats: int, stream: str) -> Read:
        """Read ``beats`` beats; ends with the cycles of the grant and of the first beat."""
        answer = self._times()
        self.requests[source] = Request(valid, address, beats, stream, answer)
        yield answer
        grant, beat = answer[0]
        return grant, beat
