"""Runs memory images on the accelerator in Verilator: the level below ``simulate``."""

import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.machine.regs import counter_names
from hwgate.sim.build import build_model, generated_verilog, run_bench
from hwgate.sim.records import NO_FAULTS, Faults, Job, Outcome, Start

__all__ = ["engine_model", "run_engine"]

_HERE = Path(__file__).parent

#: Formats of waveforms by the suffix of the file.
_FORMATS = {".fst": "fst", ".vcd": "vcd"}


def engine_model(config: AcceleratorConfig, *, waves: bool | str = False) -> Path:
    """Model of the accelerator in ``harness.sv``, compiled if the cache has none.

    ``waves`` as for :func:`hwgate.sim.build.build_model`.

    Raises
    ------
    ToolError
        If a tool is missing or fails.
    """
    return build_model(
        generated_verilog(config), "harness", timing=True, public=False, waves=waves,
        extra=(_HERE / "harness.sv", _HERE / "memory.cpp"),
        parameters={"DATA_BITS": config.bus.data_bits, "ADDRESS_BITS": config.bus.address_bits,
                    "LANES": config.lanes, "COUNTERS": len(counter_names(config))})


def run_engine(config: AcceleratorConfig, starts: Sequence[Start], *,
               timing: MemoryTiming = MemoryTiming(), faults: Faults = NO_FAULTS,
               memory_bytes: int | None = None, waves: Path | None = None,
               timeout: float = 3600) -> list[Outcome]:
    """Start one engine several times, one after the other, in one simulator process.

    Parameters
    ----------
    config : AcceleratorConfig
    starts : sequence of Start
        The engine is reset before the first one, and after one that was late or broke the bus
        protocol; otherwise a start meets the engine as the last one left it.
    timing : MemoryTiming
    faults : Faults
        Addresses that answer with an error, besides those outside the memory.
    memory_bytes : int, optional
        Size of the memory; default that of the largest image.
    waves : Path, optional
        Waveforms of everything, ``.fst`` or ``.vcd``; slow, and needs a model of its own. Layouts
        for viewers are written beside it, see :mod:`hwgate.sim.layout`.
    timeout : float
        Seconds of wall time after which the simulator is stopped.

    Returns
    -------
    list of Outcome
        One per start. Errors of the engine are outcomes, not exceptions.

    Raises
    ------
    ToolError
        If a tool is missing or fails.
    BenchError
        If the simulation itself fails.
    UserError
        If the waveforms cannot be written, or not in that format.
    """
    kind = _wave_format(waves) if waves else False
    images = [start.memory.size for start in starts if start.memory is not None]
    size = max(images, default=0) if memory_bytes is None else memory_bytes
    size += -size % config.bus.bytes
    job = Job(config, tuple(starts), timing, faults, size)
    model = engine_model(config, waves=kind)
    if waves:
        from hwgate.sim.layout import write_layouts  # which loads Amaranth

        write_layouts(waves, config, generated_verilog(config))
    with tempfile.TemporaryDirectory(prefix="hwgate-") as folder:
        files = {"HWGATE_JOB": Path(folder) / "job", "HWGATE_OUTCOMES": Path(folder) / "outcomes"}
        files["HWGATE_JOB"].write_bytes(pickle.dumps(job))
        run_bench(model, "hwgate.sim.bench_engine", waves=waves, timeout=timeout,
                  env={name: str(path) for name, path in files.items()})
        outcomes: list[Outcome] = pickle.loads(files["HWGATE_OUTCOMES"].read_bytes())
    return outcomes


def _wave_format(waves: Path) -> str:
    """Format of a waveform file, whose folder is made."""
    if waves.suffix not in _FORMATS:
        raise UserError(f"Waveform file {waves} must end in {' or '.join(_FORMATS)}")
    try:
        waves.parent.mkdir(parents=True, exist_ok=True)
        waves.touch()
    except OSError as error:
        raise UserError(f"Waveform file {waves} cannot be written: {error.strerror}") from None
    return _FORMATS[waves.suffix]
