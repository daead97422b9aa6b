"""Residency: which feature maps stay in the on-chip map memory between layers, and where."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.layouts import tiles_of
from hwgate.plan.geometry import map_bytes
from hwgate.quant.layer import IMAGE
from hwgate.quant.network import QuantizedNetwork

__all__ = ["Lifetime", "Place", "lifetimes", "maps_of", "place", "places", "region_bytes", "uses"]

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


class Place(NamedTuple):
    """Where a map lies: the first of the maps side by side of which it is one, and its first byte
    among theirs."""

    region: int
    offset: int


def places(network: QuantizedNetwork, config: AcceleratorConfig, images: int) -> dict[int, Place]:
    """Place of the image and of each layer's output, by index."""
    found = {}
    for chain in dict.fromkeys(network.chains.values()):
        offset = 0
        for index in chain:
            found[index] = Place(chain[0], offset)
            offset += images * map_bytes(config, network.shape(index))
    return found


def region_bytes(network: QuantizedNetwork, config: AcceleratorConfig, region: int) -> int:
    """Bytes of one image's maps that lie side by side."""
    return sum(map_bytes(config, network.shape(index)) for index in network.chains[region])


def maps_of(network: QuantizedNetwork, index: int) -> dict[str, int]:
    """Prefix of the descriptor fields of each map of a layer, and the index of the layer that
    writes the map, or its first channels."""
    residual = network.layers[index].residual
    return ({"in": network.inputs(index)[0]} | ({} if residual is None else {"res": residual})
            | {"out": index})


def uses(network: QuantizedNetwork, index: int) -> dict[str, int]:
    """The same with the regions that the maps lie in: the first of the maps side by side."""
    return {prefix: network.chains[use][0] for prefix, use in maps_of(network, index).items()}


def lifetimes(network: QuantizedNetwork, config: AcceleratorConfig,
              steps: Sequence[Mapping[str, int]], images: int) -> dict[int, Lifetime]:
    """Maps that could stay on chip, by their regions: those that some layer takes.

    Images come from off-chip memory, and the last output goes there, with all beside them.

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
    outside = {IMAGE, len(network.layers) - 1}
    return {use: Lifetime(size=images * region_bytes(network, config, use),
                          first=min(network.chains[use]), last=last[use], saved=saved[use])
            for use in sorted(saved) if use in last and not outside & set(network.chains[use])}


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
