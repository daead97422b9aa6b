"""Energy of counted events, from published figures with their sources."""

from collections.abc import Mapping
from dataclasses import dataclass

from hwgate.errors import UserError

__all__ = ["Cost", "HOROWITZ_45NM", "LARGEST_SRAM", "energy", "sram"]

PICO = 1e-12


@dataclass(frozen=True)
class Cost:
    """What one event costs: joules, what the event is, and who published the figure."""

    joules: float
    event: str
    source: str


_HOROWITZ = "Horowitz, ISSCC 2014, 45 nm"

#: Operation: its cost. Of the published range for DRAM (1.3 to 2.6 nJ) the low end is used, so that
#: off-chip traffic is never flattered as the reason to gate.
HOROWITZ_45NM: dict[str, Cost] = {
    "add8": Cost(0.03 * PICO, "8-bit addition", _HOROWITZ),
    "add32": Cost(0.1 * PICO, "32-bit addition", _HOROWITZ),
    "multiply8": Cost(0.2 * PICO, "8-bit multiplication", _HOROWITZ),
    "compare32": Cost(0.029 * PICO, "32-bit comparison", "comparator, 40 nm"),
    "sram_8k": Cost(10 * PICO, "64-bit access of an 8 KB memory", _HOROWITZ),
    "sram_32k": Cost(20 * PICO, "64-bit access of a 32 KB memory", _HOROWITZ),
    "sram_1m": Cost(100 * PICO, "64-bit access of a 1 MB memory", _HOROWITZ),
    "dram": Cost(1300 * PICO, "64-bit access of off-chip memory", _HOROWITZ),
}

#: Largest memory, in bytes, that each on-chip figure stands for.
_SRAM_SIZES = {"sram_8k": 8 << 10, "sram_32k": 32 << 10, "sram_1m": 1 << 20}

#: Larger memories are banks of this size.
LARGEST_SRAM = max(_SRAM_SIZES.values())


def sram(size: int) -> str:
    """Operation of :data:`HOROWITZ_45NM` for one 64-bit access of a memory of ``size`` bytes.

    The smallest published memory that holds ``size`` stands for it.

    Raises
    ------
    UserError
        If ``size`` exceeds the largest published memory.
    """
    for name, limit in _SRAM_SIZES.items():
        if size <= limit:
            return name
    raise UserError(f"On-chip memory must have at most {LARGEST_SRAM} bytes "
                    f"to have a published energy, not {size}")


def energy(counts: Mapping[str, tuple[str, float]],
           table: Mapping[str, Cost] = HOROWITZ_45NM) -> dict[str, float]:
    """Joules by contributor.

    Parameters
    ----------
    counts : mapping of contributor to (operation, number of events)
        A contributor is a part of the accelerator; the operation is a key of ``table``. Memory
        accesses are counted in units of 64 bits, so ``bytes / 8``.
    table : mapping of operation to Cost

    Raises
    ------
    UserError
        If the table has no such operation.
    """
    joules = {}
    for contributor, (operation, number) in counts.items():
        if operation not in table:
            raise UserError(f"There is no energy for {operation!r}; "
                            f"there is for {', '.join(sorted(table))}")
        joules[contributor] = number * table[operation].joules
    return joules
