"""Handwritten digits and the small gated network of the demo."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hwgate.models import Gating

if TYPE_CHECKING:
    from hwgate.training import Epoch

__all__ = ["TEST_SHARE", "TrainedDigits", "digits_network", "load_digits", "train_digits"]

#: Share of the images that training never sees.
TEST_SHARE = 0.25

#: Gates of the demo's network.
_GATING = Gating(groups=4, grouping=True, sparse_bp=True)


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
    history: "tuple[Epoch, ...]"


def load_digits(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64],
                                        NDArray[np.float32], NDArray[np.int64]]:
    """scikit-learn's 1,797 handwritten digits, split with equal shares of every class.

    Returns
    -------
    train_images, train_labels, test_images, test_labels
        As in :class:`TrainedDigits`; the test images are :data:`TEST_SHARE` of all.
    """
    from sklearn import datasets, model_selection

    data = datasets.load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    labels = data.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = model_selection.train_test_split(
        images, labels, test_size=TEST_SHARE, random_state=seed, stratify=labels)
    return train_images, train_labels, test_images, test_labels


def digits_network(gating: Gating = _GATING) -> nn.Sequential:
    """Five 3x3 convolutions, four of them gated, and a linear layer.

    With grouping, the second and third gated layer are grouped, with channel shuffles in between.
    """
    def block(conv: nn.Conv2d, *more: nn.Module) -> nn.Sequential:
        return nn.Sequential(OrderedDict(
            [("conv", conv), ("norm", nn.BatchNorm2d(conv.out_channels)), ("relu", nn.ReLU())]
            + [(type(module).__name__.lower(), module) for module in more
               if not isinstance(module, nn.Identity)]))

    plain = replace(gating, grouping=False)
    return nn.Sequential(OrderedDict([
        ("stem", block(nn.Conv2d(1, 16, 3, padding=1, bias=False))),
        ("gated1", block(plain.conv3x3(16, 32))),
        ("gated2", block(gating.conv3x3(32, 32), gating.shuffler(32))),
        ("gated3", block(gating.conv3x3(32, 32), gating.shuffler(32), nn.MaxPool2d(2))),
        ("gated4", block(plain.conv3x3(32, 64))),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("linear", nn.Linear(64, 10)),
    ]))


def train_digits(seed: int = 0, epochs: int | None = None,
                 progress: "Callable[[Epoch], None] | None" = None) -> TrainedDigits:
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
    from hwgate.datasets import load_dataset  # these build on this module
    from hwgate.recipe import load_recipe
    from hwgate.trained import build
    from hwgate.training import train

    recipe = load_recipe("digits").changed({"seed": seed})
    if epochs is not None:
        recipe = recipe.changed({"optimizer.epochs": epochs})
    data, model = load_dataset("digits", seed=seed), build(recipe)
    history = train(model, data, recipe, report=progress)
    return TrainedDigits(
        model, data.unit(data.train.images).numpy(), data.train.labels.numpy(),
        data.unit(data.test.images).numpy(), data.test.labels.numpy(), history)
