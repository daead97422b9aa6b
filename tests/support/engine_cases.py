"""Random networks for the whole accelerator, many in one simulator process.

``python tests/exact.py --replay 4x36 layers 17`` replays cases in one process, one after the other.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import hwgate
from hwgate.compiler.program import Program
from hwgate.errors import CompileError, UserError
from hwgate.machine.config import (
    AcceleratorConfig,
    BufferConfig,
    BusConfig,
    FormatConfig,
    MemoryTiming,
    preset,
)
from hwgate.plan.geometry import split_rows
from hwgate.quant.layer import QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.comparison import compare
from hwgate.results.run import RunResult
from hwgate.sim.build import BenchError
from hwgate.sim.engine import run_engine
from hwgate.sim.records import Outcome, Start
from hwgate.sim.simulate import default_deadline
from support.case_features import features_of
from support.directed_cases import waiting_network
from support.random_layers import DENSITIES, Features, Limits, random_images, random_network
from support.shared_gates import share_gates

__all__ = ["CONFIGS", "Case", "KINDS", "MORE_CONFIGS", "TIMINGS", "Verdict", "can_run", "replay",
           "units", "verify"]

#: Buffers that hold few rows, so that most layers run in bands.
_SMALL = BufferConfig(window_words=64, pixels=32, output_words=64, passes=32)

#: Lanes x multipliers: fewer lanes than channels in a group, as many, more; one lane; 64-bit buses.
CONFIGS: dict[str, AcceleratorConfig] = {
    "4x36": AcceleratorConfig(),
    "1x18": preset("tiny"),
    "8x18": AcceleratorConfig(lanes=8, channels=2, bus=BusConfig(data_bits=64),
                              buffers=replace(_SMALL, weight_bytes=1 << 12)),
    "2x72": AcceleratorConfig(lanes=2, channels=8, bus=BusConfig(data_bits=64),
                               formats=FormatConfig(activation=5, weight=4, accumulator=24,
                                                    multiplier=12)),
    # Some maps and weights stay on chip.
    "2x36chip": AcceleratorConfig(
        lanes=2, buffers=BufferConfig(map_bytes=1 << 12, weight_bytes=1 << 11),
        bus=BusConfig(data_bits=64)),
    # Zero bytes of maps off chip are left out, where the chunk table has room.
    "4x36zeros": AcceleratorConfig(buffers=BufferConfig(compressed_chunks=64)),
}

#: Those of the long sweeps besides: most lanes, longest and shortest groups, short bursts.
MORE_CONFIGS: dict[str, AcceleratorConfig] = {
    "16x36": AcceleratorConfig(lanes=16, bus=BusConfig(burst_beats=16),
                               buffers=replace(_SMALL, weight_bytes=1 << 14)),
    "4x18": AcceleratorConfig(channels=2, buffers=_SMALL),
    "1x144": AcceleratorConfig(lanes=1, channels=16, buffers=_SMALL),
    "8x72": AcceleratorConfig(lanes=8, channels=8),
    "2x72zeros": AcceleratorConfig(
        lanes=2, channels=8, bus=BusConfig(data_bits=64),
        buffers=BufferConfig(window_words=128, pixels=64, output_words=256, map_bytes=1 << 12,
                             compressed_chunks=1 << 8)),
    "2x36": AcceleratorConfig(
        lanes=2, bus=BusConfig(data_bits=64, address_bits=28),
        formats=FormatConfig(activation=2, weight=8, accumulator=20, multiplier=8),
        buffers=BufferConfig(window_words=128, pixels=128, output_words=256, weight_blocks=32)),
}

_ALL = CONFIGS | MORE_CONFIGS

#: Fast, slow, and narrow memories; those whose reads and writes share a bus.
TIMINGS = (
    MemoryTiming(), MemoryTiming(read_latency=2, write_latency=1),
    MemoryTiming(read_latency=100, write_latency=7, beat_interval=2),
    MemoryTiming(read_latency=2, write_latency=400, beat_interval=16),
    MemoryTiming(read_latency=300, write_latency=1023, beat_interval=3),
    MemoryTiming(read_latency=2, write_latency=1, shared=True),
    MemoryTiming(read_latency=16, write_latency=5, beat_interval=8, shared=True),
    MemoryTiming(read_latency=90, write_latency=30, beat_interval=3, shared=True),
)

#: What a case is: up to three layers, a whole network that ends in a linear layer, or one layer
#: whose conditional passes wait for their tasks.
KINDS = ("layers", "network", "tasks")

#: Images of a batch, and images per tile: mostly the compiler's choice.
_IMAGES = (1, 2, 3, 5, 9)
_PER_TILE = (None, None, None, 1, 2, 3)

#: Share of networks whose gated layers have gates that channels share.
_SHARED = 0.35

#: Fewest layers of a whole network.
_DEEP = 5

#: Most weights of a layer, and cycles at full use of the multipliers for one image.
_WEIGHTS, _WORK = 24_000, 8_000


@dataclass(frozen=True)
class Case:
    """A network, images and a memory, determined by a configuration's name, a kind and a seed."""

    name: str
    kind: str
    seed: int

    @property
    def config(self) -> AcceleratorConfig:
        return _ALL[self.name]

    @property
    def timing(self) -> MemoryTiming:
        return TIMINGS[1 if self.kind == "tasks" else self.seed % len(TIMINGS)]

    @cached_property
    def _drawn(self) -> tuple[Program, NDArray[np.int8]]:
        rng = np.random.default_rng([*self.name.encode(), KINDS.index(self.kind), self.seed])
        config, deep = self.config, self.kind == "network"
        if self.kind == "tasks":
            network, images = waiting_network(rng, config, can_run)
            return hwgate.compile(network, config), images
        network = _network(rng, config, deep)
        while deep and len(network.layers) < _DEEP:  # maps that became too small, or too large
            network = _network(rng, config, deep)
        # What the compiler is asked for.
        options = {"dense": bool(rng.random() < 0.1),
                   "images_per_tile": _PER_TILE[int(rng.integers(len(_PER_TILE)))]}
        images = random_images(rng, network, int(rng.choice(_IMAGES)))
        if rng.random() < _SHARED:
            network = share_gates(rng, network, images,
                                  lambda layer, residual: can_run(layer, residual, config))
        return hwgate.compile(network, config, **options), images

    @property
    def program(self) -> Program:
        return self._drawn[0]

    @property
    def images(self) -> NDArray[np.int8]:
        return self._drawn[1]

    def estimate(self) -> RunResult:
        return hwgate.estimate(self.program, self.images, self.timing)

    def start(self) -> Start:
        binding = self.program.bind(self.images)
        deadline = default_deadline(self.program, len(self.images), binding.memory.size)
        return Start(program_address=binding.program_address, memory=binding.memory,
                     deadline=deadline)

    def describe(self) -> str:
        """Accelerator, memory and layers, for people."""
        program = self.program
        lines = [f"{self.config.describe()}; {self.timing}; {len(self.images)} images"
                 f"{'; dense' if program.dense else ''}"]
        for plan in program.plans:
            layer = plan.layer
            text = (f"  {layer.name}: {layer.in_shape} to {layer.out_shape}, kernel {layer.kernel},"
                    f" stride {layer.stride}, padding {layer.padding}, pool {layer.pool}, "
                    f"bands {len(plan.bands)}{', gated' * layer.gated}{', reduces' * layer.reduce}")
            if layer.source is not None:
                text += f", takes {layer.source}"
            if layer.fan_in is not None:
                text += f", fan-in {layer.fan_in}"
            if layer.gate is not None:
                text += f", {int(layer.gate.max()) + 1} gates for {len(layer.gate)} channels"
            if layer.limit:
                text += f", closes channels of at most {layer.limit} open gates"
            if layer.residual is not None:
                text += (f", adds {layer.residual} from channel {layer.residual_offset} on with "
                         f"stride {layer.residual_stride}{', ReLU first' * layer.relu_first}")
            lines.append(text)
        return "\n".join(lines)


def _network(rng: np.random.Generator, config: AcceleratorConfig, deep: bool) -> QuantizedNetwork:
    return random_network(
        rng, config, gated=None if rng.random() < 0.6 else True,
        density=str(rng.choice(DENSITIES)) if rng.random() < 0.5 else None,
        layers=int(rng.integers(_DEEP, 2 * _DEEP)) if deep else None,
        reduce=True if deep else None, limits=_limits(rng, config, deep), fits=can_run,
        features=Features.every() if deep or rng.random() < 0.8 else Features())


def _limits(rng: np.random.Generator, config: AcceleratorConfig, deep: bool) -> Limits:
    """Small layers; or small maps of many channels, for 1x1 kernels of several passes; or large
    maps of few channels, for bands of rows."""
    # Compressed maps have planes of whole chunks.
    step = 8 if config.buffers.compressed_chunks and rng.random() < 0.7 else 1
    if deep:
        return Limits(size=16 if step > 1 else 14, channels=5 * config.channels, smallest=3,
                      step=step)
    kinds = (Limits(), Limits(layers=2, size=5, channels=24 * config.channels),
             Limits(layers=2, size=24, channels=6, smallest=4))
    chosen = kinds[int(rng.choice(3, p=(0.4, 0.3, 0.3)))]
    return replace(chosen, size=-(-chosen.size // step) * step, step=step)


def can_run(layer: QuantizedLayer, residual: tuple[int, int, int] | None,
            config: AcceleratorConfig) -> bool:
    """Whether the compiler takes a layer, in bands of rows if need be, and it is not long."""
    if min(layer.out_shape) < 1 or min(layer.conv_shape) < 1:
        return False
    try:
        bands = list(split_rows(layer, residual, config))
    except CompileError:
        return False
    if layer.limit and len(bands) > 1:
        return False
    return layer.weight.size <= _WEIGHTS and layer.macs <= _WORK * config.multipliers


@dataclass(frozen=True)
class Verdict:
    """What became of a case.

    Parameters
    ----------
    case : Case
    failure : str
        Empty if RTL, golden model and cost model are equal.
    command : str
        Replays it, with the cases before it where it needs them.
    crashed : bool
        The simulator ended before all of the process' cases had run.
    layers, cycles : int
    features : Counter
        Layers with each of :data:`case_features.FEATURES`.
    """

    case: Case
    failure: str
    command: str
    crashed: bool = False
    layers: int = 0
    cycles: int = 0
    features: Counter[str] = field(default_factory=Counter)


def units(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases of each simulator process: one configuration, kind and memory."""
    found: dict[tuple[str, str, MemoryTiming], list[Case]] = {}
    for case in cases:
        found.setdefault((case.name, case.kind, case.timing), []).append(case)
    return list(found.values())


def _command(cases: Sequence[Case]) -> str:
    seeds = " ".join(str(case.seed) for case in cases)
    return f"python tests/exact.py --replay {cases[0].name} {cases[0].kind} {seeds}"


def verify(cases: Sequence[Case]) -> list[Verdict]:
    """Run cases on RTL and cost model, in one process per configuration, kind and memory.

    A run meets the engine as the run before it has left it. What fails runs again by itself, to
    tell what it takes to replay it.
    """
    verdicts: dict[Case, Verdict] = {}
    for unit in units(cases):
        together = _verify_unit(unit)
        alone = [_verify_unit([v.case])[0] if v.failure and len(unit) > 1 else v for v in together]
        # If one of them crashes the simulator, the others are what they are without it.
        crashed = any(v.crashed for v in alone)
        for index, (first, second) in enumerate(zip(together, alone, strict=True)):
            if not first.failure or second.failure or (first.crashed and crashed):
                verdicts[first.case] = second
            else:
                verdicts[first.case] = replace(first, command=_command(unit[:index + 1]))
    return [verdicts[case] for case in cases]


def _verify_unit(unit: Sequence[Case]) -> list[Verdict]:
    try:
        outcomes = run_engine(unit[0].config, [case.start() for case in unit],
                              timing=unit[0].timing)
    except BenchError as error:
        return [Verdict(case, f"The simulator failed: {error}", _command([case]), crashed=True)
                for case in unit]
    return [_judge(case, outcome) for case, outcome in zip(unit, outcomes, strict=True)]


def _judge(case: Case, outcome: Outcome) -> Verdict:
    """The verdict on what one start left behind."""
    def known(*_: Any, **__: Any) -> list[Outcome]:
        return [outcome]

    try:
        with mock.patch("hwgate.sim.simulate.run_engine", known):
            result = hwgate.simulate(case.program, case.images, case.timing)
    except UserError as error:
        return Verdict(case, str(error), _command([case]))
    comparison = compare(result, case.estimate())
    return Verdict(case, "" if comparison.equal else comparison.describe(), _command([case]),
                   layers=len(result.layers), cycles=result.cycles,
                   features=features_of(case.program, result, case.timing))


def replay(name: str, kind: str, *seeds: str) -> int:
    """Run cases as :func:`verify` has run them, and print what they are; 1 if one differs."""
    cases = [Case(name, kind, int(seed)) for seed in seeds]
    failed = 0
    for verdict in [v for unit in units(cases) for v in _verify_unit(unit)]:
        failed += bool(verdict.failure)
        print(f"Seed {verdict.case.seed}: {verdict.case.describe()}\n{verdict.failure or 'Equal.'}")
    return failed > 0
