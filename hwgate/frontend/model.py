"""The user's model: unwrapped, run as it is, and given back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram

from hwgate.errors import CompileError, UserError, reason, shown
from hwgate.nn import running
from hwgate.nn.running import kind

from .calibrate import batches

__all__ = ["evaluating", "reference", "unwrap"]


def unwrap(model: Any) -> nn.Module | ExportedProgram:
    """The module inside of wrappers that compute the same.

    Raises
    ------
    UserError
        For what is no model.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = model._orig_mod
        else:
            break
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("A ScriptModule cannot be read; give the module that it was made of")
    if not isinstance(model, (nn.Module, ExportedProgram)):
        raise UserError(f"A model must be a torch module or an exported program, not "
                        f"{shown(model)}")
    parts = model.named_modules() if isinstance(model, nn.Module) else ()
    for name, part in parts:
        if isinstance(part, torch.jit.ScriptModule):
            raise UserError(f"Layer {name!r} is a ScriptModule, which cannot be read; give the "
                            "module that it was made of")
    return model


@contextmanager
def evaluating(model: nn.Module | ExportedProgram) -> Iterator[None]:
    """Evaluation mode of what has modes; afterwards a model is what it was, see
    :func:`hwgate.nn.running.evaluating`."""
    with nullcontext() if isinstance(model, ExportedProgram) else running.evaluating(model):
        yield


def reference(model: nn.Module | ExportedProgram, images: NDArray[Any]) -> Tensor:
    """What a model itself computes for a batch in evaluation mode, in its own precision.

    Raises
    ------
    UserError
        If it does not run on images of this shape, or does not return one tensor.
    """
    module = model.module() if isinstance(model, ExportedProgram) else model
    dtype, device = kind(model)
    shape, count, fixed = images.shape, len(images), _batch_size(model)
    # Runs whole batches only, or two images and more: an axis of one may be squeezed away.
    images = np.concatenate([images, np.repeat(images[-1:], -count % (fixed or 2), axis=0)])
    found = []
    with evaluating(model):
        try:
            with torch.no_grad():
                for batch in batches(images, fixed):
                    found.append(module(batch.to(device, dtype, copy=True)))
        except Exception as error:  # whatever the user's forward does
            raise UserError(f"The model does not run on calibration images of the shape "
                            f"{shape}: {reason(error)}") from error
    if not all(isinstance(value, Tensor) for value in found):
        raise CompileError(f"Model {type(model).__name__} must return one tensor, the output of "
                           "its last layer")
    return torch.cat([torch.atleast_1d(value) for value in found])[:count].double().cpu()


def _batch_size(model: nn.Module | ExportedProgram) -> int | None:
    """Images that a model takes at a time, if it takes only so many: an exported program's."""
    if not isinstance(model, ExportedProgram) or model.range_constraints:
        return None
    inputs = set(model.graph_signature.user_inputs)
    return next((int(node.meta["val"].shape[0]) for node in model.graph.nodes
                 if node.name in inputs and isinstance(node.meta.get("val"), Tensor)), None)
