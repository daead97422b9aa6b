"""Handwritten digits, which come with scikit-learn."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["TEST_SHARE", "load_digits"]

#: Share of the images that training never sees.
TEST_SHARE = 0.25


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
