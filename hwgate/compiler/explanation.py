"""What the compiler chose for each layer, the alternatives that it compared, and their costs."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

import numpy as np

from hwgate.compiler.choice import Cost, assumed, measure
from hwgate.compiler.program import Binding, Program
from hwgate.errors import UserError, expect
from hwgate.plan.geometry import shortage
from hwgate.plan.goal import OBJECTIVES, Goal
from hwgate.plan.residency import region_bytes, uses
from hwgate.plan.stored import ASSUMPTION
from hwgate.quant.layer import IMAGE
from hwgate.schedule import LayerSchedule, schedule_layer

__all__ = ["Alternative", "Explanation", "explain"]


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One way to run a layer, everything else as chosen.

    Parameters
    ----------
    layer : str
        Whose choice it is.
    choice : str
        What is chosen: ``"rows"``, ``"tiles"``, ``"output"`` or ``"zeros"``.
    alternative : str
        In words.
    bytes, cycles : int or None
        Off-chip traffic and time, of the layer, and for its output also of the layers that take it;
        None if it cannot be had.
    exact : bool
        False if ``cycles`` is what it takes at least, which was enough to rule it out.
    chosen : bool
    reason : str
        Why, or why not.
    """

    layer: str
    choice: str
    alternative: str
    bytes: int | None
    cycles: int | None
    exact: bool = True
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
    goal : Goal
        What the compiler chose by.
    gated : bool
        Whether the program has gates.
    cycles, bytes : int
        Of the whole program as chosen, without the fetch of its end.
    compressed : int
        Feature maps that are compressed.
    """

    alternatives: tuple[Alternative, ...]
    images: int
    goal: Goal
    gated: bool
    cycles: int
    bytes: int
    compressed: int = 0

    def assumptions(self) -> str:
        """What the figures stand for, in a few lines."""
        goal, timing = self.goal, self.goal.timing
        if not self.gated:
            gates = "no gates"
        elif isinstance(goal.density, Mapping):
            gates = "gates open as often as measured, at even distances"
        else:
            gates = f"{goal.density:.0%} of the gates of each channel open, at even distances"
        images = "1 image" if self.images == 1 else f"{self.images} images"
        zeros = f"Assumed: {ASSUMPTION}.\n" if self.compressed else ""
        return (f"Cost model, {images}, {gates}.\n{zeros}"
                f"Memory with a latency of {timing.read_latency} cycles and "
                f"{timing.beat_interval} cycles per beat"
                f"{', shared by reads and writes' if timing.shared else ''}.\n"
                f"Objective {goal.objective}: {_wanted(goal)}.\n"
                f"Bytes and cycles are those of the layer by itself, for its output with the "
                f"layers that take it.")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, ready for JSON."""
        return {**asdict(self.goal), "images": self.images, "cycles": self.cycles,
                "bytes": self.bytes, "alternatives": [asdict(row) for row in self.alternatives]}


def explain(program: Program, images: int = 1) -> Explanation:
    """The compiler's choices for a batch, beside what else it compared.

    Parameters
    ----------
    program : Program
        Its goal says which memory and which share of open gates are assumed.
    images : int
        In the batch.

    Raises
    ------
    UserError
        If there is no image, or the batch does not fit.
    """
    expect("Program", program, Program, hint="hwgate.compile makes one")
    expect("Image count", images, Integral)
    if images < 1:
        raise UserError(f"Image count must be at least 1, not {images}")
    binding = program.bind(np.zeros((images, *program.network.image_shape), np.int8))
    found = tuple(alternative for index in range(len(program.plans))
                  for choices in _CHOICES for alternative in choices(binding, index))
    schedules = _schedules(binding)
    return Explanation(found, images, program.goal,
                       any(layer.gated for layer in program.network.layers),
                       sum(schedule.cycles for schedule in schedules),
                       sum(sum(schedule.bytes.values()) for schedule in schedules),
                       len(binding.packed))


def _schedules(binding: Binding) -> list[LayerSchedule]:
    """Of each layer after the one before it, under the assumptions."""
    done = list[LayerSchedule]()
    for index in range(len(binding.steps)):
        done.append(_schedule(binding, index, done[-1] if done else None))
    return done


def _schedule(binding: Binding, index: int, last: LayerSchedule | None) -> LayerSchedule:
    """Of a layer as bound, under the assumptions."""
    program, (plan, _, fields) = binding.program, binding.steps[index]
    opened = None
    if plan.layer.gated:
        opened = assumed(program.goal.density_of(plan.layer.name), fields, plan.layer.gate)
    return schedule_layer(program.config, program.goal.timing, plan, fields, opened, last,
                          binding.stored(index))


def _wanted(goal: Goal) -> str:
    slack = OBJECTIVES[goal.objective]
    if goal.objective == "balanced":
        return f"the fewest bytes of what is at most {slack:.0%} slower than the fastest"
    return f"the fewest {goal.objective}"


def _cost(binding: Binding, layers: Sequence[int], chip: Collection[int]) -> Cost:
    """Of some layers as chosen, each by itself, with the outputs of ``chip`` on chip."""
    costs = [measure(binding.case(index, binding.choices[index].candidate, chip))
             for index in layers]
    return Cost(sum(cost.bytes for cost in costs), sum(cost.cycles for cost in costs))


def _alternative(layer: str, choice: str, words: str, cost: Cost | None, chosen: bool,
                 reason: str, exact: bool = True) -> Alternative:
    return Alternative(layer=layer, choice=choice, alternative=words, chosen=chosen, reason=reason,
                       bytes=None if cost is None else cost.bytes,
                       cycles=None if cost is None else cost.cycles, exact=exact)


def _rows(binding: Binding, index: int) -> Iterator[Alternative]:
    """Bands of rows: the whole map, or the fewest that fit."""
    program, plan = binding.program, binding.program.plans[index]
    layer = plan.stored
    residual = None if layer.residual is None else program.network.shape(layer.residual)
    height, cost = layer.conv_shape[1], _cost(binding, [index], binding.chip)
    whole = f"all {height} rows"
    if len(plan.bands) == 1:
        yield _alternative(layer.name, "rows", whole, cost, True,
                           "the buffers hold the whole map")
        return
    yield _alternative(layer.name, "rows", whole, None, False,
                       f"needs {shortage(layer, residual, program.config, height)}")
    yield _alternative(layer.name, "rows", f"{len(plan.bands)} bands of {plan.bands[0].rows} rows",
                       cost, True, "the fewest bands that fit the buffers")


def _tiles(binding: Binding, index: int) -> Iterator[Alternative]:
    """What a tile holds: images that share it share its weights."""
    program, choice = binding.program, binding.choices[index]
    name, most = program.plans[index].layer.name, program.images_per_tile
    if most is not None and len(binding.images) > 1:
        yield _alternative(name, "tiles", choice.candidate.words,
                           _cost(binding, [index], binding.chip), True,
                           f"asked for: at most {most}")
    taken = next((option for option in choice.compared
                  if option.candidate is choice.candidate), None)
    for option in choice.compared:
        assert taken is not None
        if option is taken:
            reason = _wanted(program.goal)
        else:
            reason = option.cost.against(taken.cost) + (" at best" if not option.exact else "")
        limit = option.candidate.limit
        yield _alternative(name, "tiles", option.candidate.words, option.cost, option is taken,
                           f"{reason}; no more: {limit}" if limit else reason, option.exact)


def _first(binding: Binding, index: int) -> bool:
    """Whether the output is the first of the layers' outputs that lie side by side with it."""
    chain = binding.program.network.chains[index]
    return next(n for n in chain if n != IMAGE) == index


def _others(binding: Binding, index: int) -> list[int]:
    """Other layers that read or write the output, or what lies beside it."""
    region, network = binding.places[index].region, binding.program.network
    return [n for n in range(len(network.layers)) if n != index
            and region in uses(network, n).values()]


def _output(binding: Binding, index: int) -> Iterator[Alternative]:
    """Place of the output, and of those beside it: on chip or in off-chip memory."""
    program, chip, region = binding.program, binding.chip, binding.places[index].region
    layers, capacity = program.network.layers, program.config.buffers.map_bytes
    if not capacity or not _first(binding, index):
        return
    name, others = layers[index].name, _others(binding, index)
    size = len(binding.images) * region_bytes(program.network, program.config, region)
    alive, cost = binding.lifetimes(), _cost(binding, [index, *others], chip)

    def row(words: str, cost: Cost, taken: bool, reason: str) -> Alternative:
        return _alternative(name, "output", words, cost, taken, reason)

    if region in chip:
        without = _cost(binding, [index, *others], chip.keys() - {region})
        yield row("on chip", cost, True,
                  f"bytes {chip[region]:,}..{chip[region] + size - 1:,} until "
                  f"{layers[alive[region].last].name} ends")
        yield row("off chip", without, False, without.against(cost))
    elif region not in alive:
        beside_image = IMAGE in program.network.chains[index]
        yield row("off chip", cost, True, "it lies beside the image, which the host writes there"
                  if beside_image else "no layer takes it; the host reads it there")
    else:
        beside = sorted(n for n in chip if alive[n].first <= alive[region].last
                        and alive[region].first <= alive[n].last)
        reason = (f"{size:,} bytes exceed the map memory of {capacity:,}" if size > capacity else
                  "no room beside " + ", ".join(layers[n].name for n in beside)
                  + ": together they save more bytes")
        with_it = _cost(binding, [index, *others], {*chip, region})
        yield row("on chip", with_it, False, reason)
        yield row("off chip", cost, True, cost.against(with_it))


def _zeros(binding: Binding, index: int) -> Iterator[Alternative]:
    """Zero bytes of the output: left out off chip, or not."""
    program, region = binding.program, binding.places[index].region
    layers, entries = program.network.layers, program.config.buffers.compressed_chunks
    alive = binding.lifetimes()
    if not entries or region not in alive or region in binding.chip or not _first(binding, index):
        return
    name, chunk = layers[index].name, program.config.chunk_bytes

    def cost(packed: Mapping[int, int]) -> Cost:
        bound = Binding(program, binding.images, binding.chip, packed)
        found = [_schedule(bound, n, None) for n in (index, *_others(binding, index))]
        return Cost(sum(sum(one.bytes.values()) for one in found),
                    sum(one.cycles for one in found))

    packable, as_bound = binding.packable(), cost(binding.packed)
    if region in binding.packed:
        first, size = binding.packed[region], packable[region].size
        without = cost({n: at for n, at in binding.packed.items() if n != region})
        yield _alternative(name, "zeros", "left out", as_bound, True,
                           f"entries {first:,}..{first + size - 1:,} until "
                           f"{layers[alive[region].last].name} ends")
        yield _alternative(name, "zeros", "stored", without, False, without.against(as_bound))
    elif region not in packable:
        yield _alternative(name, "zeros", "left out", None, False,
                           f"tiles read or write parts of chunks of {chunk} bytes")
        yield _alternative(name, "zeros", "stored", as_bound, True,
                           "the map is not of whole chunks")
    else:
        size = packable[region].size
        reason = (f"{size:,} chunks exceed the table of {entries:,}" if size > entries else
                  f"no room in the table of {entries:,} chunks beside others")
        with_it = cost({**binding.packed, region: 0})
        yield _alternative(name, "zeros", "left out", with_it, False, reason)
        yield _alternative(name, "zeros", "stored", as_bound, True, as_bound.against(with_it))


#: Choices of the compiler, in the order in which a layer's alternatives are listed.
_CHOICES: tuple[Callable[[Binding, int], Iterator[Alternative]], ...] = (_rows, _tiles, _output,
                                                                         _zeros)
