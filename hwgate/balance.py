"""Balances the lanes: reorders channels so that each lane expects the same work.

Lane l computes the channels c with ``c mod lanes == l``, and some channels open their gates more
often than others. The order of a layer's output channels is free as long as its consumers follow,
so the calibration images' decisions choose it; the hardware needs nothing for it.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.quant.network import Activations, QuantizedLayer, QuantizedNetwork

__all__ = ["balance", "channel_work"]


def channel_work(layer: QuantizedLayer, activations: Activations) -> NDArray[np.float64]:
    """Expected multiply-accumulates of each output channel (Co,), per image."""
    _, height, width = layer.conv_shape
    taps = layer.kernel**2
    opened = activations.decision.sum(axis=(0, 2, 3)) / len(activations.decision)
    return np.asarray(taps * (height * width * layer.base.sum(axis=1)
                              + opened * (~layer.base).sum(axis=1)))


def balance(network: QuantizedNetwork, images: NDArray[Any]) -> QuantizedNetwork:
    """The same function with output channels reordered for equal work per lane.

    Layers that take part in a residual add, and the last one, keep their order; so do channels
    that a consumer's base path tells apart.

    Parameters
    ----------
    network : QuantizedNetwork
    images : (N, C, H, W)
        Calibration images; their decisions weigh the channels.

    Returns
    -------
    QuantizedNetwork
        Its outputs are those of ``network``, bit for bit; psums and decisions of the reordered
        layers come in their new order.
    """
    activations, layers = network.run(images), list(network.layers)
    added = {layer.residual for layer in layers}
    for index, seen in enumerate(activations[:-1]):
        layer = layers[index]
        if index in added or layer.residual is not None or not layer.gated:
            continue
        consumers = [n for n in range(len(layers)) if network.inputs(n) == index]
        order = _order(channel_work(layer, seen), [layers[n].base for n in consumers],
                       network.config.lanes)
        layers[index] = _reorder_outputs(layer, order)
        for n in consumers:
            score = layers[n].score
            layers[n] = replace(layers[n], weight=layers[n].weight[:, order],
                                score=None if score is None else score[:, order])
    return replace(network, layers=tuple(layers))


def _order(work: NDArray[np.float64], bases: list[NDArray[np.bool_]],
           lanes: int) -> NDArray[np.int64]:
    """Channel for each position: the heaviest first, to the lane with least work and room."""
    columns = np.concatenate(bases).T if bases else np.ones((len(work), 1), bool)
    _, kinds = np.unique(columns, axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)
    free = {(kind, lane): [p for p in range(len(work)) if kinds[p] == kind and p % lanes == lane]
            for kind in set(kinds.tolist()) for lane in range(lanes)}
    load, order = np.zeros(lanes), np.zeros(len(work), np.int64)
    for channel in np.argsort(-work, kind="stable"):
        lane = min((lane for lane in range(lanes) if free[kinds[channel], lane]),
                   key=lambda lane: load[lane])
        order[free[kinds[channel], lane].pop(0)] = channel
        load[lane] += work[channel]
    return order


def _reorder_outputs(layer: QuantizedLayer, order: NDArray[np.int64]) -> QuantizedLayer:
    threshold, gate = layer.threshold, layer.gate
    if gate is not None:
        gate = gate[order]
    elif threshold is not None:
        threshold = threshold[order]
    return replace(layer, weight=layer.weight[order], base=layer.base[order], threshold=threshold,
                   gate=gate,
                   bias=layer.bias[order], mult=layer.mult[order], shift=layer.shift[order])
