"""Handwritten digits and the small gated network of the demo."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwgate.nn import ChannelShuffle, GatedConv2d
from hwgate.training import Epoch, Recipe, train

__all__ = ["RECIPE", "TEST_SHARE", "TrainedDigits", "digits_network", "load_digits",
           "train_digits"]

#: Share of the images that training never sees.
TEST_SHARE = 0.25

#: Of the demo. Thresholds have some 300 steps to reach their target, the paper's 100 thousand:
#: hence the larger penalty.
RECIPE = Recipe(epochs=14, batch=64, rate=0.1, weight_decay=5e-4, target=1.4, penalty=0.006)


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


def digits_network() -> nn.Sequential:
    """Five 3x3 convolutions, four of them gated with G=4, and a linear layer.

    The second and third gated layer are grouped, with channel shuffles in between.
    """
    def block(conv: nn.Conv2d, *more: nn.Module) -> nn.Sequential:
        return nn.Sequential(OrderedDict(
            [("conv", conv), ("norm", nn.BatchNorm2d(conv.out_channels)), ("relu", nn.ReLU())]
            + [(type(module).__name__.lower(), module) for module in more]))

    def gated(inputs: int, outputs: int, grouping: bool) -> GatedConv2d:
        return GatedConv2d(inputs, outputs, 3, padding=1, gate_groups=4, grouping=grouping,
                           sparse_bp=True)

    return nn.Sequential(OrderedDict([
        ("stem", block(nn.Conv2d(1, 16, 3, padding=1, bias=False))),
        ("gated1", block(gated(16, 32, False))),
        ("gated2", block(gated(32, 32, True), ChannelShuffle(4))),
        ("gated3", block(gated(32, 32, True), ChannelShuffle(4), nn.MaxPool2d(2))),
        ("gated4", block(gated(32, 64, False))),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("linear", nn.Linear(64, 10)),
    ]))


def train_digits(seed: int = 0, epochs: int | None = None,
                 progress: Callable[[Epoch], None] | None = None) -> TrainedDigits:
    """Train :func:`digits_network` with :data:`RECIPE`, in seconds.

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
    train_images, train_labels, test_images, test_labels = load_digits(seed)
    recipe = replace(RECIPE, seed=seed, epochs=RECIPE.epochs if epochs is None else epochs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = digits_network()
    history = train(model, torch.from_numpy(train_images), torch.from_numpy(train_labels),
                    recipe, progress)
    return TrainedDigits(model, train_images, train_labels, test_images, test_labels, history)
