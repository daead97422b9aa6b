"""What the compiler strives for, and what it assumes about gates and memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from numbers import Real

from hwgate.errors import UserError, expect
from hwgate.machine.config import MemoryTiming

__all__ = ["DENSITY", "OBJECTIVES", "Goal"]

#: Share of the fewest cycles by which a way may be slower, to be taken for its fewer bytes.
OBJECTIVES = {"cycles": 0.0, "balanced": 0.02, "bytes": inf}

#: Share of open gates that is assumed unless the caller knows better: trained networks open a
#: twentieth to two fifths of them.
DENSITY = 0.25


@dataclass(frozen=True)
class Goal:
    """What the compiler strives for, and what it assumes.

    Parameters
    ----------
    objective : str
        ``"cycles"``: the fewest cycles, then the fewest bytes. ``"bytes"``: the reverse.
        ``"balanced"``: the fewest bytes among what is at most 2 % slower than the fastest.
    density : float, or mapping of layer name to float
        Share of open gates, 0..1, of all gated layers, or of each.
    timing : MemoryTiming

    Raises
    ------
    UserError
        For an unknown objective, or a density out of range.
    """

    objective: str = "balanced"
    density: float | Mapping[str, float] = DENSITY
    timing: MemoryTiming = field(default_factory=MemoryTiming)

    def __post_init__(self) -> None:
        expect("Objective", self.objective, str)
        expect("Timing", self.timing, MemoryTiming)
        expect("Density", self.density, Real, Mapping)
        if self.objective not in OBJECTIVES:
            raise UserError(f"There is no objective {self.objective!r}; "
                            f"there are {', '.join(OBJECTIVES)}")
        given = self.density if isinstance(self.density, Mapping) else {"": self.density}
        for name, value in given.items():
            what = f"Density of layer {name!r}" if name else "Density"
            expect(what, value, Real)
            if not 0 <= value <= 1:
                raise UserError(f"{what} must be in 0..1, not {value}")

    def density_of(self, name: str) -> float:
        """Assumed share of open gates of a gated layer.

        Raises
        ------
        UserError
            If there are densities of layers, but none of this one.
        """
        if not isinstance(self.density, Mapping):
            return self.density
        if name not in self.density:
            raise UserError(f"Densities of layers must name every gated layer, so {name!r}, too")
        return self.density[name]
