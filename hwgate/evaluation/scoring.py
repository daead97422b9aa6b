"""Accuracy and work of an integer network on many images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.quant.layer import layer_macs
from hwgate.quant.network import QuantizedNetwork

__all__ = ["Scores", "score_network"]

#: Images whose activations are held at a time.
_BATCH = 16


@dataclass(frozen=True)
class Scores:
    """A model on some images: share of correct ones, open gates, dense MACs / MACs done."""

    images: int
    loss: float
    accuracy: float
    density: float
    reduction: float


def score_network(network: QuantizedNetwork, images: NDArray[Any],
                  labels: NDArray[np.int64]) -> Scores:
    """Run the golden model on images, and count what it does.

    Parameters
    ----------
    network : QuantizedNetwork
    images : (N, C, H, W)
        As for :meth:`QuantizedNetwork.quantize_images`.
    labels : int64 (N,)

    Returns
    -------
    Scores
        Its loss is the cross entropy of the logits in their real values.
    """
    steps = network.quantize_images(images)
    correct, done, gates, opened, loss = 0, 0, 0, 0, 0.0
    for at in range(0, len(steps), _BATCH):
        results = network.run(steps[at:at + _BATCH])
        wanted = labels[at:at + _BATCH]
        logits = results[-1].output.reshape(len(wanted), -1)
        correct += int((logits.argmax(1) == wanted).sum())
        real = logits * network.layers[-1].out_scale
        peak = real.max(axis=1, keepdims=True)
        total = np.log(np.exp(real - peak).sum(axis=1)) + peak[:, 0]
        loss += float((total - real[np.arange(len(wanted)), wanted]).sum())
        for layer, result in zip(network.layers, results, strict=True):
            done += layer_macs(layer, result.decision)
            if layer.gated:
                gates += result.decision.size
                opened += int(result.decision.sum())
    dense = sum(layer.macs for layer in network.layers) * len(steps)
    return Scores(len(steps), loss / len(steps), correct / len(steps),
                  opened / gates if gates else 1.0, dense / done)
