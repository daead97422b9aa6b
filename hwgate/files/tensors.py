"""Files of named tensors in the safetensors format."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hwgate.errors import UserError
from hwgate.files.atomic import write_atomic

__all__ = ["read_safetensors", "write_safetensors"]


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file by name, and its metadata.

    Raises
    ------
    UserError
        If the file is missing or has another format.
    """
    try:
        Path(path).open("rb").close()  # the library's own errors do not say why in one word
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, ValueError) as error:  # a name may hold what no name can
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Weights file {path} cannot be read: {reason}") from None
    except SafetensorError:
        raise UserError(f"File {path} is no safetensors file") from None


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor],
                      metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, whole or not at all.

    Parameters
    ----------
    tensors : mapping
        Tensors that share memory are written one by one.
    metadata : mapping of str to str, optional

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
           for name, tensor in tensors.items()}
    write_atomic(path, save(own, dict(metadata) if metadata else None))
