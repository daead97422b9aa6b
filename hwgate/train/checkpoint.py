"""Checkpoints of a training: one file of tensors, with the state of everything else as metadata.

There is no state of random number generators to keep: every random choice of a training follows
from its seed, the epoch and the step (:func:`hwgate.train.training.train`), and the learning rate
from the step alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwgate.errors import UserError
from hwgate.files.tensors import read_safetensors, write_safetensors

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer,
                     identity: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
    """Write weights, momenta and progress, whole or not at all.

    Parameters
    ----------
    identity : mapping
        What a training must have in common to be continued.
    progress : mapping
        Where the training is; numbers, texts and lists.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, parameter in _parameters(optimizer):
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{number}"] = momentum
    write_safetensors(path, tensors, {"training": json.dumps(
        {"identity": identity, "progress": progress})})


def read_checkpoint(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer,
                    identity: Mapping[str, Any]) -> dict[str, Any]:
    """Put weights and momenta of a checkpoint back, and return its progress.

    Raises
    ------
    UserError
        If the file is no checkpoint, or one of another training; names the first difference.
    """
    tensors, metadata = read_safetensors(path)
    try:
        found = json.loads(metadata["training"])
        before, now = _flat(found["identity"]), _flat(identity)
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                raise UserError(f"Checkpoint {path} was made with {name} = {before.get(name)!r}, "
                                f"not {now.get(name)!r}; give another folder or the same recipe")
        model.load_state_dict({name.removeprefix("model."): tensor
                               for name, tensor in tensors.items() if name.startswith("model.")})
        for number, parameter in _parameters(optimizer):
            momentum = tensors.get(f"momentum.{number}")
            if momentum is not None:
                optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(
                    parameter).copy_(momentum)
        progress: dict[str, Any] = found["progress"]
    except UserError:
        raise
    except (AttributeError, KeyError, ValueError, RuntimeError, TypeError):
        raise UserError(f"File {path} is no checkpoint of this network") from None
    return progress


def _parameters(optimizer: torch.optim.Optimizer) -> list[tuple[int, torch.Tensor]]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return list(enumerate(parameters))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested entries by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
