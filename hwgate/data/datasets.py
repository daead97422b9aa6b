"""One interface for all data sets: training, validation and test images, and what to do to them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hwgate.data import cifar, mnist
from hwgate.data.digits import load_digits
from hwgate.errors import UserError

__all__ = ["DATASETS", "DataSet", "Split", "load_dataset"]

#: Names of the data sets.
DATASETS = ("cifar10", "digits", "mnist")

_Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]

#: Training images that are held out unless a number is asked for.
_HELD_OUT = {"cifar10": 5000, "digits": 0, "mnist": 5000}


@dataclass(frozen=True)
class Split:
    """Some images with their labels.

    Parameters
    ----------
    images : uint8 (N, C, H, W)
        As stored.
    labels : int64 (N,)
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Split":
        """The first ``count`` images, or all if there are fewer."""
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class DataSet:
    """A data set in memory.

    Parameters
    ----------
    name : str
    classes : tuple of str
    train, validation, test : Split
        Validation images are training images that are held out, the same ones for every seed;
        there may be none.
    levels : int
        Value of a pixel that means 1.
    mean, std : tuple of float
        Of each channel, for pixels in 0..1.
    shift : int
        Augmentation moves an image by up to so many pixels each way, and fills in zeros.
    flip : bool
        Augmentation mirrors every second image or so.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    levels: int = 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    shift: int = 0
    flip: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def unit(self, images: Tensor) -> Tensor:
        """Pixels in 0..1, float32 of the same shape."""
        return images.float() / self.levels

    def normalize(self, images: Tensor) -> Tensor:
        """What a network takes: ``(pixels in 0..1 - mean) / std``, float32 of the same shape."""
        mean, std = (torch.tensor(v, dtype=torch.float32, device=images.device)[:, None, None]
                     for v in (self.mean, self.std))
        return (self.unit(images) - mean) / std

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Randomly moved and mirrored images, of the same shape and type.

        Parameters
        ----------
        images : (N, C, H, W)
        generator : Generator
            On the CPU; the only source of randomness.
        """
        count, _, height, width = images.shape
        if self.shift:
            reach = 2 * self.shift + 1
            moves = torch.randint(0, reach, (2, count), generator=generator).to(images.device)
            padded = F.pad(images, (self.shift,) * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)
            images = windows[torch.arange(count, device=images.device), :, moves[0], moves[1]]
        if self.flip:
            mirrored = torch.rand(count, generator=generator).to(images.device) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return images

    def describe(self) -> str:
        """One line for people."""
        return (f"{self.name}: {len(self.train):,} training, {len(self.validation):,} validation "
                f"and {len(self.test):,} test images of {'x'.join(map(str, self.shape))}")


def load_dataset(name: str, folder: str | Path | None = None, *, validation: int | None = None,
                 seed: int = 0) -> DataSet:
    """Load a data set into memory.

    Parameters
    ----------
    name : str
        One of :data:`DATASETS`.
    folder : path, optional
        Holds the official files; by default the variable ``HWGATE_DATA``. Digits need none.
    validation : int, optional
        Training images to hold out; by default 5,000, of the digits none.
    seed : int
        Of the digits' split into training and test images; the others have an official one.

    Raises
    ------
    UserError
        If there is no such data set or file, or too few images are left to train.
    """
    if name not in DATASETS:
        raise UserError(f"There is no data set {name!r}; there are {', '.join(DATASETS)}")
    load: dict[str, Callable[[], tuple[_Arrays, _Arrays]]] = {
        "cifar10": lambda: (cifar.load_train(folder), cifar.load_test(folder)),
        "mnist": lambda: (mnist.load_train(folder), mnist.load_test(folder)),
        "digits": lambda: _digits(seed)}
    training, test = load[name]()
    count = _HELD_OUT[name] if validation is None else validation
    if not 0 <= count <= len(training[1]) - 2:
        raise UserError(f"Validation images of {name} must be in 0..{len(training[1]) - 2}, "
                        f"not {count}")
    order = np.random.default_rng(0).permutation(len(training[1]))
    held, rest = np.sort(order[:count]), np.sort(order[count:])
    parts = (_split(training, rest), _split(training, held), _split(test))
    if name == "cifar10":
        return DataSet(name, cifar.CLASSES, *parts, mean=cifar.MEAN, std=cifar.STD, shift=4,
                       flip=True)
    if name == "mnist":
        return DataSet(name, mnist.CLASSES, *parts, mean=mnist.MEAN, std=mnist.STD, shift=2)
    return DataSet(name, mnist.CLASSES, *parts, levels=16)


def _digits(seed: int) -> tuple[_Arrays, _Arrays]:
    """Both parts of scikit-learn's digits, as the integers 0..16 that they are."""
    train_images, train_labels, test_images, test_labels = load_digits(seed)
    stored = [np.rint(images * 16).astype(np.uint8) for images in (train_images, test_images)]
    return (stored[0], train_labels), (stored[1], test_labels)


def _split(arrays: _Arrays, chosen: NDArray[np.int64] | None = None) -> Split:
    images, labels = arrays if chosen is None else (part[chosen] for part in arrays)
    return Split(torch.from_numpy(np.array(images)), torch.from_numpy(np.array(labels)))
