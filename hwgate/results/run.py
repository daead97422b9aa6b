"""What a run of a program yields: the same fields from the RTL and from the cost model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwgate.quant.layer import Activations

__all__ = ["LayerResult", "RunResult"]

@dataclass(frozen=True)
class LayerResult:
    """One layer of a run over N images.

    Parameters
    ----------
    name : str
        Module path in the PyTorch model.
    macs_dense, macs : int
        Multiply-accumulates of the batch with every gate open, and as decided.
    cycles : int
        From the end of the previous layer (or the start) to the end of this one.
    bytes : mapping of stream to bytes
        Keys are those of :data:`hwgate.machine.counters.STREAMS`.
    lanes : tuple of mappings
        One per lane; keys are those of :data:`hwgate.machine.counters.LANE_COUNTERS`. Each adds up
        to ``cycles``.
    activations : Activations
        Outputs, psums and decisions, channel-first.
    """

    name: str
    macs_dense: int
    macs: int
    cycles: int
    bytes: Mapping[str, int]
    lanes: tuple[Mapping[str, int], ...]
    activations: Activations = field(repr=False)
    gated: bool = True

    @property
    def density(self) -> float:
        """Share of open decisions; 1 for an ungated layer."""
        return float(np.mean(self.activations.decision))

    @property
    def bytes_total(self) -> int:
        return sum(self.bytes.values())


@dataclass(frozen=True)
class RunResult:
    """One run of a program over N images.

    Parameters
    ----------
    source : str
        ``"rtl"`` or ``"model"``.
    layers : tuple of LayerResult
    end_cycles, end_bytes : int
        Cycles and program bytes after the last layer (fetching the end of the program).
    multipliers : int
        Of the accelerator, for utilisation.
    seconds : float
        Wall time of the simulation or the estimate, without building.
    energy : mapping of str to float
        Joules by contributor (cost model only).
    """

    source: str
    layers: tuple[LayerResult, ...]
    end_cycles: int
    end_bytes: int
    multipliers: int
    seconds: float = 0.0
    energy: Mapping[str, float] = field(default_factory=dict)

    @property
    def outputs(self) -> np.ndarray[Any, np.dtype[np.int8]]:
        """int8 (N, Co, H, W) of the last layer; logits are (N, classes, 1, 1)."""
        return self.layers[-1].activations.output

    @property
    def cycles(self) -> int:
        return sum(layer.cycles for layer in self.layers) + self.end_cycles

    @property
    def bytes_total(self) -> int:
        return sum(layer.bytes_total for layer in self.layers) + self.end_bytes

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def macs_dense(self) -> int:
        return sum(layer.macs_dense for layer in self.layers)

    @property
    def utilisation(self) -> float:
        """MACs done / (multipliers x cycles)."""
        return self.macs / (self.multipliers * self.cycles)
