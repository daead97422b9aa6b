"""Reader of the CIFAR-10 images (Krizhevsky, "Learning Multiple Layers of Features", 2009)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwgate.data.official import Collection
from hwgate.errors import UserError

__all__ = ["CLASSES", "MEAN", "PAGE", "STD", "TRAIN_BATCHES", "load_test", "load_train",
           "normalize"]

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
           "truck")

#: Numbers of the training batches, of 10,000 images each.
TRAIN_BATCHES = (1, 2, 3, 4, 5)

#: Mean and standard deviation per channel of images in 0..1 that the reference networks take.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: SHA-1 of the unpacked files. The last one is the beginning of the test images.
_DIGESTS = {
    "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
    "test_batch_first1000.bin": "99fb5092fe8004d15ee248abbc35fef4d858bcb0",
}

#: Ours, and the official archive unpacked.
_FILES = Collection("CIFAR-10", PAGE, f"the binary version of {PAGE}",
                    ("cifar10", "cifar-10-batches-bin", "."))

#: Bytes of one image: its label, then 3 planes of 32x32 pixels.
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32


def load_train(folder: str | Path | None = None, batches: Sequence[int] = TRAIN_BATCHES
               ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Training images and labels.

    Parameters
    ----------
    folder : path, optional
        Holds the official binary files, plain or packed with gzip or xz, or a folder ``cifar10`` or
        ``cifar-10-batches-bin`` of them; by default the variable ``HWGATE_DATA``.
    batches : sequence of int
        Which of the five files.

    Returns
    -------
    images : uint8 (N, 3, 32, 32)
    labels : int64 (N,)
        Indices of :data:`CLASSES`.

    Raises
    ------
    UserError
        If a file is missing or is not the official one.
    """
    for number in batches:
        if number not in TRAIN_BATCHES:
            raise UserError(f"A training batch of CIFAR-10 must be one of 1..5, not {number!r}")
    parts = [_read((f"data_batch_{number}.bin",), folder) for number in batches]
    if not parts:
        raise UserError("At least one training batch of CIFAR-10 must be read, not 0")
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def load_test(folder: str | Path | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Test images and labels: all 10,000, or the first 1,000 where only these are there.

    Parameters, results and errors are those of :func:`load_train`.
    """
    return _read(("test_batch.bin", "test_batch_first1000.bin"), folder)


def normalize(images: NDArray[np.uint8], mean: ArrayLike = MEAN,
              std: ArrayLike = STD) -> NDArray[np.float32]:
    """``(images / 255 - mean) / std`` per channel, float32 (N, 3, H, W)."""
    centre, spread = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (mean, std))
    steps = images.astype(np.float32) / np.float32(255)
    return np.asarray((steps - centre) / spread, np.float32)


def _read(names: Sequence[str], folder: str | Path | None
          ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and labels of the first of some files that exists."""
    records = np.frombuffer(_FILES.read(names, _DIGESTS, folder), np.uint8).reshape(-1, _RECORD)
    images = records[:, 1:].reshape(-1, *_SHAPE)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)
