"""The demo's network, trained in seconds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hwgate.data.datasets import load_dataset
from hwgate.errors import expect
from hwgate.train.recipe import load_recipe
from hwgate.train.trained import build
from hwgate.train.training import Epoch, train

__all__ = ["TrainedDigits", "train_digits"]


@dataclass(frozen=True)
class TrainedDigits:
    """The trained network with its data.

    Parameters
    ----------
    model : Module
        In evaluation mode; float32 (N, 1, 8, 8) to logits (N, 10).
    train_images, test_images : float32 (N, 1, 8, 8)
        Grey values in [0, 1].
    train_labels, test_labels : int64 (N,)
    history : tuple of Epoch
    """

    model: nn.Module
    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    history: tuple[Epoch, ...]


def train_digits(seed: int = 0, epochs: int | None = None,
                 progress: Callable[[Epoch], None] | None = None) -> TrainedDigits:
    """Train :func:`digits_network` with the recipe ``digits``, in seconds.

    Parameters
    ----------
    seed : int
        Of the split, the initial weights and the batches. One seed gives one network.
    epochs : int, optional
        Instead of the recipe's.
    progress : callable, optional
        Told each epoch as it ends.

    Raises
    ------
    UserError
        If there is not at least one epoch.
    """
    expect("Seed", seed, int)
    expect("Epoch count", epochs, int, type(None))
    recipe = load_recipe("digits").changed({"seed": seed})
    if epochs is not None:
        recipe = recipe.changed({"optimizer.epochs": epochs})
    data, model = load_dataset("digits", seed=seed), build(recipe)
    history = train(model, data, recipe, report=progress)
    return TrainedDigits(
        model, data.unit(data.train.images).numpy(), data.train.labels.numpy(),
        data.unit(data.test.images).numpy(), data.test.labels.numpy(), history)
