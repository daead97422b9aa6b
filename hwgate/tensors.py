"""Files of named tensors in the safetensors format."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hwgate.artifacts import write_atomic
from hwgate.errors import UserError

__all__ = ["read_safetensors", "write_safetensors"]

_TYPES = {"BOOL": torch.bool, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64,
          "I64": torch.int64, "U8": torch.uint8}

_NAMES = {dtype: name for name, dtype in _TYPES.items()}

#: Data begins at a multiple of so many bytes.
_ALIGNMENT = 8


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file by name, and its metadata.

    Raises
    ------
    UserError
        If the file is missing or has another format.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"Weights file {path} cannot be read: {error.strerror}") from None
    try:
        size = int.from_bytes(raw[:8], "little")
        if len(raw) < 8 + size:
            raise ValueError
        header = json.loads(raw[8:8 + size])
        metadata = dict(header.pop("__metadata__", None) or {})
        return {name: _tensor(raw, 8 + size, entry) for name, entry in header.items()}, metadata
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        raise UserError(f"File {path} is no safetensors file of float, 64-bit, byte or bool "
                        "tensors") from None


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor],
                      metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, whole or not at all.

    Parameters
    ----------
    tensors : mapping
        Of float16, 32, 64, int64, uint8 or bool.
    metadata : mapping of str to str, optional

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, at = [], 0
    # The largest elements first, so that each tensor is aligned to its own.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(),
                                                                  item[0])):
        data = tensor.detach().cpu().contiguous().numpy().tobytes()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    write_atomic(path, len(text).to_bytes(8, "little") + text + b"".join(parts))


def _tensor(raw: bytes, start: int, entry: Mapping[str, list[int]]) -> Tensor:
    """The tensor that an entry of the header describes."""
    shape, (begin, end) = torch.Size(entry["shape"]), entry["data_offsets"]
    dtype = _TYPES[str(entry["dtype"])]
    count = shape.numel()
    if not 0 <= begin <= end <= len(raw) - start or count * dtype.itemsize != end - begin:
        raise ValueError
    if not count:
        return torch.zeros(shape, dtype=dtype)
    data = np.frombuffer(raw, np.uint8, end - begin, start + begin).copy()
    return torch.from_numpy(data).view(dtype).reshape(shape)
