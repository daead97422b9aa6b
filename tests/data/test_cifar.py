"""Reader of CIFAR-10: layout, packing, checksums, and what is missing."""

import hashlib
import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from hwgate.data import cifar
from hwgate.errors import UserError

DATA = os.environ.get("HWGATE_DATA", "")
needs_data = pytest.mark.skipif(
    not list(Path(DATA, "cifar10").glob("data_batch_1*")) if DATA else True,
    reason="needs the variable HWGATE_DATA, a folder with cifar10/data_batch_1.bin and others")


@pytest.fixture
def batch(monkeypatch):
    """Three random images in the official layout, taken for every official file."""
    rng = np.random.default_rng(0)
    labels, images = rng.integers(0, 10, 3), rng.integers(0, 256, (3, 3, 32, 32)).astype(np.uint8)
    raw = b"".join(bytes([label]) + image.tobytes()
                   for label, image in zip(labels, images, strict=True))
    digest = hashlib.sha1(raw).hexdigest()
    monkeypatch.setattr(cifar, "_DIGESTS", dict.fromkeys(cifar._DIGESTS, digest))
    return raw, images, labels


@pytest.mark.parametrize("folder", ["cifar10", "cifar-10-batches-bin", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_files_are_found(tmp_path, batch, folder, packed, monkeypatch):
    raw, images, labels = batch
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    for name in ("data_batch_2.bin", "data_batch_5.bin", "test_batch_first1000.bin"):
        (place / (name + ".xz" * packed)).write_bytes(lzma.compress(raw) if packed else raw)
    monkeypatch.setenv("HWGATE_DATA", str(tmp_path))
    found, classes = cifar.load_train(batches=(5, 2))
    assert found.dtype == np.uint8 and found.shape == (6, 3, 32, 32) and classes.dtype == np.int64
    np.testing.assert_array_equal(found, np.concatenate([images, images]))
    np.testing.assert_array_equal(classes, np.concatenate([labels, labels]))
    np.testing.assert_array_equal(cifar.load_test(tmp_path)[0], images)


def test_all_test_images_are_preferred(tmp_path, batch):
    raw, images, _ = batch
    (tmp_path / "test_batch_first1000.bin").write_bytes(b"not read")
    (tmp_path / "test_batch.bin").write_bytes(raw)
    np.testing.assert_array_equal(cifar.load_test(tmp_path)[0], images)


def test_images_are_normalized():
    images = np.zeros((2, 3, 32, 32), np.uint8)
    images[:, 1] = 255
    found = cifar.normalize(images, (0.5, 0.25, 0.1), (0.5, 0.25, 0.2))
    assert found.dtype == np.float32
    assert found[:, :, 0, 0].tolist() == [[-1, 3, pytest.approx(-0.5)]] * 2


def test_files_that_are_missing(tmp_path, monkeypatch):
    with pytest.raises(UserError) as error:
        cifar.load_test(tmp_path)
    assert str(error.value) == (
        f"Folder {tmp_path} has no CIFAR-10 file test_batch.bin or test_batch_first1000.bin, "
        "plain, .gz or .xz, itself or in cifar10 or cifar-10-batches-bin; take the binary version "
        "of https://www.cs.toronto.edu/~kriz/cifar.html")
    monkeypatch.delenv("HWGATE_DATA", raising=False)
    with pytest.raises(UserError) as error:
        cifar.load_train()
    assert str(error.value) == ("CIFAR-10 needs the variable HWGATE_DATA, a folder with "
                                "data_batch_1.bin of https://www.cs.toronto.edu/~kriz/cifar.html")


def test_files_that_are_others(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(b"x")
    with pytest.raises(UserError) as error:
        cifar.load_train(tmp_path, [1])
    assert str(error.value) == (
        f"File {tmp_path}/data_batch_1.bin must be the official one of "
        "https://www.cs.toronto.edu/~kriz/cifar.html with SHA-1 "
        "aadd24acce27caa71bf4b10992e9e7b2d74c2540, not 11f6ad8ec52a2984abaafd7c3b516503785c2072")
    (tmp_path / "data_batch_2.bin.xz").write_bytes(b"x")
    with pytest.raises(UserError, match="^File .*data_batch_2.bin.xz cannot be read: "):
        cifar.load_train(tmp_path, [2])


@pytest.mark.parametrize("batches,sentence", [
    ((6,), "A training batch of CIFAR-10 must be one of 1..5, not 6"),
    ((), "At least one training batch of CIFAR-10 must be read, not 0"),
])
def test_batches_that_do_not_exist(tmp_path, batches, sentence):
    with pytest.raises(UserError) as error:
        cifar.load_train(tmp_path, batches)
    assert str(error.value) == sentence


@needs_data
def test_official_files():
    images, labels = cifar.load_train(batches=[1])
    assert images.shape == (10000, 3, 32, 32)
    assert np.bincount(labels)[:3].tolist() == [1005, 974, 1032]
    assert cifar.CLASSES[labels[0]] == "frog"
