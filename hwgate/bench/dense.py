"""Dense layers beside published figures: three ResNet-20 layers, loads and stores included.

Figures of the peers were measured on the same layers (int8, 3x3, stride 1, same padding) by running
their tools on a 2-core machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.layer import QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.run import RunResult

__all__ = ["MACS", "PEERS", "Peer", "SHAPES", "dense_images", "dense_layer", "dense_utilisation"]

#: Layer: channels in and out, and edge of the feature maps.
SHAPES: dict[str, tuple[int, int]] = {"c16": (16, 32), "c32": (32, 16), "c64": (64, 8)}

#: MACs of each of the layers.
MACS = 2_359_296


@dataclass(frozen=True)
class Peer:
    """Another system on the same layers, one image."""

    name: str
    kind: str
    multipliers: int
    cycles: tuple[int, int, int]

    def utilisation(self) -> tuple[float, ...]:
        """Of each layer, and of their sum."""
        cycles = *self.cycles, sum(self.cycles)
        macs = MACS, MACS, MACS, 3 * MACS
        return tuple(m / (self.multipliers * c) for m, c in zip(macs, cycles, strict=True))


PEERS = (
    Peer("SCALE-Sim 3.0.0, 8x8 output-stationary", "model, no stalls", 64,
         (40447, 38655, 37759)),
    Peer("SCALE-Sim 3.0.0, 8x8 weight-stationary", "model, no stalls", 64,
         (37655, 40031, 49535)),
    Peer("SCALE-Sim 3.0.0, 16x16 output-stationary", "model, no stalls", 256,
         (11135, 10175, 9695)),
    Peer("ZigZag 3.9.1, 8x8 mapping search", "model", 64, (39192, 38176, 39214)),
    Peer("NNgen 1.3.4", "RTL, DMA included", 72, (39770, 35482, 37506)),
)


def dense_layer(name: str, config: AcceleratorConfig, seed: int = 0) -> QuantizedNetwork:
    """A network of one dense layer of :data:`SHAPES` with random weights.

    Raises
    ------
    UserError
        If there is no such layer.
    """
    if name not in SHAPES:
        raise UserError(f"There is no layer {name!r}; there are {', '.join(SHAPES)}")
    channels, edge = SHAPES[name]
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (channels, channels, 3, 3)).astype(np.int8)
    # Random sums spread by about 73 * 73 * sqrt(9 * channels); outputs shall spread by about 40.
    scale = 40 / (73 * 73 * np.sqrt(9 * channels))
    shift = 14 - int(np.floor(np.log2(scale)))
    return QuantizedNetwork(config, (QuantizedLayer(
        name=name, weight=weight, base=np.ones((channels, channels), bool), threshold=None,
        bias=np.zeros((channels, 2), np.int64),
        mult=np.full((channels, 2), round(scale * 2**shift), np.int64),
        shift=np.full(channels, shift, np.int64), in_shape=(channels, edge, edge), padding=1),))


def dense_images(name: str, batch: int) -> NDArray[np.int8]:
    """Random images (batch, C, H, W) for :func:`dense_layer`."""
    channels, edge = SHAPES[name]
    return np.random.default_rng(1).integers(-128, 128,
                                             (batch, channels, edge, edge)).astype(np.int8)


def dense_utilisation(runs: Mapping[str, RunResult]) -> dict[str, float]:
    """Utilisation of each layer's run, and of all of them together (``total``)."""
    found = {name: run.utilisation for name, run in runs.items()}
    multipliers = next(iter(runs.values())).multipliers
    found["total"] = (sum(run.macs for run in runs.values())
                      / (multipliers * sum(run.cycles for run in runs.values())))
    return found
