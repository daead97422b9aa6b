"""Accuracy of an integer network beside its float model, on the same images."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwgate.quant.network import QuantizedNetwork

__all__ = ["Accuracy", "float_logits", "measure"]

_BATCH = 50


@dataclass(frozen=True)
class Accuracy:
    """How a quantized network compares with its float model.

    Parameters
    ----------
    images : int
    real, quantized : float
        Shares of correct images.
    agreement : float
        Share of images on which both name the same class.
    error : float
        Root mean square error of the quantized logits over the deviation of the float ones.
    images_per_second : float
        Of the integer golden model.
    """

    images: int
    real: float
    quantized: float
    agreement: float
    error: float
    images_per_second: float

    def describe(self) -> str:
        """One line for people."""
        return (f"{self.images} images: float {self.real:.1%}, quantized {self.quantized:.1%}, "
                f"same class {self.agreement:.1%}, error of the logits {self.error:.1%}, "
                f"golden model {self.images_per_second:.0f} images/s")


def float_logits(model: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (N, classes) of a model in evaluation mode, for a batch of any size."""
    model.eval()
    with torch.no_grad():
        parts = [model(torch.from_numpy(images[at:at + _BATCH])).numpy()
                 for at in range(0, len(images), _BATCH)]
    return np.concatenate(parts)


def measure(model: nn.Module, network: QuantizedNetwork, images: NDArray[np.float32],
            labels: NDArray[np.int64]) -> Accuracy:
    """Run float model and integer network on the same normalized images."""
    wanted = float_logits(model, images)
    start = time.perf_counter()
    steps = network(images).reshape(len(images), -1)
    seconds = time.perf_counter() - start
    found = steps * network.layers[-1].out_scale
    classes, real = steps.argmax(1), wanted.argmax(1)
    return Accuracy(
        len(images), float((real == labels).mean()), float((classes == labels).mean()),
        float((classes == real).mean()), float(np.sqrt(np.square(found - wanted).mean())
                                               / wanted.std()), len(images) / seconds)
