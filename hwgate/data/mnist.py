"""Reader of the MNIST digits (LeCun, Cortes, Burges; IDX files)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwgate.data.official import Collection

__all__ = ["CLASSES", "MEAN", "PAGE", "STD", "load_test", "load_train"]

PAGE = "http://yann.lecun.com/exdb/mnist/"

CLASSES = tuple("0123456789")

#: Mean and standard deviation of the training images in 0..1.
MEAN, STD = (0.1307,), (0.3081,)

_FILES = Collection("MNIST", PAGE, f"the four files of {PAGE}", ("mnist", "MNIST/raw", "."))

#: SHA-1 of the unpacked files.
_DIGESTS = {
    "train-images-idx3-ubyte": "c3557c10f29b266e19b3eeee1553c85e0ef4a8ea",
    "train-labels-idx1-ubyte": "adbf52269f5d842899f287c269e2883e40b4f6e2",
    "t10k-images-idx3-ubyte": "65e11ec1fd220343092a5070b58418b5c2644e26",
    "t10k-labels-idx1-ubyte": "a6d52cc628797e845885543326e9f10abb8a6f89",
}


def load_train(folder: str | Path | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 60,000 training images and their labels.

    Parameters
    ----------
    folder : path, optional
        Holds the official IDX files, plain or packed with gzip or xz, or a folder ``mnist`` or
        ``MNIST/raw`` of them; by default the variable ``HWGATE_DATA``.

    Returns
    -------
    images : uint8 (N, 1, 28, 28)
        Ink is 255.
    labels : int64 (N,)

    Raises
    ------
    UserError
        If a file is missing or is not the official one.
    """
    return _load("train", folder)


def load_test(folder: str | Path | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 10,000 test images and their labels; as :func:`load_train`."""
    return _load("t10k", folder)


def _load(part: str, folder: str | Path | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = (_idx(_FILES.read((f"{part}-{kind}-ubyte",), _DIGESTS, folder))
                      for kind in ("images-idx3", "labels-idx1"))
    return images[:, None], labels.astype(np.int64)


def _idx(raw: bytes) -> NDArray[np.uint8]:
    """Array of an IDX file of bytes: 0, 0, type 8, dimensions; their sizes; the values."""
    sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sizes.tolist())
