"""What each field of an integer layer must be, declared once: for layers made by hand, and for
those of an archive, which keeps arrays apart from all else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np

from hwgate.errors import CompileError, shown
from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.layouts import Field, descriptor_layout, header_layout

from .layer import QuantizedLayer
from .requantize import SHIFTS

__all__ = ["ARRAYS", "FIELDS", "Array", "Rule", "check_fields"]

#: Smallest and largest integer of a field, for an accelerator.
Limits = Callable[[AcceleratorConfig], tuple[int, int]]

#: What no step of activations reaches.
_LARGEST = 1e30

#: Characters of the longest name.
_LONGEST = 255

#: Indices of layers, which the network checks against each other.
_INDEX = (-(1 << 31), (1 << 31) - 1)


class Rule(Protocol):
    """What a field may be."""

    def words(self, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str:
        """What it must be, as a sentence says it. ``sizes`` has the extents that are known."""

    def wrong(self, value: Any, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str | None:
        """What a value is instead, or None."""


@dataclass(frozen=True)
class Array:
    """A NumPy array of one type.

    Parameters
    ----------
    dtype : str
    shape : str
        Names of its extents. Those that are known (``Co``, ``Ci``) and numbers must be kept.
    limits : callable, optional
    optional : bool
        None stands for no array.
    """

    dtype: str
    shape: str
    limits: Limits | None = None
    optional: bool = False

    def words(self, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str:
        shape = ", ".join(str(sizes.get(part, part)) for part in self.shape.split())
        text = f"{self.dtype} ({shape})"
        if self.limits is not None:
            low, high = self.limits(config)
            text += f" in {low}..{high}"
        return text + (" or None" if self.optional else "")

    def wrong(self, value: Any, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str | None:
        if value is None and self.optional:
            return None
        if not isinstance(value, np.ndarray):
            return shown(value)
        wanted = [sizes.get(part) or (int(part) if part.isdigit() else None)
                  for part in self.shape.split()]
        fits = len(wanted) == value.ndim and value.size > 0 and all(
            size in (None, found) for size, found in zip(wanted, value.shape, strict=True))
        if value.dtype != np.dtype(self.dtype) or not fits:
            return f"{value.dtype} ({', '.join(map(str, value.shape))})"
        if self.limits is not None:
            low, high = self.limits(config)
            if value.min() < low or value.max() > high:
                place = np.argwhere((value < low) | (value > high))[0]
                return f"{value[tuple(place)]} at ({', '.join(map(str, place))})"
        return None


@dataclass(frozen=True)
class Integer:
    """An integer, or None if optional."""

    low: int
    high: int
    optional: bool = False

    def words(self, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str:
        return f"an integer in {self.low}..{self.high}" + (" or None" if self.optional else "")

    def wrong(self, value: Any, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str | None:
        if value is None and self.optional:
            return None
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return None if whole and self.low <= value <= self.high else shown(value)


@dataclass(frozen=True)
class Integers:
    """A tuple of integers: of ``count``, or of at least one."""

    low: int
    high: int
    count: int | None = None

    def words(self, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str:
        many = "integers" if self.count is None else f"{self.count} integers"
        return f"a tuple of {many} in {self.low}..{self.high}"

    def wrong(self, value: Any, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str | None:
        if not isinstance(value, tuple):
            return shown(value)
        if not value or self.count not in (None, len(value)):
            return f"{len(value)} of them"
        one = Integer(self.low, self.high)
        return next((found for part in value if (found := one.wrong(part, config, sizes))), None)


@dataclass(frozen=True)
class Either:
    """What one of two rules allows."""

    one: Rule
    other: Rule

    def words(self, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str:
        return f"{self.one.words(config, sizes)} or {self.other.words(config, sizes)}"

    def wrong(self, value: Any, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str | None:
        rule = self.other if isinstance(value, tuple) else self.one
        return rule.wrong(value, config, sizes)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def words(self, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str:
        return "true or false"

    def wrong(self, value: Any, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str | None:
        return None if isinstance(value, (bool, np.bool_)) else shown(value)


@dataclass(frozen=True)
class Scale:
    """A real value of one step."""

    def words(self, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str:
        return f"a number above 0 and below {_LARGEST:g}"

    def wrong(self, value: Any, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str | None:
        number = isinstance(value, Real) and not isinstance(value, bool)
        return None if number and 0 < value < _LARGEST else shown(value)


@dataclass(frozen=True)
class Text:
    """A text of one line."""

    def words(self, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str:
        return f"a text of 1..{_LONGEST} characters"

    def wrong(self, value: Any, config: AcceleratorConfig, sizes: Mapping[str, int]) -> str | None:
        fits = isinstance(value, str) and 1 <= len(value) <= _LONGEST and value.isprintable()
        return None if fits else shown(value)


_DESCRIPTOR = {field.name: field for field in descriptor_layout().fields}


def _range(field: Field) -> tuple[int, int]:
    """Smallest and largest value that a field of the hardware holds."""
    return -(1 << field.bits - 1) if field.signed else 0, (1 << field.bits - field.signed) - 1


def _header(name: str) -> Limits:
    """Those of a field of a job header."""
    return lambda config: next(_range(field) for field in header_layout(config).fields
                               if field.name == name)


def _weights(config: AcceleratorConfig) -> tuple[int, int]:
    return config.formats.limits(config.formats.weight)


def _factors(config: AcceleratorConfig) -> tuple[int, int]:
    return config.formats.limits(config.formats.multiplier)


#: The fields of a layer, in an order in which the extents of an array are known before it. What
#: they must be to each other, :mod:`hwgate.quant.checks` says.
FIELDS: dict[str, Rule] = {
    "name": Text(),
    "in_shape": Integers(1, _range(_DESCRIPTOR["in_width"])[1], 3),
    "weight": Array("int8", "outputs inputs K K", _weights),
    "base": Array("bool", "Co Ci"),
    "threshold": Array("int64", "gates", _header("threshold"), optional=True),
    "bias": Array("int64", "Co 2", _header("bias_open")),
    "mult": Array("int64", "Co 2", _factors),
    "shift": Array("int64", "Co", lambda config: SHIFTS),
    "padding": Either(Integer(*_range(_DESCRIPTOR["pad"])),
                      Integers(*_range(_DESCRIPTOR["pad"]), 4)),
    "stride": Integer(0, 255),
    "relu": Flag(),
    "pool": Integer(1, _range(_DESCRIPTOR["pool"])[1]),
    "reduce": Flag(),
    "in_scale": Scale(),
    "out_scale": Scale(),
    "source": Either(Integer(*_INDEX, optional=True), Integers(*_INDEX)),
    "residual": Integer(*_INDEX, optional=True),
    "mult_residual": Array("int64", "channels", optional=True),
    "residual_stride": Integer(0, _range(_DESCRIPTOR["res_step"])[1]),
    "residual_offset": Integer(*_INDEX),
    "relu_first": Flag(),
    "limit": Integer(*_INDEX),
    "score": Array("int8", "gates inputs K K", _weights, optional=True),
    "gate": Array("int64", "channels", optional=True),
    "fan_in": Integer(1, _INDEX[1], optional=True),
}

#: Those that are arrays.
ARRAYS: dict[str, Array] = {name: rule for name, rule in FIELDS.items() if isinstance(rule, Array)}


def check_fields(layer: QuantizedLayer, config: AcceleratorConfig) -> None:
    """Raise unless every field of a layer has its type, shape and range by itself.

    Raises
    ------
    CompileError
        Names the layer, the field, the rule and the value.
    """
    sizes: dict[str, int] = {}
    for name, rule in FIELDS.items():
        found = rule.wrong(getattr(layer, name), config, sizes)
        if found is not None:
            what = "A layer" if name == "name" else f"Layer {layer.name!r}"
            raise CompileError(f"{what} must have a field {name!r} that is "
                               f"{rule.words(config, sizes)}, not {found}")
        if name == "in_shape":
            sizes["Ci"] = layer.in_shape[0]
        if name == "weight":
            sizes["Co"] = len(layer.weight)
            if layer.score is None and layer.gate is None:  # each channel has its own gate
                sizes["gates"] = len(layer.weight)
