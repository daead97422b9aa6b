"""Which buffers layers need: what one lacks, and the smallest configuration that runs them all."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

from hwgate.machine.config import PRESETS, AcceleratorConfig, ConfigError
from hwgate.machine.layouts import descriptor_layout
from hwgate.plan.geometry import (
    Lack,
    Shape,
    Tiling,
    bands_or_lack,
    describe,
    map_lack,
)
from hwgate.quant.layer import QuantizedLayer

__all__ = ["FIELDS", "Placed", "changed_fields", "described", "lack_of", "presets_by_size",
           "smallest", "widest"]

#: Fields of ``buffers`` that decide whether a layer fits.
FIELDS = ("passes", "window_words", "pixels", "output_words")


class Placed(NamedTuple):
    """A layer, and the shape of its residual operand if it has one."""

    layer: QuantizedLayer
    residual: Shape | None


def lack_of(placed: Placed, config: AcceleratorConfig) -> Lack | None:
    """What a layer needs and a configuration lacks; None if it fits in some bands of rows.

    A layer with a tau, which counts the open gates of whole maps, must fit in one band.
    """
    found = bands_or_lack(*placed, config)
    if isinstance(found, Lack):
        return found
    if placed.layer.limit and len(found) > 1:
        return map_lack(*placed, config)
    return None


def described(placed: Placed, config: AcceleratorConfig) -> str:
    """Why a layer that fits the buffers has no descriptor; empty if it has one.

    Descriptors have fields of fixed widths, which very large maps exceed.
    """
    bands = bands_or_lack(*placed, config)
    assert not isinstance(bands, Lack)
    try:
        descriptor_layout().pack(describe(*placed, config, Tiling(bands)))
    except ValueError as error:
        return str(error)
    return ""


def smallest(layers: Sequence[Placed], config: AcceleratorConfig) -> AcceleratorConfig | None:
    """The configuration with the fields of :data:`FIELDS` raised, no further than all layers need.

    None of them can be lowered, unless it is as in ``config``, without a layer that does not fit.

    Returns
    -------
    AcceleratorConfig or None
        ``config`` itself if all layers fit it; None if a layer does not even fit the largest
        buffers that a configuration may have.
    """
    lacking = [placed for placed in layers if lack_of(placed, config) is not None]
    found = widest(config)
    if any(lack_of(placed, found) is not None for placed in lacking):
        return None
    for field in FIELDS:
        for value in _values(config, field):
            lower = _with(found, field, value)
            if all(lack_of(placed, lower) is None for placed in lacking):
                found = lower
                break
    return found if lacking else config


def widest(config: AcceleratorConfig) -> AcceleratorConfig:
    """The configuration with the fields of :data:`FIELDS` as large as they may be."""
    for field in FIELDS:
        config = _with(config, field, max(_values(config, field)))
    return config


def changed_fields(before: AcceleratorConfig, after: AcceleratorConfig) -> dict[str, int]:
    """Fields of ``buffers`` that differ, and their values in ``after``."""
    old = asdict(before.buffers)
    return {name: value for name, value in asdict(after.buffers).items() if value != old[name]}


def presets_by_size() -> list[str]:
    """Names of the presets: fewest multipliers first, then smallest buffers."""
    return sorted(PRESETS, key=lambda name: (
        PRESETS[name].multipliers, sum(asdict(PRESETS[name].buffers).values())))


def _values(config: AcceleratorConfig, field: str) -> Iterator[int]:
    """What a field may be, from its value in ``config`` up."""
    value = getattr(config.buffers, field)
    while True:
        yield value
        value *= 2
        try:
            _with(config, field, value)
        except ConfigError:
            return


def _with(config: AcceleratorConfig, field: str, value: int) -> AcceleratorConfig:
    return replace(config, buffers=replace(config.buffers, **{field: value}))
