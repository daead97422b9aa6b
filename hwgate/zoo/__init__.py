"""Trained networks that come with hwgate: integer weights, the float model, and what made them.

Each has a folder with ``network.npz`` (integers), ``model.safetensors`` (float), ``recipe.toml``,
``log.jsonl`` and ``results.json``, as ``hwgate train`` wrote them.
"""

import json
from pathlib import Path
from typing import Any

from hwgate.artifacts import load_network
from hwgate.errors import UserError
from hwgate.quant.network import QuantizedNetwork

__all__ = ["load", "names", "path", "results"]

_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Networks of the zoo."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob("*/network.npz")))


def load(name: str) -> QuantizedNetwork:
    """A network of the zoo, ready to compile.

    Raises
    ------
    UserError
        If there is no network of that name.
    """
    return load_network(path(name) / "network.npz")


def results(name: str) -> dict[str, Any]:
    """Recipe, epochs, scores and versions of the training of a network of the zoo.

    Raises
    ------
    UserError
        If there is no network of that name.
    """
    found: dict[str, Any] = json.loads((path(name) / "results.json").read_text(encoding="utf-8"))
    return found


def path(name: str) -> Path:
    """Folder of a network of the zoo.

    Raises
    ------
    UserError
        If there is no network of that name.
    """
    if name not in names():
        raise UserError(f"The zoo has no network {name!r}; it has {', '.join(names())}")
    return _FOLDER / name
