"""Gated against dense on one accelerator, simulated and estimated: the figures and their names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.quant.fidelity import Fidelity
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.comparison import Comparison, compare
from hwgate.results.run import RunResult

__all__ = ["DEFINITIONS", "Evaluation", "Figures", "Pair", "evaluate", "run_to_dict",
           "simulate_and_estimate"]

#: What each figure means, stated wherever it is printed.
DEFINITIONS: dict[str, str] = {
    "density": "share of gate decisions that opened",
    "utilisation": "MACs done / (multipliers x RTL cycles)",
    "mac_reduction": "dense MACs / MACs done",
    "speedup": "dense / gated RTL cycles on the same accelerator",
    "gating_efficiency": "speed-up / MAC reduction",
    "offchip_reduction": "dense / gated bytes on the off-chip bus",
}

Step = Callable[[str], None]


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class Pair:
    """One program over one batch of images, on the RTL and by the cost model."""

    rtl: RunResult
    model: RunResult
    comparison: Comparison


def simulate_and_estimate(network: QuantizedNetwork, config: AcceleratorConfig,
                          images: NDArray[Any], *, dense: bool = False,
                          timing: MemoryTiming | None = None, step: Step = _silent) -> Pair:
    """Compile a network, run the RTL and the cost model, and compare them.

    Parameters
    ----------
    network, config
        As for :func:`hwgate.compile`.
    images : (N, C, H, W) array
        Floats, or integers that are already quantized.
    dense : bool
        Force all gates open.
    timing : MemoryTiming
        Latency and bandwidth of the off-chip memory.
    step : callable
        Told, in words, what happens next.

    Raises
    ------
    UserError
        As compiler, simulator and cost model raise it.
    """
    import hwgate

    timing = timing or MemoryTiming()
    which = "dense" if dense else "gated"
    step(f"compile the {which} program")
    program = hwgate.compile(network, config, dense=dense)
    step(f"estimate the {which} program")
    model = hwgate.estimate(program, images, timing)
    step(f"build the simulator if need be, run the {which} program")
    rtl = hwgate.simulate(program, images, timing)
    return Pair(rtl, model, compare(rtl, model))


@dataclass(frozen=True)
class Figures:
    """One layer, or the total, of the four runs. Dense: the same accelerator, all gates open."""

    name: str
    multipliers: int
    density: float
    mismatches: int
    macs_dense: int
    macs_gated: int
    cycles_model: int
    cycles_rtl: int
    cycles_model_dense: int
    cycles_rtl_dense: int
    bytes_model: int
    bytes_rtl: int
    bytes_model_dense: int
    bytes_rtl_dense: int

    @property
    def utilisation(self) -> float:
        return self.macs_gated / (self.multipliers * self.cycles_rtl)

    @property
    def utilisation_dense(self) -> float:
        return self.macs_dense / (self.multipliers * self.cycles_rtl_dense)

    @property
    def mac_reduction(self) -> float:
        return self.macs_dense / self.macs_gated

    @property
    def speedup(self) -> float:
        return self.cycles_rtl_dense / self.cycles_rtl

    @property
    def gating_efficiency(self) -> float:
        return self.speedup / self.mac_reduction

    @property
    def offchip_reduction(self) -> float:
        return self.bytes_rtl_dense / self.bytes_rtl

    def to_dict(self) -> dict[str, Any]:
        """All figures by name, ready for JSON."""
        derived = ("utilisation", "utilisation_dense", "mac_reduction", "speedup",
                   "gating_efficiency", "offchip_reduction")
        return {**vars(self), **{name: getattr(self, name) for name in derived}}


@dataclass(frozen=True)
class Evaluation:
    """A gated network and its dense twin on one accelerator, over N images.

    ``fidelity`` is the network's: how closely it follows its float model, if that was measured.
    """

    config: AcceleratorConfig
    images: int
    gated: Pair
    dense: Pair
    fidelity: Fidelity | None = None

    @property
    def equal(self) -> bool:
        """The triple equality holds for both programs."""
        return self.gated.comparison.equal and self.dense.comparison.equal

    @property
    def layers(self) -> tuple[Figures, ...]:
        """Figures of each layer."""
        return tuple(
            Figures(
                name=rtl.name, multipliers=self.config.multipliers, density=rtl.density,
                mismatches=match.mismatches + dense_match.mismatches,
                macs_dense=rtl.macs_dense, macs_gated=rtl.macs,
                cycles_model=model.cycles, cycles_rtl=rtl.cycles,
                cycles_model_dense=dense_model.cycles, cycles_rtl_dense=dense_rtl.cycles,
                bytes_model=model.bytes_total, bytes_rtl=rtl.bytes_total,
                bytes_model_dense=dense_model.bytes_total, bytes_rtl_dense=dense_rtl.bytes_total)
            for rtl, model, dense_rtl, dense_model, match, dense_match in zip(
                self.gated.rtl.layers, self.gated.model.layers, self.dense.rtl.layers,
                self.dense.model.layers, self.gated.comparison.layers,
                self.dense.comparison.layers, strict=True))

    @property
    def total(self) -> Figures:
        """Figures of the whole program, fetching its end included; density of gated layers."""
        rtl, model = self.gated.rtl, self.gated.model
        dense_rtl, dense_model = self.dense.rtl, self.dense.model
        decisions = [layer.activations.decision.ravel() for layer in rtl.layers if layer.gated]
        return Figures(
            name="total", multipliers=self.config.multipliers,
            density=float(np.concatenate(decisions).mean()) if decisions else 1.0,
            mismatches=self.gated.comparison.mismatches + self.dense.comparison.mismatches,
            macs_dense=rtl.macs_dense, macs_gated=rtl.macs,
            cycles_model=model.cycles, cycles_rtl=rtl.cycles,
            cycles_model_dense=dense_model.cycles, cycles_rtl_dense=dense_rtl.cycles,
            bytes_model=model.bytes_total, bytes_rtl=rtl.bytes_total,
            bytes_model_dense=dense_model.bytes_total, bytes_rtl_dense=dense_rtl.bytes_total)

    @property
    def cycles_per_second(self) -> float:
        """RTL cycles simulated in a second of wall time, building excluded."""
        seconds = self.gated.rtl.seconds + self.dense.rtl.seconds
        return (self.gated.rtl.cycles + self.dense.rtl.cycles) / seconds if seconds else 0.0

    def describe(self) -> str:
        """What holds, or the first difference of each program that is not equal."""
        if self.equal:
            return ("Equal: hardware, golden model and cost model agree on every output, cycle "
                    "and byte, gated and dense.")
        return "\n".join(f"{name} program. {pair.comparison.describe()}"
                         for name, pair in (("Gated", self.gated), ("Dense", self.dense))
                         if not pair.comparison.equal)

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, ready for JSON."""
        return {"accelerator": {**self.config.to_dict(), "digest": f"{self.config.digest:08x}"},
                "images": self.images, "equal": self.equal,
                "fidelity": self.fidelity and self.fidelity.to_dict(),
                "totals": self.total.to_dict(),
                "simulation": {"cycles_per_second": self.cycles_per_second},
                "layers": [layer.to_dict() for layer in self.layers],
                "energy": {"gated": dict(self.gated.model.energy),
                           "dense": dict(self.dense.model.energy)},
                "definitions": DEFINITIONS}


def evaluate(network: QuantizedNetwork, images: NDArray[Any], *,
             config: AcceleratorConfig | None = None, timing: MemoryTiming | None = None,
             step: Step = _silent) -> Evaluation:
    """Run a network gated and dense on one accelerator and compare RTL with the cost model.

    Parameters
    ----------
    network : QuantizedNetwork
    images : (N, C, H, W) array
        Floats, or integers that are already quantized.
    config : AcceleratorConfig
        The network's own by default.
    timing : MemoryTiming
    step : callable
        Told, in words, what happens next.

    Raises
    ------
    UserError
        As compiler, simulator and cost model raise it.
    """
    config = config or network.config
    gated, dense = (simulate_and_estimate(network, config, images, dense=dense, timing=timing,
                                          step=step) for dense in (False, True))
    return Evaluation(config, len(images), gated, dense, network.fidelity)


def run_to_dict(run: RunResult) -> dict[str, Any]:
    """Figures of one run by name, ready for JSON."""
    return {
        "source": run.source, "cycles": run.cycles, "bytes": run.bytes_total, "macs": run.macs,
        "macs_dense": run.macs_dense, "utilisation": run.utilisation, "seconds": run.seconds,
        "end_cycles": run.end_cycles, "end_bytes": run.end_bytes, "energy": dict(run.energy),
        "layers": [{
            "name": layer.name, "gated": layer.gated, "density": layer.density,
            "macs": layer.macs, "macs_dense": layer.macs_dense, "cycles": layer.cycles,
            "bytes": dict(layer.bytes), "lanes": [dict(lane) for lane in layer.lanes],
        } for layer in run.layers],
    }
