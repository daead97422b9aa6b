"""Networks whose feature maps stay on chip: random ones, and one in bands of rows."""

from dataclasses import replace

import numpy as np

from hwgate.machine.config import RESIDUAL_SHIFT, AcceleratorConfig, BufferConfig
from hwgate.quant.layer import IMAGE, QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from support.random_layers import Features, Limits, random_network

__all__ = ["PLAIN", "ROOMY", "SMALL", "banded_network", "joining_network", "many_layers"]

#: Buffers that divide maps of more than 64 pixels into bands; room on chip for small maps, and for
#: the weights of small layers.
SMALL = AcceleratorConfig(lanes=2, buffers=BufferConfig(
    window_words=128, pixels=64, output_words=128, map_bytes=1 << 13, weight_bytes=1 << 11))
#: The same without a weight memory.
PLAIN = replace(SMALL, buffers=replace(SMALL.buffers, weight_bytes=0))

#: Buffers that hold several images of such networks at a time.
ROOMY = AcceleratorConfig(buffers=BufferConfig(window_words=1024, pixels=1024, output_words=2048))


def many_layers(seed: int, config: AcceleratorConfig, **options) -> QuantizedNetwork:
    """Six random layers of every kind, with residuals and branches."""
    rng = np.random.default_rng([seed, 11])
    roomy = replace(config, buffers=BufferConfig())
    made = random_network(rng, roomy, layers=6, features=Features.every(),
                          limits=Limits(size=12, channels=20), **options)
    return replace(made, config=config)


def banded_network(config: AcceleratorConfig, *, channels: int = 8, edge: int = 16,
                   seed: int = 0) -> QuantizedNetwork:
    """Two residual blocks of gated layers, and one that pools; the maps are square."""
    rng = np.random.default_rng(seed)
    shape, base = (channels, edge, edge), np.zeros((channels, channels), bool)
    base[:, :config.channels] = True

    def layer(name: str, **options) -> QuantizedLayer:
        return QuantizedLayer(
            name, rng.integers(-20, 21, (channels, channels, 3, 3)).astype(np.int8), base,
            rng.integers(-2000, 2000, channels), rng.integers(-500, 500, (channels, 2)),
            rng.integers(2000, 6000, (channels, 2)), np.full(channels, 20), in_shape=shape,
            padding=1, **options)

    added = {"mult_residual": np.full(channels, 600 << RESIDUAL_SHIFT)}
    return QuantizedNetwork(config, (
        layer("first"), layer("inner"), layer("added", residual=0, **added),
        layer("sampled", residual=2, **added), layer("pooled", pool=2)))


def joining_network(config: AcceleratorConfig, *, image: bool = False) -> QuantizedNetwork:
    """A stem, two branches, a layer that takes both side by side, and one more; maps of 8x8 pixels.

    With ``image``, the layer takes the image beside them.
    """
    rng = np.random.default_rng(5)

    def layer(name: str, channels: int, outputs: int, **options) -> QuantizedLayer:
        return QuantizedLayer(
            name, rng.integers(-20, 21, (outputs, channels, 3, 3)).astype(np.int8),
            np.ones((outputs, channels), bool), None, rng.integers(-500, 500, (outputs, 2)),
            rng.integers(2000, 6000, (outputs, 2)), np.full(outputs, 20), (channels, 8, 8),
            padding=1, **options)

    branches = (1, 2, IMAGE) if image else (1, 2)
    return QuantizedNetwork(config, (
        layer("stem", 4, 8), layer("left", 8, 6), layer("right", 8, 4, source=0),
        layer("joined", 14 if image else 10, 8, source=branches), layer("last", 8, 4)))
