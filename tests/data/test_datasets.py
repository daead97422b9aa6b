"""Readers of MNIST, and the interface that all data sets share."""

import gzip
import hashlib
import lzma
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hwgate.data import mnist
from hwgate.data.datasets import DataSet, Split, load_dataset
from hwgate.errors import UserError

DATA = os.environ.get("HWGATE_DATA", "")
needs_mnist = pytest.mark.skipif(
    not list(Path(DATA, "mnist").glob("train-*")) if DATA else True,
    reason="needs the variable HWGATE_DATA, a folder with mnist/train-images-idx3-ubyte and others")
needs_cifar = pytest.mark.skipif(
    not list(Path(DATA, "cifar10").glob("data_batch_1*")) if DATA else True,
    reason="needs the variable HWGATE_DATA, a folder with cifar10/data_batch_1.bin and others")


def idx(array):
    """An IDX file of bytes, by hand."""
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def files(monkeypatch):
    """Small files in the official layout, by name, taken for the official ones."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 7), ("t10k", 3)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, count).astype(np.uint8)
    monkeypatch.setattr(mnist, "_DIGESTS", {
        name: hashlib.sha1(idx(array)).hexdigest() for name, array in arrays.items()})
    return arrays


@pytest.mark.parametrize("place,ending,pack", [
    ("mnist", ".gz", gzip.compress), ("MNIST/raw", "", bytes), (".", ".xz", lzma.compress)])
def test_mnist_files_are_found(tmp_path, files, place, ending, pack, monkeypatch):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in files.items():
        (folder / (name + ending)).write_bytes(pack(idx(array)))
    monkeypatch.setenv("HWGATE_DATA", str(tmp_path))
    images, labels = mnist.load_train()
    assert images.shape == (7, 1, 28, 28) and labels.dtype == np.int64
    np.testing.assert_array_equal(images[:, 0], files["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(mnist.load_test(tmp_path)[1], files["t10k-labels-idx1-ubyte"])
    data = load_dataset("mnist", validation=2)
    assert (len(data.train), len(data.validation), len(data.test)) == (5, 2, 3)


def test_mnist_files_that_are_missing_or_others(tmp_path, monkeypatch):
    with pytest.raises(UserError) as error:
        mnist.load_test(tmp_path)
    assert str(error.value) == (
        f"Folder {tmp_path} has no MNIST file t10k-images-idx3-ubyte, plain, .gz or .xz, itself or "
        "in mnist or MNIST/raw; take the four files of http://yann.lecun.com/exdb/mnist/")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(UserError, match="^File .*train-images-idx3-ubyte.gz must be the official "
                       "one of http://yann.lecun.com/exdb/mnist/ with SHA-1 c3557c10f29b266e19b3eee"
                       "e1553c85e0ef4a8ea, not 11f6ad8ec52a2984abaafd7c3b516503785c2072$"):
        mnist.load_train(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"x")
    with pytest.raises(UserError, match="^File .*ubyte.gz cannot be read: "):
        mnist.load_train(tmp_path)
    monkeypatch.delenv("HWGATE_DATA", raising=False)
    with pytest.raises(UserError, match="^MNIST needs the variable HWGATE_DATA, a folder with "
                       "train-images-idx3-ubyte of http://yann.lecun.com/exdb/mnist/$"):
        mnist.load_train()


def stack(count=64):
    """Images of which each pixel is another value than its neighbours, all at least 1."""
    plane = (torch.arange(6 * 5) + 1).to(torch.uint8).reshape(1, 1, 6, 5)
    return plane.expand(count, 2, 6, 5) + torch.tensor([0, 100]).to(torch.uint8)[:, None, None]


def dataset(**options):
    split = Split(stack(), torch.zeros(64, dtype=torch.int64))
    return DataSet("x", ("a",), split, split, split, **options)


def test_augmentation_moves_and_mirrors_whole_images():
    data, images = dataset(shift=2, flip=True), stack()
    found = data.augment(images, torch.Generator().manual_seed(1))
    assert found.shape == images.shape and found.dtype == torch.uint8
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (2, 2), (2, 2)])
    seen = set()
    for image, before in zip(found.numpy(), padded, strict=True):
        moves = [(y, x, flip) for y in range(5) for x in range(5) for flip in (1, -1)
                 if np.array_equal(before[:, y:y + 6, x:x + 5][:, :, ::flip], image)]
        assert moves
        seen |= set(moves)
    assert {move[2] for move in seen} == {1, -1} and {move[0] for move in seen} == set(range(5))


def test_augmentation_is_that_of_its_seed():
    data, images = dataset(shift=1, flip=True), stack()
    first, again, other = (data.augment(images, torch.Generator().manual_seed(seed))
                           for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(dataset().augment(images, torch.Generator()), images)


def test_normalization():
    data = dataset(levels=10, mean=(1.0, 2.0), std=(2.0, 4.0))
    found = data.normalize(stack(1))
    assert found.dtype == torch.float32
    assert found[0, :, 0, 0].tolist() == pytest.approx([(0.1 - 1) / 2, (10.1 - 2) / 4])


def test_validation_images_are_held_out():
    data, whole = load_dataset("digits", validation=100), load_dataset("digits")
    assert (len(data.train), len(data.validation), len(data.test)) == (1247, 100, 450)
    assert len(whole.train) == 1347 and len(whole.validation) == 0
    rows = [{image.tobytes() for image in split.images.numpy()}
            for split in (data.train, data.validation, whole.train)]
    assert not rows[0] & rows[1] and rows[0] | rows[1] == rows[2]
    assert torch.equal(data.validation.labels, load_dataset("digits", validation=100)
                       .validation.labels)
    assert data.describe() == ("digits: 1,247 training, 100 validation and 450 test images of "
                               "1x8x8")
    assert len(data.test.first(7)) == 7 and whole.unit(whole.train.images).max() == 1


@pytest.mark.parametrize("name,validation,sentence", [
    ("imagenet", None, "There is no data set 'imagenet'; there are cifar10, digits, mnist"),
    ("digits", 1346, "Validation images of digits must be in 0..1345, not 1346"),
])
def test_errors(name, validation, sentence):
    with pytest.raises(UserError) as error:
        load_dataset(name, validation=validation)
    assert str(error.value) == sentence


@needs_mnist
def test_official_mnist():
    data = load_dataset("mnist", DATA)
    assert (len(data.train), len(data.validation), len(data.test)) == (55000, 5000, 10000)
    assert torch.bincount(data.test.labels)[:3].tolist() == [980, 1135, 1032]
    values = data.normalize(data.train.images[:2000])
    assert abs(float(values.mean())) < 0.02 and abs(float(values.std()) - 1) < 0.02


@needs_cifar
def test_official_cifar10():
    data = load_dataset("cifar10", DATA)
    assert (len(data.train), len(data.validation)) == (45000, 5000) and data.shape == (3, 32, 32)
    assert torch.bincount(data.validation.labels).min() > 400
