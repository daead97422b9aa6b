"""Residency: which feature maps stay in the on-chip map memory between layers, and where."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.layouts import tiles_of
from hwgate.plan.geometry import map_bytes
from hwgate.quant.network import QuantizedNetwork

__all__ = ["Lifetime", "lifetimes", "place", "uses"]

#: Partial placements that are followed at a time. Residual networks have a few; a network in which
#: many maps are alive together has too many to follow them all.
_FOLLOWED = 128

#: A map in the memory: first byte, one past its last, and the step that reads it last.
_Block = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """A feature map that could stay on chip.

    Parameters
    ----------
    size : int
        Bytes, at least 1.
    first, last : int
        Steps that write it and that read it last. Maps need different places in a step in which
        both are alive, those two included.
    saved : int
        Bytes that do not cross the bus if it stays.
    """

    size: int
    first: int
    last: int
    saved: int


def uses(network: QuantizedNetwork, index: int) -> dict[str, int]:
    """Maps of a layer: prefix of its descriptor fields, and index of the layer that writes it."""
    residual = network.layers[index].residual
    return ({"in": network.inputs(index)} | ({} if residual is None else {"res": residual})
            | {"out": index})


def lifetimes(network: QuantizedNetwork, config: AcceleratorConfig,
              steps: Sequence[Mapping[str, int]], images: int) -> dict[int, Lifetime]:
    """Maps that could stay on chip, by the layer that writes them: those that some layer takes.

    Images come from off-chip memory, and the last output goes there.

    Parameters
    ----------
    network, config
    steps : sequence of descriptor fields
        One per layer.
    images : int
        In the batch, whose maps stay on chip together.
    """
    saved: dict[int, int] = {}
    last: dict[int, int] = {}
    for index, d in enumerate(steps):
        tiles = tiles_of(d)
        for prefix, use in uses(network, index).items():
            if prefix == "out":
                runs = d["out_planes"]
            else:
                runs, last[use] = d[f"{prefix}_runs"], index
            beats = runs * sum(tile[f"{prefix}_run_beats"] for tile in tiles)
            saved[use] = saved.get(use, 0) + beats * config.bus.bytes
    return {use: Lifetime(size=images * map_bytes(config, network.shape(use)), first=use,
                          last=last[use], saved=saved[use])
            for use in range(len(network.layers) - 1) if use in last}


def place(maps: Sequence[Lifetime], capacity: int) -> list[int | None]:
    """First byte of each map in a memory of ``capacity`` bytes; None for a map off chip.

    Looks for the most bytes saved. Never saves less than with half the capacity, or a quarter, and
    so on.

    Parameters
    ----------
    maps : sequence of Lifetime
    capacity : int
        Bytes, 0 for no memory.
    """
    best: tuple[int, list[int | None]] = (0, [None] * len(maps))
    while capacity > 0:
        found = _search(maps, capacity)
        best = max(best, found, key=lambda choice: choice[0])
        capacity //= 2
    return best[1]


def _search(maps: Sequence[Lifetime], capacity: int) -> tuple[int, list[int | None]]:
    """(bytes saved, offsets) of the best placement among those that are followed.

    Goes through the maps in the order in which they are written. A placement so far matters only
    by the blocks that are still alive, so of those with the same blocks the best one goes on.
    """
    order = sorted(range(len(maps)), key=lambda n: maps[n].first)
    states: dict[tuple[_Block, ...], tuple[int, tuple[int | None, ...]]] = {(): (0, ())}
    for number in order:
        new = maps[number]
        following: dict[tuple[_Block, ...], tuple[int, tuple[int | None, ...]]] = {}
        for blocks, (saved, offsets) in states.items():
            alive = tuple(block for block in blocks if block[2] >= new.first)
            choices = [(alive, saved, (*offsets, None))]
            choices += [(tuple(sorted((*alive, (offset, offset + new.size, new.last)))),
                         saved + new.saved, (*offsets, offset))
                        for offset in _offsets(alive, new.size, capacity)]
            for after, total, chosen in choices:
                if after not in following or total > following[after][0]:
                    following[after] = total, chosen
        ranked = sorted(following.items(), key=lambda item: -item[1][0])
        states = dict(ranked[:_FOLLOWED])
    saved, chosen = max(states.values(), key=lambda choice: choice[0])
    offsets_of = dict(zip(order, chosen, strict=True))
    return saved, [offsets_of[n] for n in range(len(maps))]


def _offsets(blocks: Sequence[_Block], size: int, capacity: int) -> Iterator[int]:
    """Both ends of every gap between blocks that holds ``size`` bytes."""
    begin = 0
    for end, after in (*((first, past) for first, past, _ in blocks), (capacity, capacity)):
        if end - begin >= size:
            yield begin
            if end - begin > size:
                yield end - size
        begin = after
