"""How the compiler chooses: the exact cost of each way to run a layer, under an objective.

Decisions depend on images, which the compiler does not have, so it assumes a density of open gates.
A way whose cycles cannot be few enough, by the windows of its lanes and the beats of the bus, is
not measured.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.machine.layouts import descriptor_layout, tiles_of
from hwgate.plan.goal import OBJECTIVES
from hwgate.plan.layer import LayerPlan
from hwgate.plan.tiling import Candidate
from hwgate.quant.layer import Activations
from hwgate.quant.network import QuantizedNetwork
from hwgate.schedule import LayerSchedule, OpenPixels, schedule_layer

__all__ = ["Case", "Choice", "Cost", "Option", "assumed", "choose", "densities", "measure"]

#: Fraction of a turn between the channels' roundings, which no number of lanes divides evenly.
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Cost:
    """Off-chip traffic in bytes, and cycles from the start of its descriptor's fetch."""

    bytes: int
    cycles: int

    def against(self, other: "Cost") -> str:
        """What it adds to another, in words."""
        parts = [f"{own - others:+,} {name}"
                 for name, own, others in (("bytes", self.bytes, other.bytes),
                                           ("cycles", self.cycles, other.cycles)) if own != others]
        return ", ".join(parts) or "no difference"


@dataclass(frozen=True)
class Case:
    """A layer, a way to run it, and what is assumed.

    Parameters
    ----------
    config, timing
        Accelerator and memory.
    plan : LayerPlan
    descriptor : mapping
        With addresses relative to the maps and the weights, and where the maps are.
    density : float
        Share of open gates.
    """

    config: AcceleratorConfig
    timing: MemoryTiming
    plan: LayerPlan
    descriptor: Mapping[str, int]
    density: float

    def bound(self) -> Cost:
        """Its bytes, and cycles that it takes at least: windows of a lane, beats of the bus, writes
        of the loader, whichever are most."""
        plan, config, least, traffic, reads = self.plan, self.config, 0, 0, 0
        first = plan.fields["first_blocks"]
        # Of all jobs, those of one lane after those of another.
        lane, channel, score = (np.array(values) for values in zip(
            *((n, *job) for n, own in enumerate(plan.order) for job in own), strict=True))
        jobs = [plan.job(*job) for own in plan.order for job in own]
        base = np.array([len(job.base) for job in jobs])
        conditional = np.array([len(job.conditional) for job in jobs])
        beats = {blocks: sum(n for _, n in plan.chunks(blocks, config))
                 for blocks in {*(base - first).tolist(), *conditional.tolist()}}
        base_beats, cond_beats = (np.array([beats[n] for n in blocks.tolist()])
                                  for blocks in (base - first, conditional))
        # Times that the base and the conditional weights of each job are read.
        asked = np.zeros((2, len(base)), np.int64)
        opened = self.opened()
        for tile, d in enumerate(tiles_of(self.descriptor)):
            count = np.zeros(len(base), np.int64)
            if opened:
                count[:] = opened.count[tile][channel] * ~score
            windows = d["images"] * d["out_pixels"] * base + count * conditional
            asked += [np.ones(len(base), bool), count > 0]
            maps = sum(d[f"{prefix}_runs"] * d[f"{prefix}_run_beats"]
                       for prefix in ("in", "res") if not d[f"{prefix}_chip"])
            reads += maps
            writes = 0 if d["out_chip"] else d["out_planes"] * d["out_run_beats"]
            words = 1 if d["bank_mode"] else config.write_words
            load = d["in_rows"] * -(-d["in_width"] // words) * d["images"] * d["in_planes"]
            least += int(max(maps * self.timing.beat_interval, load, *(
                windows[lane == n].sum() for n in range(config.lanes))))
            traffic += writes * config.bus.bytes
        kept = channel < self.descriptor["kept_channels"]
        asked[:, kept] = np.minimum(asked[:, kept], 1)
        reads += int((asked * [plan.fields["first_beats"] + base_beats, cond_beats]).sum())
        return Cost(traffic + reads * config.bus.bytes + descriptor_layout().size_bytes,
                    max(least, reads * self.timing.beat_interval))

    def opened(self) -> OpenPixels | None:
        """Decisions that are assumed; None for a layer without gates."""
        layer = self.plan.layer
        return assumed(self.density, self.descriptor, layer.gate) if layer.gated else None

    def schedule(self) -> LayerSchedule:
        """Exact schedule, at the start of a program."""
        return schedule_layer(self.config, self.timing, self.plan, self.descriptor, self.opened(),
                              None)

    def key(self) -> bytes:
        """Digest of all that its schedule depends on."""
        layer, factors = self.plan.layer, self.plan.layer.mult_residual
        text = repr((self.config.digest, self.timing, sorted(self.plan.fields.items()),
                     sorted(self.descriptor.items()), self.plan.jobs, layer.gated,
                     self.plan.scores, self.plan.order,
                     self.density, None if factors is None else (factors != 0).tolist()))
        return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True)
class Option:
    """A candidate, and what is known of its cost.

    Parameters
    ----------
    candidate : Candidate
    cost : Cost
    exact : bool
        Whether its cycles are those of the cost model; else it takes at least so many, and that was
        enough to know.
    """

    candidate: Candidate
    cost: Cost
    exact: bool


@dataclass(frozen=True)
class Choice:
    """The candidate that a layer takes.

    Parameters
    ----------
    candidate : Candidate
    compared : tuple of Option
        All candidates and what they cost; empty if there was nothing to compare.
    """

    candidate: Candidate
    compared: tuple[Option, ...] = ()


#: Costs by the key of their case, which are many times those of the same networks.
_measured: dict[bytes, Cost] = {}


def measure(case: Case) -> Cost:
    """Exact cost of a case, from the cost model; remembered."""
    key = case.key()
    if key not in _measured:
        schedule = case.schedule()
        _measured[key] = Cost(sum(schedule.bytes.values()), schedule.cycles)
    return _measured[key]


def choose(candidates: Sequence[Candidate], case_of: Callable[[Candidate], Case],
           objective: str) -> Choice:
    """The candidate that suits the objective best, and what was compared.

    Parameters
    ----------
    candidates : sequence of Candidate
    case_of : callable
        The case of a candidate.
    objective : str
        One of :data:`hwgate.plan.goal.OBJECTIVES`.
    """
    if len(candidates) == 1:
        return Choice(candidates[0])
    slack, cases = 1 + OBJECTIVES[objective], [case_of(candidate) for candidate in candidates]
    costs, exact = [case.bound() for case in cases], set[int]()
    # The fewest bytes come first: most often nothing else can be fast enough to matter.
    following: int | None = min(range(len(costs)), key=lambda n: (costs[n].bytes,
                                                                  costs[n].cycles))
    best = -1
    while following is not None:
        costs[following] = measure(cases[following])
        exact.add(following)
        limit = slack * min(costs[n].cycles for n in exact)
        best = min((n for n in exact if costs[n].cycles <= limit),
                   key=lambda n: (costs[n].bytes, costs[n].cycles, n))
        following = min((n for n in range(len(costs)) if n not in exact and (
            slack * costs[n].cycles < costs[best].cycles or costs[n].cycles <= limit
            and (costs[n].bytes, costs[n].cycles) < (costs[best].bytes, costs[best].cycles))),
            key=lambda n: (costs[n].cycles, n), default=None)
    return Choice(candidates[best], tuple(
        Option(candidate, cost, n in exact)
        for n, (candidate, cost) in enumerate(zip(candidates, costs, strict=True))))


def assumed(density: float, d: Mapping[str, int],
            gate: NDArray[np.int64] | None = None) -> OpenPixels:
    """Decisions of a density: open pixels at even distances in each tile and channel, and what is
    left of a pixel spread evenly over the channels, or over the gates that they share."""
    gate = np.arange(d["out_channels"]) if gate is None else gate
    tiles, channels = tiles_of(d), int(gate.max()) + 1
    pixels = np.array([[tile["images"] * tile["out_pixels"]] for tile in tiles])
    turns = np.arange(len(tiles) * channels).reshape(len(tiles), channels) * _GOLDEN % 1
    count: NDArray[np.int64] = np.minimum(pixels, density * pixels + turns).astype(np.int64)
    count[count <= np.array([[tile["images"]] for tile in tiles]) * d["gate_limit"]] = 0
    some = np.maximum(count, 1)
    first = np.where(count > 0, pixels // (2 * some), 0)
    last = np.where(count > 0, (2 * some - 1) * pixels // (2 * some), pixels - 1)
    return OpenPixels(count[:, gate], first[:, gate], last[:, gate])


def densities(network: QuantizedNetwork, activations: Sequence[Activations]) -> dict[str, float]:
    """Measured share of open gates of each gated layer, for :class:`hwgate.plan.goal.Goal`."""
    return {layer.name: float(seen.decision.mean())
            for layer, seen in zip(network.layers, activations, strict=True) if layer.gated}
