"""A user's own model on the command line: where it is, and the images that it takes."""

import importlib
import importlib.util
import re
import sys
from os.path import isfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwgate.errors import UserError, reason

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Input", "Model", "Weights", "load_model", "parse_shape"]

Model = Annotated[str, typer.Argument(
    metavar="MODEL", help="`package.module:Name` or `file.py:Name`: a model, or a class or "
                          "function that makes one when it is called without arguments.")]
Input = Annotated[str, typer.Option(
    "--input", metavar="CxHxW", help="Shape of an image, such as 3x32x32, or of a vector, "
                                     "such as 8.")]
Weights = Annotated[Path | None, typer.Option(
    metavar="FILE", help="State dict of the model: .safetensors, or what torch.save has written, "
                         "of which tensors only are read.")]


def load_model(place: str, weights: Path | None = None) -> "nn.Module":
    """The model of a place, with weights if there are any.

    Parameters
    ----------
    place : str
        ``package.module:Name`` or ``file.py:Name``; modules of the current folder are found.
    weights : Path, optional
        State dict, or a dictionary with one under ``state_dict``.

    Raises
    ------
    UserError
        If there is no such place, it makes no model, or the weights are another model's.
    """
    from torch import nn

    source, _, name = place.partition(":")
    if not source or not name:
        raise UserError(f"A model is named package.module:Name or file.py:Name, not {place!r}")
    found: Any = _module(source)
    for part in name.split("."):
        if not hasattr(found, part):
            there = ", ".join(sorted(known for known in dir(found) if known[0] != "_"))
            raise UserError(f"There is no {part!r} in {source}; there are {there or 'no names'}")
        found = getattr(found, part)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except Exception as error:  # whatever the user's code does
            raise UserError(f"{place} cannot be called without arguments ({reason(error)}); name a "
                            "function that makes the model") from error
    if not isinstance(found, nn.Module):
        raise UserError(f"{place} must be or make a torch module, not a {type(found).__name__}")
    if weights is not None:
        _fill(found, weights)
    return found


def parse_shape(text: str) -> tuple[int, ...]:
    """(C, H, W) of a text such as ``3x32x32``, or (C,) of one such as ``8``.

    Raises
    ------
    UserError
        For another text.
    """
    if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8}){2}|[1-9]\d{0,8}", text):
        raise UserError("The shape of an image is written CxHxW, as 3x32x32, or C of a vector, as "
                        f"8, not {text!r}")
    return tuple(map(int, text.split("x")))


def _module(source: str) -> ModuleType:
    """A module by its name, or from its file."""
    path, here = Path(source), str(Path.cwd())
    if path.suffix == ".py" and not isfile(path):
        raise UserError(f"There is no file {source}")
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        if path.suffix != ".py":
            return importlib.import_module(source)
        spec = importlib.util.spec_from_file_location(f"user_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for it
        spec.loader.exec_module(module)
        return module
    except Exception as error:  # whatever the user's code does
        raise UserError(f"{source} cannot be imported ({reason(error)})") from error


def _fill(model: "nn.Module", weights: Path) -> None:
    """Load a state dict into a model."""
    import torch

    from hwgate.files.tensors import read_safetensors

    if weights.suffix == ".safetensors":
        state: Any = read_safetensors(weights)[0]
    else:
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except Exception as error:  # pickles fail in many ways
            raise UserError(f"Weights {weights} cannot be read ({reason(error)}); save a state "
                            "dict, best as .safetensors") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    try:
        model.load_state_dict(state)
    except Exception as error:  # names and shapes, in torch's own words
        text = " ".join(str(error).split())
        raise UserError(f"Weights {weights} are not those of {type(model).__name__}: "
                        f"{text[:200]}") from error
