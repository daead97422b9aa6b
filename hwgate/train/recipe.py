"""Recipes: everything that decides what a training yields, in one file."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from hwgate.errors import UserError, expect
from hwgate.train.recipe_parts import (
    DataPart,
    GatePart,
    HardwarePart,
    LossPart,
    NetworkPart,
    OptimizerPart,
    QuantizePart,
)

__all__ = ["Recipe", "load_recipe", "recipe_names"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is made, from data to integers.

    Parameters
    ----------
    network, data, gate, loss, optimizer, hardware, quantize
        The parts.
    seed : int
        Of the initial weights, the order of the images, augmentation, and the split of digits.
    threads : int
        Of the processor. On small maps, more of them mostly wait for each other.
    """

    network: NetworkPart = field(default_factory=NetworkPart)
    data: DataPart = field(default_factory=DataPart)
    gate: GatePart = field(default_factory=GatePart)
    loss: LossPart = field(default_factory=LossPart)
    optimizer: OptimizerPart = field(default_factory=OptimizerPart)
    hardware: HardwarePart = field(default_factory=HardwarePart)
    quantize: QuantizePart = field(default_factory=QuantizePart)
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for what, value, least in (("Seed", self.seed, 0), ("Thread count", self.threads, 1)):
            if value < least:
                raise UserError(f"{what} must be at least {least}, not {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Inverse of :meth:`to_dict`; what is left out has its default.

        Raises
        ------
        UserError
            For an unknown name, a value of another type or out of range.
        """
        expect("Recipe", values, Mapping)
        made: dict[str, Any] = {}
        for name, value in values.items():
            part = _PARTS.get(name)
            if part is None and name not in ("seed", "threads"):
                raise _unknown(name, (*_PARTS, "seed", "threads"))
            if part is None:
                made[name] = _typed(name, value, 0)
            elif not isinstance(value, Mapping):
                raise UserError(f"Recipe entry {name!r} must be a section, not {value!r}")
            else:
                defaults = asdict(part())
                for key in value:
                    if key not in defaults:
                        raise _unknown(f"{name}.{key}", tuple(f"{name}.{k}" for k in defaults))
                made[name] = part(**{key: _typed(f"{name}.{key}", v, defaults[key])
                                     for key, v in value.items()})
        return cls(**made)

    def changed(self, values: Mapping[str, Any]) -> "Recipe":
        """The recipe with entries such as ``gate.groups`` replaced.

        Raises
        ------
        UserError
            As :meth:`from_dict`.
        """
        nested = self.to_dict()
        for path, value in values.items():
            section, _, key = path.rpartition(".")
            if section and section not in _PARTS:
                raise _unknown(path, (*(f"{name}.*" for name in _PARTS), "seed", "threads"))
            (nested[section] if section else nested)[key] = value
        return self.from_dict(nested)

    def to_toml(self) -> str:
        """Text of a file that :func:`load_recipe` reads."""
        values = self.to_dict()
        lines = [f"{name} = {_literal(value)}" for name, value in values.items()
                 if name not in _PARTS]
        for name in _PARTS:
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {_literal(value)}" for key, value in values[name].items()]
        return "\n".join(lines) + "\n"


_PARTS: dict[str, Any] = {f.name: f.default_factory for f in fields(Recipe)
                          if f.name not in ("seed", "threads")}


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that come with hwgate."""
    folder = files("hwgate.train") / "recipes"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir()
                        if entry.name.endswith(".toml")))


def load_recipe(source: str | Path) -> Recipe:
    """A recipe by its name, that of a network of :mod:`hwgate.zoo`, or one from a TOML file.

    Raises
    ------
    UserError
        If there is none, or it is no recipe.
    """
    expect("Recipe to load", source, str, PathLike)
    name = str(source)
    trained = {entry.name: entry / "recipe.toml" for entry in (files("hwgate") / "zoo").iterdir()}
    if name in recipe_names():
        text = (files("hwgate.train") / "recipes" / f"{name}.toml").read_text()
    elif name in trained and trained[name].is_file():
        text = trained[name].read_text()
    else:
        try:
            text = Path(source).read_text()
        except (OSError, ValueError):
            raise UserError(f"There is no recipe or recipe file {name!r}; there are "
                            f"{', '.join(recipe_names())}") from None
    try:
        return Recipe.from_dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"Recipe file {name} is no TOML file: {error}") from None


def _typed(path: str, value: Any, default: Any) -> Any:
    """A value of the type of a default; integers pass for floats."""
    kind = type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        named = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
        raise UserError(f"Recipe entry {path!r} must be {named[kind]}, not {value!r}")
    return value


def _unknown(path: str, known: tuple[str, ...]) -> UserError:
    return UserError(f"There is no recipe entry {path!r}; there are {', '.join(known)}")


def _literal(value: Any) -> str:
    """A TOML value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
