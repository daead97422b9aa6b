"""Trained networks that come with hwgate: integer weights, the float model, and what made them.

Each has a folder as ``hwgate train`` wrote it: ``recipe.toml``, ``log.jsonl``, ``results.json``,
``network.npz`` (integers) and ``model.safetensors`` (float). Of a training that others start from
or are compared with, and of a large one, either or both may be left out.
"""

import json
from pathlib import Path
from typing import Any

from hwgate.errors import UserError, expect
from hwgate.files.networks import load_network
from hwgate.quant.network import QuantizedNetwork

__all__ = ["baseline", "epochs", "load", "names", "path", "results", "trained"]

_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Networks of the zoo that can be compiled and run."""
    return tuple(name for name in trained() if (_FOLDER / name / "network.npz").is_file())


def trained() -> tuple[str, ...]:
    """All trainings of the zoo, those whose networks are not part of it included."""
    return tuple(sorted(path.parent.name for path in _FOLDER.glob("*/results.json")))


def load(name: str) -> QuantizedNetwork:
    """A network of the zoo, ready to compile.

    Raises
    ------
    UserError
        If there is no network of that name.
    """
    return load_network(path(_known(name, names())) / "network.npz")


def results(name: str) -> dict[str, Any]:
    """Recipe, epochs, scores and versions of a training of the zoo.

    Raises
    ------
    UserError
        If there is no training of that name.
    """
    found: dict[str, Any] = json.loads((path(name) / "results.json").read_text(encoding="utf-8"))
    return found


def epochs(name: str) -> int:
    """Epochs that the weights of a training have seen, those of the trainings it starts from too.

    Fine-tuning of integers does not count: another start leaves it behind.

    Raises
    ------
    UserError
        If there is no training of that name, or it starts from one that the zoo does not have.
    """
    recipe, total = results(name)["recipe"], 0
    while True:
        total += recipe["optimizer"]["epochs"]
        start = recipe["loss"]["start"]
        if not start:
            return total
        recipe = results(Path(start).parent.name or start)["recipe"]


def baseline(name: str) -> str | None:
    """The training without gates that a gated one is compared with.

    It is of the same architecture, width and data, and trained for as many :func:`epochs`; if none
    is, for the fewest that are more; if none is, for the most.

    None for a network without gates, and if there is none.

    Raises
    ------
    UserError
        As :func:`epochs` raises it.
    """
    def kind(recipe: dict[str, Any]) -> tuple[Any, ...]:
        return recipe["network"]["name"], recipe["network"]["width"], recipe["data"]["name"]

    wanted = results(name)["recipe"]
    if not wanted["gate"]["groups"]:
        return None
    found = {other: epochs(other) for other in trained() for recipe in [results(other)["recipe"]]
             if not recipe["gate"]["groups"] and kind(recipe) == kind(wanted)}
    many = epochs(name)
    return min(found, key=lambda other: (found[other] < many, abs(found[other] - many)),
               default=None)


def path(name: str) -> Path:
    """Folder of a training of the zoo.

    Raises
    ------
    UserError
        If there is no training of that name.
    """
    return _FOLDER / _known(name, trained())


def _known(name: str, there: tuple[str, ...]) -> str:
    expect("Name of a network", name, str)
    if name not in there:
        raise UserError(f"The zoo has no network {name!r}; it has {', '.join(there)}")
    return name
