"""The whole flow on handwritten digits: train, quantize, compile, simulate, estimate, compare."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hwgate
from hwgate.compiler.balancing import balance
from hwgate.errors import UserError, expect
from hwgate.evaluation.against_dense import Evaluation, evaluate
from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.network import QuantizedNetwork
from hwgate.show.report import Pictures
from hwgate.train.digits import train_digits
from hwgate.train.training import Epoch

__all__ = ["Demo", "run_demo"]

#: Training images whose decisions tell how much work each channel is.
_BALANCE_IMAGES = 256


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Parameters
    ----------
    evaluation : Evaluation
        Over the first N test images.
    accuracy : mapping
        ``float``, ``quantized`` and ``rtl`` over the same N images.
    test_accuracy : mapping
        ``float`` and ``quantized`` over all test images.
    test_images, train_images : int
    network : QuantizedNetwork
    pictures : Pictures
        The N images and their classes.
    """

    evaluation: Evaluation
    accuracy: Mapping[str, float]
    test_accuracy: Mapping[str, float]
    test_images: int
    train_images: int
    network: QuantizedNetwork
    pictures: Pictures

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, ready for JSON."""
        return {**self.evaluation.to_dict(), "accuracy": dict(self.accuracy),
                "test_accuracy": {**self.test_accuracy, "images": self.test_images}}

    def facts(self) -> tuple[str, ...]:
        """Sentences on what was trained and how good it is."""
        gated = sum(layer.gated for layer in self.network.layers)
        return (
            f"A network of {len(self.network.layers)} layers, {gated} of them gated, trained on "
            f"{self.train_images:,} handwritten digits.",
            f"On all {self.test_images} held-out digits the PyTorch model is right for "
            f"{self.test_accuracy['float']:.1%}, the integer golden model for "
            f"{self.test_accuracy['quantized']:.1%}.")


def _accuracy(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(np.mean(logits.reshape(len(logits), -1).argmax(axis=1) == labels))


def run_demo(config: AcceleratorConfig, *, images: int = 64, seed: int = 0,
             step: Callable[[str], None] = lambda _: None,
             progress: Callable[[Epoch], None] | None = None) -> Demo:
    """Train, quantize and evaluate the digits network.

    Parameters
    ----------
    config : AcceleratorConfig
    images : int
        Test images that the RTL runs, gated and dense.
    seed : int
        Of the split, the initial weights and the batches.
    step : callable
        Told, in words, what happens next.
    progress : callable
        Told each epoch of the training as it ends.

    Raises
    ------
    UserError
        If there are not so many test images, or as the tools raise it.
    """
    expect("Configuration", config, AcceleratorConfig, hint="hwgate.preset makes one")
    expect("Image count", images, int)
    expect("Seed", seed, int)
    if images < 1:
        raise UserError(f"Image count must be at least 1, not {images}")
    step("train the gated network")
    trained = train_digits(seed=seed, progress=progress)
    test, labels = trained.test_images, trained.test_labels
    if images > len(test):
        raise UserError(f"Image count must be at most {len(test)}, the held-out digits, "
                        f"not {images}")
    step("quantize it")
    network = hwgate.quantize(trained.model, trained.train_images, config)
    step("balance its lanes")
    network = balance(network, trained.train_images[:_BALANCE_IMAGES])
    logits = {"float": _predict(trained.model, test), "quantized": network(test)}
    evaluation = evaluate(network, test[:images], config=config, step=step)
    accuracy = {name: _accuracy(values[:images], labels[:images])
                for name, values in logits.items()}
    accuracy["rtl"] = _accuracy(evaluation.gated.rtl.outputs, labels[:images])
    return Demo(
        evaluation=evaluation, accuracy=accuracy, network=network,
        test_accuracy={name: _accuracy(values, labels) for name, values in logits.items()},
        test_images=len(test), train_images=len(trained.train_images),
        pictures=Pictures(test[:images], labels[:images]))


def _predict(model: Any, images: NDArray[Any]) -> NDArray[Any]:
    model.eval()
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(images)))
