"""What the compiler chose for each layer, the alternatives, and what they would cost."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from hwgate.compiler import Binding, Program
from hwgate.config import MemoryTiming
from hwgate.errors import CompileError, UserError
from hwgate.geometry import Band, map_bytes, shortage, split_rows
from hwgate.layouts import tiles_of
from hwgate.plan import LayerPlan
from hwgate.residency import uses
from hwgate.schedule import LayerSchedule, OpenPixels, schedule_layer
from hwgate.stored import ASSUMPTION
from hwgate.tiling import alternatives

__all__ = ["Alternative", "Explanation", "explain"]


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One way to run a layer, everything else as chosen.

    Parameters
    ----------
    layer : str
        Whose choice it is.
    choice : str
        What is chosen: ``"rows"``, ``"images"``, ``"output"`` or ``"zeros"``.
    alternative : str
        In words.
    bytes, cycles : int or None
        Off-chip traffic and time, of the layer, and for its output also of the layers that take it;
        None if it cannot be had.
    chosen : bool
    reason : str
        Why, or why not.
    """

    layer: str
    choice: str
    alternative: str
    bytes: int | None
    cycles: int | None
    chosen: bool
    reason: str


@dataclass(frozen=True)
class Explanation:
    """Alternatives of every layer of a program, in order.

    Parameters
    ----------
    alternatives : tuple of Alternative
    images : int
        In the batch.
    density : float
        Assumed share of open gates.
    cycles, bytes : int
        Of the whole program as chosen, without the fetch of its end.
    compressed : int
        Feature maps that are compressed.
    """

    alternatives: tuple[Alternative, ...]
    images: int
    density: float
    cycles: int
    bytes: int
    compressed: int = 0

    def assumptions(self) -> str:
        """What the figures stand for, in two lines."""
        gates = ("every gate open" if self.density == 1 else
                 f"{self.density:.0%} of the gates of each channel open, at even distances")
        if self.compressed:
            gates += f", {ASSUMPTION}"
        images = "1 image" if self.images == 1 else f"{self.images} images"
        return (f"Cost model, {images}, {gates}.\nBytes and cycles are those of the layer, and for "
                f"its output also those of the layers that take it.")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, ready for JSON."""
        return asdict(self)


def explain(program: Program, images: int = 1, timing: MemoryTiming | None = None,
            density: float = 1.0) -> Explanation:
    """Weigh the compiler's choices against their alternatives with the cost model.

    Parameters
    ----------
    program : Program
    images : int
        In the batch.
    timing : MemoryTiming, optional
    density : float
        Share of open gates to assume, 0..1.

    Raises
    ------
    UserError
        If a number is out of range, or the batch does not fit.
    """
    if not 0 <= density <= 1:
        raise UserError(f"Density must be in 0..1, not {density}")
    if images < 1:
        raise UserError(f"Image count must be at least 1, not {images}")
    costs = _Costs(program, images, timing or MemoryTiming(), density)
    found = tuple(alternative for index in range(len(program.plans))
                  for choices in _CHOICES for alternative in choices(costs, index))
    total = costs.of(costs.binding, range(len(program.plans)))
    return Explanation(found, images, density, total.cycles, total.bytes,
                       len(costs.binding.packed))


@dataclass(frozen=True)
class _Cost:
    bytes: int
    cycles: int

    def against(self, other: "_Cost") -> str:
        """What it adds to another."""
        parts = [f"{own - others:+,} {name}"
                 for name, own, others in (("bytes", self.bytes, other.bytes),
                                           ("cycles", self.cycles, other.cycles)) if own != others]
        return ", ".join(parts) or "no difference"


class _Costs:
    """Cost of layers of a program, however they are placed, under assumed decisions."""

    def __init__(self, program: Program, images: int, timing: MemoryTiming, density: float):
        self.program, self.timing, self.density = program, timing, density
        self.batch = np.zeros((images, *program.network.image_shape), np.int8)
        self.binding = program.bind(self.batch)

    @cached_property
    def before(self) -> list[LayerSchedule | None]:
        """Schedule of the layer before each one, as chosen."""
        ends: list[LayerSchedule | None] = [None]
        for index in range(len(self.program.plans)):
            ends.append(self._schedule(self.binding, index, ends[-1]))
        return ends

    def bind(self, chip: Mapping[int, int], plans: Mapping[int, LayerPlan] | None = None,
             per_tile: int | None = None, packed: Mapping[int, int] | None = None) -> Binding:
        """The batch with other maps on chip or compressed, some layers planned otherwise, other
        tiles."""
        plans = plans or {}
        return Binding(
            replace(self.program, plans=tuple(plans.get(index, plan) for index, plan
                                              in enumerate(self.program.plans)),
                    images_per_tile=per_tile or self.program.images_per_tile),
            self.batch, chip, packed)

    def of(self, binding: Binding, layers: Sequence[int]) -> _Cost:
        """Cost of some layers, each after the layer before it as chosen."""
        schedules = [self._schedule(binding, index, self.before[index]) for index in layers]
        return _Cost(sum(sum(schedule.bytes.values()) for schedule in schedules),
                     sum(schedule.cycles for schedule in schedules))

    def _schedule(self, binding: Binding, index: int, last: LayerSchedule | None) -> LayerSchedule:
        plan, _, fields = binding.steps[index]
        opened = self._opened(fields) if plan.layer.gated else None
        return schedule_layer(self.program.config, self.timing, plan, fields, opened, last,
                              binding.stored(index))

    def _opened(self, fields: Mapping[str, int]) -> OpenPixels:
        """The assumed share of a tile's pixels, from the first one on at even distances."""
        found = []
        for tile in tiles_of(fields):
            pixels = tile["images"] * tile["out_pixels"]
            count = round(self.density * pixels)
            last = (count - 1) * pixels // count if count else pixels - 1
            found.append((count, 0, last))
        shape = fields["tiles"], fields["out_channels"]
        return OpenPixels(*(np.broadcast_to(np.array(values)[:, None], shape)
                            for values in zip(*found, strict=True)))


def _alternative(layer: str, choice: str, words: str, cost: _Cost | None, chosen: bool,
                 reason: str) -> Alternative:
    return Alternative(layer=layer, choice=choice, alternative=words, chosen=chosen, reason=reason,
                       bytes=None if cost is None else cost.bytes,
                       cycles=None if cost is None else cost.cycles)


def _rows(costs: _Costs, index: int) -> Iterator[Alternative]:
    """Bands of rows: the fewest that fit, the whole map, and the next division below."""
    program, plan = costs.program, costs.program.plans[index]
    layer, config = plan.layer, program.config
    residual = None if layer.residual is None else program.network.shape(layer.residual)
    height = layer.conv_shape[1]

    def row(bands: Sequence[Band], cost: _Cost | None, taken: bool,
            reason: str) -> Alternative:
        words = (f"all {height} rows" if len(bands) == 1
                 else f"{len(bands)} bands of {bands[0].rows} rows")
        return _alternative(layer.name, "rows", words, cost, taken, reason)

    chosen = plan.bands
    cost = costs.of(costs.binding, [index])
    if len(chosen) == 1:
        yield row(chosen, cost, True, "the buffers hold the whole map")
    else:
        yield row([Band(0, height)], None, False,
                  f"needs {shortage(layer, residual, config, height)}")
        yield row(chosen, cost, True, "the fewest bands that fit the buffers")
    # A psum memory of half the depth or less divides further.
    pixels = 1 << (plan.bands[0].rows * layer.conv_shape[2] - 1).bit_length() >> 1
    smaller = replace(config, buffers=replace(config.buffers, pixels=max(16, pixels)))
    try:
        division = split_rows(layer, residual, smaller)
    except CompileError:
        return
    if len(division) > len(chosen):
        other = costs.of(costs.bind(costs.binding.chip, {index: replace(plan, bands=division)}),
                         [index])
        yield row(division, other, False, other.against(cost))


def _images(costs: _Costs, index: int) -> Iterator[Alternative]:
    """Images per tile: those that share a tile share its weights."""
    program, plan = costs.program, costs.program.plans[index]
    residual = plan.layer.residual
    shape = None if residual is None else program.network.shape(residual)
    cost = costs.of(costs.binding, [index])
    found = alternatives(plan, shape, program.config, len(costs.batch))
    for choice in found if len(costs.batch) > 1 else ():
        taken = choice.tiling == costs.binding.steps[index].tiling
        other = costs.of(costs.bind(costs.binding.chip, per_tile=choice.per_tile), [index])
        reason = "the fewest bytes of those about as fast as the fastest" if taken else (
            other.against(cost))
        if program.images_per_tile is not None and taken:
            reason = f"asked for: at most {program.images_per_tile}"
        yield _alternative(plan.layer.name, "images", f"{choice.per_tile} per tile",
                           cost if taken else other, taken,
                           f"{reason}; no more: {choice.limit}" if choice.limit else reason)


def _output(costs: _Costs, index: int) -> Iterator[Alternative]:
    """Place of the output: on chip or in off-chip memory."""
    program, chip = costs.program, costs.binding.chip
    layers, capacity = program.network.layers, program.config.buffers.map_bytes
    if not capacity:
        return
    name = layers[index].name
    takers = [n for n in range(len(layers)) if n != index
              and index in uses(program.network, n).values()]
    size = len(costs.batch) * map_bytes(program.config, layers[index].out_shape)
    cost = costs.of(costs.binding, [index, *takers])

    def row(words: str, cost: _Cost, taken: bool, reason: str) -> Alternative:
        return _alternative(name, "output", words, cost, taken, reason)

    if index in chip:
        without = costs.of(costs.bind({n: at for n, at in chip.items() if n != index}),
                           [index, *takers])
        yield row("on chip", cost, True,
                  f"bytes {chip[index]:,}..{chip[index] + size - 1:,} until "
                  f"{layers[max(takers)].name} ends")
        yield row("off chip", without, False, without.against(cost))
    elif not takers:
        yield row("off chip", cost, True, "no layer takes it; the host reads it there")
    else:
        alive = costs.binding.lifetimes()
        beside = sorted(n for n in chip if alive[n].first <= alive[index].last
                        and alive[index].first <= alive[n].last)
        reason = (f"{size:,} bytes exceed the map memory of {capacity:,}" if size > capacity else
                  "no room beside " + ", ".join(layers[n].name for n in beside)
                  + ": together they save more")
        with_it = costs.of(costs.bind({**chip, index: 0}), [index, *takers])
        yield row("on chip", with_it, False, reason)
        yield row("off chip", cost, True, cost.against(with_it))


def _zeros(costs: _Costs, index: int) -> Iterator[Alternative]:
    """Zero bytes of the output: left out off chip, or not."""
    program, binding = costs.program, costs.binding
    layers, entries = program.network.layers, program.config.buffers.compressed_chunks
    takers = [n for n in range(len(layers)) if n != index
              and index in uses(program.network, n).values()]
    if not entries or not takers or index in binding.chip:
        return
    name, chunk = layers[index].name, program.config.chunk_bytes
    cost = costs.of(binding, [index, *takers])
    packable = binding.packable()
    if index in binding.packed:
        first, size = binding.packed[index], packable[index].size
        without = costs.of(costs.bind(binding.chip, packed={
            n: at for n, at in binding.packed.items() if n != index}), [index, *takers])
        yield _alternative(name, "zeros", "left out", cost, True,
                           f"entries {first:,}..{first + size - 1:,} until "
                           f"{layers[max(takers)].name} ends")
        yield _alternative(name, "zeros", "stored", without, False, without.against(cost))
    elif index not in packable:
        yield _alternative(name, "zeros", "left out", None, False,
                           f"tiles read or write parts of chunks of {chunk} bytes")
        yield _alternative(name, "zeros", "stored", cost, True, "the map is not of whole chunks")
    else:
        size = packable[index].size
        reason = (f"{size:,} chunks exceed the table of {entries:,}" if size > entries else
                  f"no room in the table of {entries:,} chunks beside others")
        with_it = costs.of(costs.bind(binding.chip, packed={**binding.packed, index: 0}),
                           [index, *takers])
        yield _alternative(name, "zeros", "left out", with_it, False, reason)
        yield _alternative(name, "zeros", "stored", cost, True, cost.against(with_it))


#: Choices of the compiler, in the order in which a layer's alternatives are listed.
_CHOICES: tuple[Callable[[_Costs, int], Iterator[Alternative]], ...] = (_rows, _images, _output,
                                                                        _zeros)
