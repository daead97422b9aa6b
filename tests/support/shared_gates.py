"""Gates that channels share, for the layers of random networks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwgate.quant.golden import run_layer
from hwgate.quant.joined import joined
from hwgate.quant.layer import IMAGE, QuantizedLayer
from hwgate.quant.network import QuantizedNetwork

__all__ = ["MAPPINGS", "share_gates", "share_layer"]

#: Which channels share a gate: slices of neighbours, all channels, channels that take turns, any.
MAPPINGS: dict[str, Callable[[np.random.Generator, int], NDArray[np.int64]]] = {
    "slices": lambda rng, count: np.arange(count) // int(rng.integers(1, count + 1)),
    "pixel": lambda rng, count: np.zeros(count, np.int64),
    "turns": lambda rng, count: np.arange(count) % int(rng.choice([2, 4, 8])),
    "any": lambda rng, count: rng.integers(0, max(1, count // 3), count),
}


def share_layer(rng: np.random.Generator, layer: QuantizedLayer, x: NDArray[np.int8],
                mapping: str) -> QuantizedLayer:
    """A gated layer with gates that its channels share. Each score has the weights of one of its
    channels, and closes all pixels of ``x``, opens all, or has a tie."""
    gate = MAPPINGS[mapping](rng, len(layer.weight))
    _, first, gate = np.unique(gate, return_index=True, return_inverse=True)
    base = np.stack([layer.base[gate == n].any(axis=0) for n in range(len(first))])
    score = (layer.weight[first] * base[:, :, None, None]).astype(np.int8)
    shared = replace(layer, gate=gate.reshape(-1), score=score, limit=0,
                     threshold=np.zeros(len(first), np.int64))
    plain = replace(shared, residual=None, mult_residual=None, relu_first=False)
    psums = run_layer(plain, x).score
    assert psums is not None
    values = np.sort(np.moveaxis(psums, 1, 0).reshape(len(first), -1), axis=1)
    places = rng.integers(0, values.shape[1], len(first))
    kinds = rng.choice(3, len(first), p=(0.2, 0.15, 0.65))
    threshold = np.choose(kinds, (values[:, -1], values[:, 0] - 1,
                                  values[np.arange(len(first)), places]))
    return replace(shared, threshold=threshold)


def share_gates(rng: np.random.Generator, network: QuantizedNetwork, images: NDArray[np.int8],
                fits: Callable[[QuantizedLayer, tuple[int, int, int] | None], bool]
                ) -> QuantizedNetwork:
    """The network with shared gates in its gated layers, some of them with a tau, if that fits."""
    layers, maps = list[QuantizedLayer](), [images]
    for index, layer in enumerate(network.layers):
        x = joined([maps[source - IMAGE] for source in network.inputs(index)])
        residual = None
        if layer.residual is not None:
            residual = maps[layer.residual - IMAGE]
        if layer.gated:
            layer = share_layer(rng, layer, x, str(rng.choice(list(MAPPINGS))))
            opened = run_layer(layer, x, network.config.formats, residual).decision
            counts = opened.sum(axis=(2, 3))
            some = counts[(counts > 0) & (counts < opened[0, 0].size)]
            if some.size and rng.random() < 0.35:
                limited = replace(layer, limit=int(rng.choice(some)))
                if fits(limited, None if residual is None else residual.shape[1:]):
                    layer = limited
        layers.append(layer)
        maps.append(run_layer(layer, x, network.config.formats, residual).output)
    return replace(network, layers=tuple(layers))
