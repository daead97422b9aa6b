"""What goes into a simulator process and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.machine.driver import Status

__all__ = ["CHIP_WRITE", "EVENT", "Faults", "Job", "NO_FAULTS", "Outcome", "Start"]

#: One output before pooling, or one pixel of a score, as the monitor records it; ``layer`` counts
#: from 0.
EVENT = np.dtype([("layer", "<u2"), ("lane", "<u2"), ("channel", "<u2"), ("tile", "<u2"),
                  ("pixel", "<u2"), ("decision", "u1"), ("score", "u1"), ("psum", "<i4")])

#: One beat written to the on-chip map memory; a narrow bus fills the first bytes of ``data``.
CHIP_WRITE = np.dtype([("layer", "<u4"), ("address", "<u4"), ("data", "u1", (16,))])


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of the engine.

    Parameters
    ----------
    program_address : int
        Byte address of the first descriptor.
    memory : uint8 (bytes,), optional
        Image loaded from address 0 before the start; None keeps what the last start left.
    deadline : int
        Cycles after which a run that has not ended is abandoned.
    reset_after : int, optional
        Cycles after which the engine is reset in mid-run, if it has not ended.
    """

    program_address: int
    memory: NDArray[np.uint8] | None = field(default=None, repr=False)
    deadline: int = 1_000_000
    reset_after: int | None = None


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Byte ranges of memory, (first, one past the last), that answer SLVERR."""

    reads: tuple[int, int] = (0, 0)
    writes: tuple[int, int] = (0, 0)


#: Only what lies outside the memory fails.
NO_FAULTS = Faults()


@dataclass(frozen=True)
class Job:
    """All that one simulator process does: starts of one engine, one after the other."""

    config: AcceleratorConfig
    starts: tuple[Start, ...]
    timing: MemoryTiming
    faults: Faults
    memory_bytes: int


@dataclass(frozen=True)
class Outcome:
    """What one start of the engine left behind.

    Parameters
    ----------
    status : Status
        After the run; after the reset, if there was one.
    late : bool
        The deadline (or the reset) ended the run.
    fault : str
        The bus protocol rule that the engine broke; empty if none.
    counters : mapping of counter to value
        Read from the registers, see :func:`hwgate.machine.regs.counter_names`.
    snapshots : uint32 (layers, counters)
        Counters at the end of each layer, in the same order.
    events : EVENT (n,)
        One record per output before pooling, in the order of requantization, and per pixel of
        each score.
    memory : uint8 (bytes,)
        After the run.
    chip : CHIP_WRITE (n,)
        Writes of the on-chip map memory, in order.
    cycles : int
        Clock cycles from the start until the run ended, as the harness counts them.
    seconds : float
        Wall time of these cycles.
    """

    status: Status
    late: bool
    fault: str
    counters: Mapping[str, int]
    snapshots: NDArray[np.uint32] = field(repr=False)
    events: NDArray[Any] = field(repr=False)
    memory: NDArray[np.uint8] = field(repr=False)
    chip: NDArray[Any] = field(default_factory=lambda: np.empty(0, CHIP_WRITE), repr=False)
    cycles: int = 0
    seconds: float = 0.0
