"""Files in the safetensors format, written and read."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hwgate import zoo
from hwgate.errors import UserError
from hwgate.files.tensors import read_safetensors, write_safetensors

HEADER = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"x":"y"}}'
VALUES = np.array([1, -2], np.float32).tobytes()


def test_a_file_by_hand(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(HEADER).to_bytes(8, "little") + HEADER + VALUES)
    tensors, metadata = read_safetensors(path)
    assert {name: t.tolist() for name, t in tensors.items()} == {"a": [1, -2]}
    assert metadata == {"x": "y"}


def test_what_is_written_is_read(tmp_path):
    tensors = {
        "flags": torch.tensor([True, False, True]), "step": torch.tensor(7),
        "half": torch.randn(3).half(), "weight": torch.randn(2, 3, 1, 1),
        "turned": torch.arange(6).reshape(2, 3).T, "exact": torch.randn(2).double(),
        "state": torch.arange(5, dtype=torch.uint8), "none": torch.zeros(0, 4)}
    path = tmp_path / "folder" / "all.safetensors"
    write_safetensors(path, tensors, {"recipe": "text"})
    found, metadata = read_safetensors(path)
    assert metadata == {"recipe": "text"} and set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    size = int.from_bytes(path.read_bytes()[:8], "little")
    assert size % 8 == 0
    write_safetensors(path, {})
    assert read_safetensors(path) == ({}, {})


@pytest.mark.parametrize("raw", [
    b"", b"12345678{}", b"\x02" + bytes(7) + b"[]", len(HEADER).to_bytes(8, "little") + HEADER,
    len(HEADER).to_bytes(8, "little") + HEADER.replace(b"[2]", b"[1]") + VALUES,
    len(HEADER).to_bytes(8, "little") + HEADER.replace(b"F32", b"F99") + VALUES], ids=len)
def test_bad_files(tmp_path, raw):
    path = tmp_path / "bad"
    path.write_bytes(raw)
    with pytest.raises(UserError) as error:
        read_safetensors(path)
    assert str(error.value) == f"File {path} is no safetensors file"


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match="^Weights file .* cannot be read: No such file"):
        read_safetensors(tmp_path / "x")


def test_files_written_before_the_library_was_used():
    """Headers padded with blanks, the largest elements first; the zoo's are such files."""
    header = (b'{"__metadata__": {"recipe": "{}"}, "b": {"dtype": "I64", "shape": [], '
              b'"data_offsets": [0, 8]}, "a": {"dtype": "F32", "shape": [1, 2], '
              b'"data_offsets": [8, 16]}}')
    header += b" " * (-len(header) % 8)
    raw = len(header).to_bytes(8, "little") + header + (5).to_bytes(8, "little") + VALUES
    tensors, metadata = _read(raw)
    assert tensors["a"].tolist() == [[1, -2]] and tensors["b"] == 5
    assert metadata == {"recipe": "{}"}


@pytest.mark.parametrize("name", [
    name for name in zoo.trained() if (zoo.path(name) / "model.safetensors").is_file()])
def test_files_of_the_zoo(name):
    tensors, metadata = read_safetensors(zoo.path(name) / "model.safetensors")
    assert set(metadata) == {"recipe"}
    assert any(tensor.ndim == 4 and tensor.dtype == torch.float32 for tensor in tensors.values())


def test_tied_weights_are_written_one_by_one(tmp_path):
    weight = torch.arange(4.0)
    write_safetensors(tmp_path / "tied", {"a": weight, "b": weight, "c": weight[1:]})
    found, _ = read_safetensors(tmp_path / "tied")
    assert found["a"].tolist() == found["b"].tolist() == [0, 1, 2, 3]
    assert found["c"].tolist() == [1, 2, 3]


def _read(raw):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(raw)
        return read_safetensors(path)
