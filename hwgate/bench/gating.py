"""A gated ResNet-20 whose thresholds are chosen for a density, and what gating gains on it.

Nothing is trained and no data set is needed: norms are settled on random images and every threshold
opens a chosen share of its gates, so that speed is measured at any density.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwgate.compiler.balancing import balance
from hwgate.errors import FidelityWarning
from hwgate.frontend.fold import quantize
from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.counters import LANE_COUNTERS
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.run import LayerResult, RunResult

__all__ = ["BUSY", "Gating", "REFERENCE_DENSITY", "bench_images", "gated_resnet20", "group_of",
           "lane_cycles", "lost"]

#: Opens so many gates that the gated layers do 2.5 to 3 times fewer MACs.
REFERENCE_DENSITY = 0.12

#: Lane counters of cycles in which a window was issued; all others are lost.
BUSY = ("base", "conditional")

#: Random images that norms, thresholds, scales and the order of channels are chosen on.
_CALIBRATION = 16


def bench_images(count: int) -> NDArray[np.float32]:
    """The first of the random images (count, 3, 32, 32) that everything here runs on."""
    return np.asarray(_images()[:count].numpy())


def gated_resnet20(config: AcceleratorConfig, density: float = REFERENCE_DENSITY, *,
                   width: float = 1.0, gate_groups: int = 4) -> QuantizedNetwork:
    """ResNet-20 for 32x32 images, each channel of a gated layer opening a share of its gates.

    Weights are random but always the same; channels are ordered for equal work per lane.

    Raises
    ------
    UserError
        If the density is not in 0..1, or the configuration cannot run the network.
    """
    from hwgate.nn.gates import set_density

    images = _images()
    model = set_density(_model(width, gate_groups), images, density)
    with warnings.catch_warnings():  # random weights: speed is measured, not what is answered
        warnings.simplefilter("ignore", FidelityWarning)
        network = quantize(model, images, config, check="warn")
    return balance(network, images.numpy())


@dataclass(frozen=True)
class Gating:
    """One network over the same images, gated and with all gates forced open.

    Unless it says otherwise a figure is over the gated layers.
    """

    network: QuantizedNetwork
    gated: RunResult
    dense: RunResult

    @property
    def pairs(self) -> list[tuple[LayerResult, LayerResult]]:
        """Gated layers: gated run, dense run."""
        return [(gated, dense) for gated, dense in zip(self.gated.layers, self.dense.layers,
                                                       strict=True) if gated.gated]

    @property
    def density(self) -> float:
        """Share of open decisions."""
        return float(np.concatenate([gated.activations.decision.ravel()
                                     for gated, _ in self.pairs]).mean())

    @property
    def mac_reduction(self) -> float:
        return _ratio(self.pairs, "macs")

    @property
    def speedup(self) -> float:
        return _ratio(self.pairs, "cycles")

    @property
    def gating_efficiency(self) -> float:
        return self.speedup / self.mac_reduction

    @property
    def utilisation(self) -> float:
        """Of all convolutions, gates forced open."""
        layers = [result for layer, result in zip(self.network.layers, self.dense.layers,
                                                  strict=True) if not layer.reduce]
        return (sum(result.macs for result in layers)
                / (self.dense.multipliers * sum(result.cycles for result in layers)))

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, ready for JSON; those of the whole network below ``network``."""
        return {
            "utilisation": self.utilisation, "mac_reduction": self.mac_reduction,
            "speedup": self.speedup, "gating_efficiency": self.gating_efficiency,
            "density": self.density, "gated_layers": len(self.pairs),
            "network": {
                "layers": len(self.gated.layers),
                "cycles": self.gated.cycles, "cycles_dense": self.dense.cycles,
                "utilisation": self.gated.utilisation,
                "mac_reduction": self.dense.macs / self.gated.macs,
                "speedup": self.dense.cycles / self.gated.cycles}}


def lane_cycles(layers: Iterable[LayerResult]) -> dict[str, int]:
    """Lane cycles of layers by counter, all lanes together."""
    total: Counter[str] = Counter(dict.fromkeys(LANE_COUNTERS, 0))
    for layer in layers:
        for lane in layer.lanes:
            total.update(dict(lane))
    return dict(total)


def lost(cycles: Mapping[str, int]) -> dict[str, int]:
    """Those counters of :func:`lane_cycles` in which no window was issued."""
    return {name: count for name, count in cycles.items() if name not in BUSY}


def group_of(layer: str) -> str:
    """First part of a layer's name: ``layer1`` for ``layer1.0.conv1``."""
    return layer.split(".")[0]


def _ratio(pairs: list[tuple[LayerResult, LayerResult]], field: str) -> float:
    return (sum(getattr(dense, field) for _, dense in pairs)
            / sum(getattr(gated, field) for gated, _ in pairs))


@lru_cache
def _images() -> torch.Tensor:
    return torch.randn(_CALIBRATION, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@lru_cache(maxsize=4)
def _model(width: float, gate_groups: int) -> torch.nn.Module:
    from hwgate.nn.gates import settle_norms
    from hwgate.nn.models import resnet20

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return settle_norms(resnet20(width=width, gate_groups=gate_groups), _images())
