"""Tiles whose first and last ones differ, for benches: descriptors, places, addresses of beats."""

from collections.abc import Mapping
from itertools import accumulate

from hwgate.machine.layouts import FIRST, LAST, descriptor_layout

__all__ = ["PLACES", "descriptor_bits", "place_of", "run_addresses", "tile_places"]

#: Places of a tile in its round; the last one is the last one even if it is the only one.
PLACES = ("first", "middle", "last")


def place_of(tile: int, round_tiles: int) -> str:
    """Place of a tile."""
    number = tile % round_tiles
    return "last" if number == round_tiles - 1 else "middle" if number else "first"


def tile_places(tiles: int, round_tiles: int) -> list[str]:
    """Places of all tiles of a layer, which are whole rounds."""
    assert tiles % round_tiles == 0
    return [place_of(tile, round_tiles) for tile in range(tiles)]


def descriptor_bits(fields: Mapping[str, int],
                    places: Mapping[str, Mapping[str, int]] | None = None) -> int:
    """Bits of a descriptor with these fields, of which tiles at some places have others: those
    given for a place, or ``<name>_first`` and ``<name>_last`` among the fields.

    Every tile is at a last place unless ``round_tiles`` is among the fields.
    """
    own = {place: {**fields, **(places or {}).get(place, {})} for place in PLACES}
    assert all(own["first"].get(name) == own["middle"].get(name) for name in {*LAST} - {*FIRST})
    values = ({"round_tiles": 1} | {f"{name}_first": own["first"].get(name, 0) for name in FIRST}
              | {f"{name}_last": own["last"].get(name, 0) for name in LAST} | own["middle"])
    return int.from_bytes(descriptor_layout().pack(values), "little")


def run_addresses(run: Mapping[str, int], beat: int, beats: Mapping[str, int],
                  strides: Mapping[str, int]) -> list[list[int]]:
    """Addresses of every beat of each tile, as a :func:`hwgate.rtl.tiles.tile_run_layout` says.

    Parameters
    ----------
    run : mapping
        Values of that layout.
    beat : int
        Bytes of a beat.
    beats, strides : mapping
        Beats of a run of a tile, and bytes from it to the next one, by place.
    """
    places = tile_places(run["tiles"], run["round_tiles"])
    origins = accumulate((strides[place] for place in places), initial=run["address"])
    return [[origin + n * run["run_stride"] + at * beat
             for n in range(run["runs"]) for at in range(beats[place])]
            for origin, place in zip(origins, places, strict=False)]

