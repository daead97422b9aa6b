"""Exports a PyTorch model: a program of core ATen operators, whatever it is written like."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from hwgate.errors import CompileError, reason
from hwgate.frontend.model import evaluating
from hwgate.nn.gated import kept_whole
from hwgate.nn.running import kind

from .aten import shape_text

__all__ = ["exported"]

#: Operators that stay whole, where a decomposition would hide what they are.
_WHOLE = ("silu", "hardswish", "hardsigmoid", "gelu", "leaky_relu", "hardtanh", "prelu")

#: Images of the example that a model is exported with. Not one: that would be taken as a constant.
_EXAMPLE = 2


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, nobody sees what an export warns of, logs and prints: its error says what counts."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """How operators become those of the core, but for :data:`_WHOLE`; made once, for it is slow."""
    table = torch.export.default_decompositions()
    return {target: decompose for target, decompose in table.items()
            if target.name().split("::")[-1].split(".")[0] not in _WHOLE}


def exported(model: nn.Module | ExportedProgram,
             image_shape: tuple[int, ...]) -> ExportedProgram:
    """A program of core operators in evaluation mode.

    Parameters
    ----------
    model : Module or ExportedProgram
    image_shape : (C, H, W) or (C,)

    Raises
    ------
    CompileError
        If it cannot be exported for such images.
    """
    name, (dtype, device) = type(model).__name__, kind(model)
    try:
        example = torch.zeros(_EXAMPLE, *image_shape, dtype=dtype, device=device)
    except (RuntimeError, TypeError) as error:  # more memory, or a larger number, than there is
        raise CompileError(f"Images of the shape {shape_text(image_shape)} are too large to export "
                           f"model {name} with; use smaller ones") from error
    try:
        with _quiet(), evaluating(model), kept_whole(), torch.no_grad():
            if not isinstance(model, ExportedProgram):
                model = torch.export.export(model, (example,), strict=False)
            elif model.range_constraints:  # of any batch: sizes are symbols
                model = torch.export.export(model.module(), (example,), strict=False)
            return model.run_decompositions(dict(_decompositions()))
    except Exception as error:  # whatever the user's forward does
        raise CompileError(f"Model {name} cannot be exported for images of the shape "
                           f"{shape_text(image_shape)} ({reason(error)}); write its forward "
                           "without control flow that depends on values") from error
