"""Random networks for the whole accelerator, many in one simulator process.

Run as a program, it replays one case: ``python tests/engine_cases.py 4x36 17``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import hwgate
from hwgate.comparison import compare
from hwgate.compiler import Program
from hwgate.config import AcceleratorConfig, BufferConfig, BusConfig, MemoryTiming, preset
from hwgate.quant.random_layers import DENSITIES, random_images, random_network
from hwgate.results import RunResult
from hwgate.sim.engine import run_engine
from hwgate.sim.records import Start
from hwgate.sim.simulate import default_deadline

__all__ = ["CONFIGS", "Case", "TIMINGS", "simulate_all"]

#: Lanes x multipliers: fewer lanes than channels in a group, as many, more; one lane; 64-bit buses.
CONFIGS: dict[str, AcceleratorConfig] = {
    "4x36": AcceleratorConfig(),
    "1x18": preset("tiny"),
    "8x18": AcceleratorConfig(lanes=8, channels=2, bus=BusConfig(data_bits=64)),
    "2x72": AcceleratorConfig(lanes=2, channels=8, bus=BusConfig(data_bits=64)),
    # Some maps stay on chip.
    "2x36chip": AcceleratorConfig(lanes=2, buffers=BufferConfig(map_bytes=1 << 12),
                                  bus=BusConfig(data_bits=64)),
}

#: Fast, slow, and narrow memories.
TIMINGS = (
    MemoryTiming(), MemoryTiming(read_latency=2, write_latency=1),
    MemoryTiming(read_latency=100, write_latency=7, beat_interval=2),
    MemoryTiming(read_latency=2, write_latency=400, beat_interval=16),
)

_MOST_IMAGES = 9

#: Images per tile: the compiler's choice, one, a few, all that fit.
_PER_TILE = (None, 9, 2, 9, 1, 9, 3)


@dataclass(frozen=True)
class Case:
    """A network, images and a memory, determined by a configuration's name and a seed."""

    name: str
    seed: int

    @property
    def config(self) -> AcceleratorConfig:
        return CONFIGS[self.name]

    @property
    def timing(self) -> MemoryTiming:
        return TIMINGS[self.seed % len(TIMINGS)]

    @cached_property
    def _drawn(self) -> tuple[Program, NDArray[np.int8]]:
        rng = np.random.default_rng([list(CONFIGS).index(self.name), self.seed])
        density = DENSITIES[self.seed % len(DENSITIES)]
        gated = True if self.seed % 3 == 0 else None
        network = random_network(rng, self.config, gated=gated, density=density)
        images = random_images(rng, network, int(rng.integers(1, _MOST_IMAGES + 1)))
        return hwgate.compile(network, self.config, dense=self.seed % 8 == 7,
                              images_per_tile=_PER_TILE[self.seed % len(_PER_TILE)]), images

    @property
    def program(self) -> Program:
        return self._drawn[0]

    @property
    def images(self) -> NDArray[np.int8]:
        return self._drawn[1]

    @property
    def command(self) -> str:
        return f"python tests/engine_cases.py {self.name} {self.seed}"

    def estimate(self) -> RunResult:
        return hwgate.estimate(self.program, self.images, self.timing)


def simulate_all(cases: Sequence[Case]) -> list[RunResult]:
    """What ``hwgate.simulate`` returns for each case, in one process per configuration and memory.

    A run meets the engine as the run before it has left it.
    """
    results: dict[Case, RunResult] = {}
    for name, timing in dict.fromkeys((case.name, case.timing) for case in cases):
        batch = [case for case in cases if (case.name, case.timing) == (name, timing)]
        starts = []
        for case in batch:
            binding = case.program.bind(case.images)
            deadline = default_deadline(case.program, len(case.images), binding.memory.size)
            starts.append(Start(program_address=binding.program_address, memory=binding.memory,
                                deadline=deadline))
        outcomes = iter(run_engine(CONFIGS[name], starts, timing=timing))

        def outcome(*_: Any, outcomes: Any = outcomes, **__: Any) -> list[Any]:
            return [next(outcomes)]

        with mock.patch("hwgate.sim.simulate.run_engine", outcome):
            for case in batch:
                results[case] = hwgate.simulate(case.program, case.images, timing)
    return [results[case] for case in cases]


def _replay(name: str, seed: str) -> int:
    case = Case(name, int(seed))
    print(f"{case.config.describe()}; {case.timing}; {len(case.images)} images"
          f"{'; dense' if case.program.dense else ''}")
    for layer in case.program.network.layers:
        print(f"  {layer.name}: {layer.in_shape} to {layer.out_shape}, kernel {layer.kernel}, "
              f"padding {layer.padding}, pool {layer.pool}, gated {layer.gated}")
    comparison = compare(hwgate.simulate(case.program, case.images, case.timing),
                         case.estimate())
    print(comparison.describe())
    return not comparison.equal


if __name__ == "__main__":
    sys.exit(_replay(*sys.argv[1:]))
