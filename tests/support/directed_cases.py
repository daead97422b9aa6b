"""Networks made for one moment: a conditional pass overtakes the gate pass that it follows.

Each lane has one job, whose first open pixel comes early enough for the conditional weights to be
there when its gate pass ends. Few pixels are open, so that the conditional pass is through with all
but the last one, which is the last pixel of the map, while that is still on its way to the gate.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwgate.machine.config import AcceleratorConfig
from hwgate.plan.geometry import split_rows
from hwgate.quant.golden import base_psum
from hwgate.quant.layer import QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from support.random_layers import Features, Fits, Limits, random_network

__all__ = ["waiting_network"]

_PLAIN, _MORE = Features(), Features(stride=True, kernels=(5,))


def waiting_network(rng: np.random.Generator, config: AcceleratorConfig,
                    fits: Fits) -> tuple[QuantizedNetwork, NDArray[np.int8]]:
    """A network of one layer, and one or two images."""
    while True:
        groups = int(rng.choice([2, 3]))
        network = random_network(
            rng, config, layers=1, gated=True, density="mixed", reduce=False, fits=fits,
            limits=Limits(layers=1, size=16, channels=groups * config.channels, smallest=4),
            features=_PLAIN if rng.random() < 0.5 else _MORE)
        layer = _one_job_a_lane(network.layers[0], config)
        if (layer.gated and fits(layer, None, config)
                and len(split_rows(layer, None, config)) == 1):
            break
    images = np.stack([_two_spots(rng, layer, config) for _ in range(int(rng.choice([1, 1, 2])))])
    # The last pixel is just open; those with sums above its own are as well.
    last = base_psum(layer, images)[-1, :, -1, -1]
    limit = int(rng.integers(1, 4)) if rng.random() < 0.3 else 0
    return QuantizedNetwork(config, (replace(layer, threshold=last - 1, limit=limit),)), images


def _one_job_a_lane(layer: QuantizedLayer, config: AcceleratorConfig) -> QuantizedLayer:
    """The first channels of a gated layer, without pooling; no weight of a base path is negative.
    """
    weight = np.where(layer.base[:, :, None, None], np.abs(layer.weight), layer.weight)
    names = ("base", "threshold", "bias", "mult", "shift")
    first = {name: None if (values := getattr(layer, name)) is None else values[:config.lanes]
             for name in names}
    return replace(layer, weight=weight[:config.lanes], pool=1, **first)


def _two_spots(rng: np.random.Generator, layer: QuantizedLayer,
               config: AcceleratorConfig) -> NDArray[np.int8]:
    """An image that is bright where the last window lies, and as bright where an early one does."""
    _, high = config.formats.limits(config.formats.activation)
    channels, height, width = layer.in_shape
    _, rows, columns = layer.conv_shape
    image = (rng.integers(0, high // 16 + 1, layer.in_shape)
             * (rng.random(layer.in_shape) < 0.2)).astype(np.int8)
    edge, (top, _, left, _) = layer.kernel, layer.pads
    spot = rng.integers(high // 2 + 1, high + 1, (channels, edge, edge))
    early = divmod(int(rng.integers(rows * columns // 3 + 1)), columns)
    for row, column in (early, (rows - 1, columns - 1)):
        y, x = row * layer.stride - top, column * layer.stride - left
        inside = [slice(max(at, 0), min(at + edge, size)) for at, size in ((y, height), (x, width))]
        image[:, inside[0], inside[1]] = spot[:, inside[0].start - y:inside[0].stop - y,
                                              inside[1].start - x:inside[1].stop - x]
    return image
