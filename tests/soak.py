"""A thousand images of the digits network in sequence: ``make soak``.

One simulator process starts the engine 100 times on 10 images each, and its memory is watched;
then one start runs all 1,000 images as a batch. Every start is equal to golden and cost model.
"""

import argparse
import pickle
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import hwgate
from hwgate.compiler.balancing import balance
from hwgate.compiler.program import Program
from hwgate.machine.config import MemoryTiming, preset
from hwgate.results.comparison import compare
from hwgate.results.run import RunResult
from hwgate.sim.build import run_bench
from hwgate.sim.engine import engine_model
from hwgate.sim.records import NO_FAULTS, Job, Outcome, Start
from hwgate.sim.simulate import default_deadline
from hwgate.train.digits import train_digits

__all__ = ["GROWTH", "Soak", "digits_program", "main", "run_batch", "run_starts"]

#: Bytes by which the simulator's memory may grow after its first tenth of the starts.
GROWTH = 1 << 20

_IMAGES, _STARTS = 1000, 100


@dataclass(frozen=True)
class Soak:
    """What many starts in one process did.

    Parameters
    ----------
    differences : tuple of str
        Starts that are not equal to golden and cost model.
    cycles : int
        Of all starts.
    growth : int
        Bytes by which the simulator process grew from the first tenth of the starts to the end.
    resident : int
        Its bytes at the end.
    """

    differences: tuple[str, ...]
    cycles: int
    growth: int
    resident: int


def digits_program(epochs: int | None = None) -> tuple[Program, NDArray[np.float32]]:
    """The demo's program, and all images of the data set."""
    config = preset("digits")
    trained = train_digits(epochs=epochs)
    network = balance(hwgate.quantize(trained.model, trained.train_images, config),
                      trained.train_images[:256])
    images = np.concatenate([trained.test_images, trained.train_images])
    return hwgate.compile(network, config), images


def run_starts(program: Program, images: NDArray[np.float32], starts: int) -> Soak:
    """Start one engine ``starts`` times, each time on the next ones of the images."""
    parts, config = np.array_split(images, starts), program.config
    bindings = [program.bind(part) for part in parts]
    limit = default_deadline(program, len(parts[0]), bindings[0].memory.size)
    job = Job(config, tuple(Start(program_address=binding.program_address, memory=binding.memory,
                                  deadline=limit) for binding in bindings),
              MemoryTiming(), NO_FAULTS, max(binding.memory.size for binding in bindings))
    with tempfile.TemporaryDirectory(prefix="hwgate-") as name:
        folder = Path(name)
        (folder / "job").write_bytes(pickle.dumps(job))
        run_bench(engine_model(config), "bench_soak", search=[Path(__file__).parent],
                  timeout=3600, env={"HWGATE_JOB": str(folder / "job"),
                                     "HWGATE_OUTCOMES": str(folder)})
        differences, cycles = [], 0
        for index, part in enumerate(parts):
            outcome = pickle.loads((folder / f"{index}").read_bytes())
            result = _assembled(program, part, outcome)
            comparison = compare(result, hwgate.estimate(program, part))
            cycles += result.cycles
            if not comparison.equal:
                differences.append(f"Start {index}: {comparison.describe()}")
        resident: list[int] = pickle.loads((folder / "resident").read_bytes())
    return Soak(tuple(differences), cycles, resident[-1] - resident[len(resident) // 10],
                resident[-1])


def _assembled(program: Program, images: NDArray[np.float32], outcome: Outcome) -> RunResult:
    """What ``hwgate.simulate`` makes of an outcome."""
    with mock.patch("hwgate.sim.simulate.run_engine", return_value=[outcome]):
        return hwgate.simulate(program, images)


def run_batch(program: Program, images: NDArray[np.float32]) -> Soak:
    """Run all images as one batch."""
    result = hwgate.simulate(program, images)
    comparison = compare(result, hwgate.estimate(program, images))
    return Soak(() if comparison.equal else (comparison.describe(),), result.cycles, 0, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both, print what happened; exit status 0 if all is equal and nothing grew."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--images", type=int, default=_IMAGES, help=f"default: {_IMAGES}")
    parser.add_argument("--starts", type=int, default=_STARTS, help=f"default: {_STARTS}")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    program, images = digits_program()
    images = images[:options.images]
    many = run_starts(program, images, options.starts)
    print(f"{options.starts} starts of one simulator process, {len(images)} images, "
          f"{many.cycles:,} cycles: {len(many.differences)} starts differ from the models; the "
          f"process grew by {many.growth:,} bytes to {many.resident:,}.", flush=True)
    batch = run_batch(program, images)
    print(f"One batch of {len(images)} images, {batch.cycles:,} cycles: "
          f"{'differs' if batch.differences else 'equal to the models'}.")
    for difference in (*many.differences[:3], *batch.differences):
        print(difference)
    print(f"{time.perf_counter() - begin:.0f} s")
    return int(bool(many.differences or batch.differences or many.growth > GROWTH))


if __name__ == "__main__":
    sys.exit(main())
