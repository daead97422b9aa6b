"""Balances the lanes: reorders channels so that each lane expects the same work.

Lane l computes the channels c with ``c mod lanes == l``, and some channels open their gates more
often than others. The order of a layer's output channels is free as long as its consumers follow,
so the calibration images' decisions choose it; the hardware needs nothing for it.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.errors import expect
from hwgate.quant.layer import Activations, QuantizedLayer, reorder
from hwgate.quant.network import QuantizedNetwork

__all__ = ["balance", "channel_work", "score_work"]


def channel_work(layer: QuantizedLayer, activations: Activations) -> NDArray[np.float64]:
    """Expected multiply-accumulates of each output channel (Co,), per image, without scores."""
    _, height, width = layer.conv_shape
    taps = layer.kernel**2
    opened = activations.decision.sum(axis=(0, 2, 3)) / len(activations.decision)
    return np.asarray(taps * (height * width * layer.base.sum(axis=1)
                              + opened * (~layer.base).sum(axis=1)))


def score_work(layer: QuantizedLayer) -> NDArray[np.float64]:
    """Multiply-accumulates of each score (gates,) that channels share, per image and lane."""
    _, height, width = layer.conv_shape
    return np.asarray(height * width * layer.kernel**2 * layer.score_base.sum(axis=1), float)


def balance(network: QuantizedNetwork, images: NDArray[Any]) -> QuantizedNetwork:
    """The same function with output channels reordered for equal work per lane.

    Layers that take part in a residual add, those before a grouped convolution, and the last one,
    keep their order; so do channels that a consumer's base path tells apart.

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
    expect("Network to balance", network, QuantizedNetwork, hint="hwgate.quantize makes one")
    activations, layers = network.run(images), list(network.layers)
    added = {layer.residual for layer in layers}
    for index, seen in enumerate(activations[:-1]):
        layer = layers[index]
        if index in added or layer.residual is not None or not layer.gated:
            continue
        consumers = [n for n in range(len(layers)) if index in network.inputs(n)]
        if any(layers[n].fan_in for n in consumers):
            continue
        taken = {n: _channels(network, n, index) for n in consumers}
        bases = [layers[n].base[:, taken[n]] for n in consumers]
        bases = bases or [np.ones((1, len(layer.weight)), bool)]
        order = _order(layer, channel_work(layer, seen), np.concatenate(bases).T,
                       network.config.lanes)
        layers[index] = reorder(layer, order)
        for n in consumers:
            layers[n] = _taking(layers[n], taken[n], order)
    return replace(network, layers=tuple(layers))


def _channels(network: QuantizedNetwork, index: int, source: int) -> slice:
    """Input channels of a layer that are another one's output."""
    sources = network.inputs(index)
    first = sum(network.shape(n)[0] for n in sources[:sources.index(source)])
    return slice(first, first + network.shape(source)[0])


def _taking(layer: QuantizedLayer, channels: slice, order: NDArray[np.int64]) -> QuantizedLayer:
    """The layer where some of its input channels come in another order."""
    def moved(values: NDArray[np.int8]) -> NDArray[np.int8]:
        values = values.copy()
        values[:, channels] = values[:, channels][:, order]
        return values

    return replace(layer, weight=moved(layer.weight),
                   score=None if layer.score is None else moved(layer.score))


def _order(layer: QuantizedLayer, work: NDArray[np.float64], columns: NDArray[np.bool_],
           lanes: int) -> NDArray[np.int64]:
    """Channel for each position: the heaviest first, to the lane with least work and room.

    Rows of ``columns`` that differ belong to channels that must not mix. Channels that share a
    gate go together, the heaviest gate first: to lanes that compute its score anyway, then to the
    one with the most room for them, then to the one with least work.
    """
    _, kinds = np.unique(columns, axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)
    places = np.arange(len(work))
    room = {(kind, lane): int(((kinds == kind) & (places % lanes == lane)).sum())
            for kind in set(kinds.tolist()) for lane in range(lanes)}
    own, score = places, np.zeros(len(work))
    if layer.gate is not None and layer.gate.max() > 0:  # every lane has the score of a pixel
        own, score = layer.gate, score_work(layer)
    total = np.bincount(own, work)
    load, taken = np.zeros(lanes), {place: list[int]() for place in room}
    scored = set[tuple[int, int]]()
    heaviest = np.lexsort((places, -work, own, -total[own])).tolist()
    for gate, kind in dict.fromkeys((int(own[c]), int(kinds[c])) for c in heaviest):
        waiting = [c for c in heaviest if (own[c], kinds[c]) == (gate, kind)]
        while waiting:
            lane = max((lane for lane in range(lanes) if room[kind, lane]), key=lambda lane: (
                (gate, lane) in scored, min(room[kind, lane], len(waiting)), -load[lane]))
            team, waiting = waiting[:room[kind, lane]], waiting[room[kind, lane]:]
            taken[kind, lane] += team
            room[kind, lane] -= len(team)
            load[lane] += work[team].sum() + ((gate, lane) not in scored) * score[gate]
            scored.add((gate, lane))
    order = np.empty(len(work), np.int64)
    for lane in range(lanes):
        order[lane::lanes] = _arrange(kinds[lane::lanes].tolist(), own, {
            kind: team for (kind, at), team in taken.items() if at == lane})
    return order


def _arrange(kinds: list[int], own: NDArray[np.int64],
             taken: dict[int, list[int]]) -> list[int]:
    """A lane's channels in the order of its positions' kinds, those of a gate side by side."""
    order: list[int] = []
    for kind in kinds:
        later = {own[c] for other, channels in taken.items() if other != kind for c in channels}
        # The gate goes on; if it cannot, one that no other kind goes on with comes first.
        best = min(taken[kind], key=lambda c: (not order or own[c] != own[order[-1]],
                                               own[c] in later))
        taken[kind].remove(best)
        order.append(best)
    return order
