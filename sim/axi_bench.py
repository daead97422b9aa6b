"""Runs programs on the bare accelerator under random back-pressure on every bus channel.

Memory and control port are cocotbext-axi's, written by others than the engine and its harness:
about 10 thousand cycles a second, for bits only. Cycles are the business of
:mod:`hwgate.sim.simulate`.
"""

import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.machine.driver import EngineError
from hwgate.machine.regs import ErrorCause
from hwgate.sim.build import build_model, generated_verilog, run_bench
from hwgate.sim.records import NO_FAULTS, Faults, Job, Outcome, Start

if TYPE_CHECKING:
    from hwgate.compiler.program import Program

__all__ = ["run_start_with_backpressure", "run_starts_with_backpressure",
           "run_starts_with_timing", "run_with_backpressure"]


def run_with_backpressure(program: "Program", images: NDArray[Any], seed: int, *,
                          deadline: int = 1_000_000) -> NDArray[np.uint8]:
    """Memory after a run of ``program`` on ``images``, for ``binding.read_output``.

    Parameters
    ----------
    program : Program
    images : (N, C, H, W)
    seed : int
        Of the pauses: each channel of both buses gets its own rhythm of cycles in which it waits.
    deadline : int
        Cycles after which the engine counts as hung.

    Raises
    ------
    EngineError
        If the engine stops with an error.
    ToolError
        If a tool is missing or fails.
    BenchError
        If the engine hangs or breaks a rule of the bus.
    """
    binding = program.bind(images)
    outcome = run_start_with_backpressure(
        program.config, Start(program_address=binding.program_address, memory=binding.memory,
                              deadline=deadline), seed)
    cause = outcome.status.error
    if cause is not ErrorCause.NONE:
        raise EngineError(f"The engine stopped with error {cause.name}: {cause.doc}", cause)
    return outcome.memory


def run_start_with_backpressure(config: AcceleratorConfig, start: Start, seed: int) -> Outcome:
    """One start under back-pressure, see :func:`run_starts_with_backpressure`."""
    outcome, = run_starts_with_backpressure(config, [start], seed)
    return outcome


def run_starts_with_backpressure(config: AcceleratorConfig, starts: Sequence[Start], seed: int, *,
                                 faults: Faults = NO_FAULTS) -> list[Outcome]:
    """Start one engine several times under back-pressure, in one simulator process.

    Addresses outside the memory, whose size is that of the largest image, and those of ``faults``
    answer with an error. Resets in mid-run meet handshakes in any state.

    Returns
    -------
    list of Outcome
        One per start, with neither snapshots nor events. Errors of the engine are outcomes.

    Raises
    ------
    ToolError
        If a tool is missing or fails.
    BenchError
        If the engine hangs or breaks a rule of the bus.
    """
    return _run(Job(config, tuple(starts), MemoryTiming(), faults, _size(config, starts)), seed)


def run_starts_with_timing(config: AcceleratorConfig, starts: Sequence[Start],
                           timing: MemoryTiming) -> list[Outcome]:
    """Start one engine several times on cocotbext-axi's channels with a memory of fixed timing.

    Takes the same cycles as :func:`hwgate.sim.engine.run_engine`, whose memory is another one.

    Parameters
    ----------
    config : AcceleratorConfig
    starts : sequence of Start
    timing : MemoryTiming
        With latencies of at least 2 cycles, and a bus that is not shared.

    Returns
    -------
    list of Outcome
        One per start, with neither snapshots nor events.

    Raises
    ------
    ToolError
        If a tool is missing or fails.
    BenchError
        If the engine hangs or breaks a rule of the bus.
    UserError
        If the bus is shared.
    """
    if timing.shared:
        raise UserError("A memory on channels of cocotbext-axi must not share its bus")
    job = Job(config, tuple(starts), timing, NO_FAULTS, _size(config, starts))
    return _run(job, 0, HWGATE_TIMED="1")


def _size(config: AcceleratorConfig, starts: Sequence[Start]) -> int:
    """Bytes of memory, in whole beats, that hold the largest image."""
    size = max(start.memory.size for start in starts if start.memory is not None)
    return size + -size % config.bus.bytes


def _run(job: Job, seed: int, **env: str) -> list[Outcome]:
    """Outcomes of a job on the bare accelerator."""
    model = build_model(generated_verilog(job.config), "hwgate_top")
    with tempfile.TemporaryDirectory(prefix="hwgate-") as folder:
        files = {"HWGATE_JOB": Path(folder) / "job", "HWGATE_OUTCOMES": Path(folder) / "outcomes"}
        files["HWGATE_JOB"].write_bytes(pickle.dumps(job))
        run_bench(model, "hwgate.sim.bench_axi", seed=seed,
                  env=env | {name: str(path) for name, path in files.items()})
        outcomes: list[Outcome] = pickle.loads(files["HWGATE_OUTCOMES"].read_bytes())
    return outcomes
