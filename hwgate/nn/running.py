"""A user's module is run, traced and copied, and stays as it was."""

import copy
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hwgate.errors import UserError, expect, reason

__all__ = ["copied", "evaluating", "kind", "one_mode", "outputs", "rounding"]

#: Containers that are given back with what they held.
_CONTAINERS = (list, deque, dict, OrderedDict, defaultdict, Counter, set)


@contextmanager
def one_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every submodule has the mode that it had."""
    before = [(module, module.training) for module in model.modules()]
    try:
        with suppress(NotImplementedError):  # a module of an exported program has one mode
            model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every submodule is what it was, whatever its forward has set:
    its attributes, the lists, dictionaries and sets among them, and the values of tensors."""
    tensors, containers = [], []
    for value in _held(model):
        if isinstance(value, Tensor):
            tensors.append((value, value.detach().clone()))
        else:
            containers.append((value, copy.copy(value)))
    try:
        with one_mode(model):
            yield
    finally:
        for container, values in containers:
            container.clear()
            (container.update if hasattr(container, "update") else container.extend)(values)
        for tensor, value in tensors:
            if not torch.equal(tensor, value):
                tensor.data.copy_(value)


def _held(model: nn.Module) -> Iterator[Any]:
    """Containers, attributes of modules first among them, and tensors that a model holds."""
    seen: set[int] = set()
    waiting: list[Any] = [model]
    while waiting:
        value = waiting.pop()
        value = vars(value) if isinstance(value, nn.Module) else value
        if id(value) in seen:
            continue
        if isinstance(value, Tensor):
            if not (is_lazy(value) or value.is_meta or value.is_sparse):
                seen.add(id(value))
                yield value
        elif type(value) in _CONTAINERS or isinstance(value, tuple):
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
            if not isinstance(value, tuple):
                yield value


def outputs(model: nn.Module, images: Tensor) -> Any:
    """What a model computes in evaluation mode, in its own precision, without gradients.

    Raises
    ------
    UserError
        If it does not run on the images.
    """
    expect("Model", model, nn.Module)
    expect("Images", images, Tensor, hint="torch.as_tensor makes one of an array")
    try:
        with torch.no_grad(), one_mode(model):
            return model(images)
    except UserError:
        raise
    except Exception as error:  # whatever the user's forward does
        raise UserError(f"The model does not run on images of the shape {tuple(images.shape)}: "
                        f"{reason(error)}") from error


def copied(model: nn.Module, replaced: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """A copy, of computed tensors such as pruned weights as well.

    Parameters
    ----------
    model : Module
    replaced : mapping, optional
        Modules of it and what stands for each in the copy, wherever the model holds it or its
        parameters.

    Raises
    ------
    UserError
        If it holds what cannot be copied.
    """
    memo: dict[int, Any] = {id(value): value.detach().clone() for module in model.modules()
                            for value in vars(module).values() if isinstance(value, Tensor)}
    for module, made in (replaced or {}).items():
        memo[id(module)] = made
        memo |= {id(value): made.get_parameter(name)
                 for name, value in module.named_parameters(recurse=False)}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever an attribute of the user's does
        raise UserError(f"Model {type(model).__name__} cannot be copied ({reason(error)}); take "
                        "what cannot be copied out of its attributes") from error


def kind(model: Any) -> tuple[torch.dtype, torch.device]:
    """Type and device of the images that a model or an exported program takes."""
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    return first.dtype, first.device


def rounding(dtype: torch.dtype) -> float:
    """What two ways to compute the same may differ by, added up, as a share of the largest value.
    """
    return {torch.float64: 1e-6, torch.float32: 1e-3}.get(dtype, 5e-2)
