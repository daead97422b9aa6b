"""Images of a batch in tiles: images that share a tile share its weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from hwgate.config import AcceleratorConfig
from hwgate.errors import UserError
from hwgate.geometry import Part, Shape, describe, most_images
from hwgate.layouts import descriptor_layout
from hwgate.plan import LayerPlan

__all__ = ["Alternative", "alternatives", "check_images_per_tile", "divide_batch"]

#: Cycles, as a share of the fewest, that fewer bytes may cost.
_BYTES_ARE_WORTH = 0.02


@dataclass(frozen=True)
class Alternative:
    """One number of images per tile, and what it costs a layer and its batch.

    Parameters
    ----------
    per_tile : int
        Images of a tile; the last tile may have fewer.
    tiles : int
        Tiles of the batch: how often weights are read that do not stay on chip.
    parts : tuple of Part
        What each descriptor computes; a tile of fewer images has its own.
    bytes : int
        Off-chip traffic with every gate open.
    cycles : int
        Rough cycles: base windows of the lanes, loads, or the bus with every gate open, whichever
        takes longest, with what the first tile cannot overlap.
    limit : str
        Why a tile cannot hold more images; empty if it can.
    """

    per_tile: int
    tiles: int
    parts: tuple[Part, ...]
    bytes: int
    cycles: int
    limit: str


def check_images_per_tile(images: int | None) -> None:
    """Raise for what is no number of images per tile.

    Raises
    ------
    UserError
        Unless it is None or a positive integer.
    """
    if images is not None and (not isinstance(images, int) or isinstance(images, bool)
                               or images < 1):
        raise UserError(f"Images per tile must be a positive integer or None, not {images!r}")


def divide_batch(plan: LayerPlan, residual: Shape | None, config: AcceleratorConfig, batch: int,
                 per_tile: int | None = None) -> tuple[Part, ...]:
    """Parts of a layer for ``batch`` images: its bands of rows, or else groups of images.

    With ``per_tile``, the tiles are as few as they can be with at most so many images. Without,
    the alternative with the fewest bytes wins among those about as fast as the fastest.
    """
    if batch == 1:
        return _parts(plan, batch, 1)
    found = alternatives(plan, residual, config, batch)
    if per_tile is not None:
        return max((a for a in found if a.per_tile <= per_tile), key=lambda a: a.per_tile).parts
    limit = (1 + _BYTES_ARE_WORTH) * min(a.cycles for a in found)
    return min((a for a in found if a.cycles <= limit), key=lambda a: (a.bytes, a.cycles)).parts


def alternatives(plan: LayerPlan, residual: Shape | None, config: AcceleratorConfig,
                 batch: int) -> tuple[Alternative, ...]:
    """Numbers of images per tile that a layer can use for a batch, from 1 on.

    Only those that make fewer tiles than any smaller number; a layer in bands of rows has one
    image per tile.

    Parameters
    ----------
    plan : LayerPlan
    residual : (C, H, W) or None
        Shape of its residual operand.
    config : AcceleratorConfig
    batch : int
        Number of images.
    """
    most, limit = most_images(plan.layer, residual, config, batch)
    numbers = sorted({-(-batch // -(-batch // count)) for count in range(1, most + 1)})
    return tuple(_alternative(plan, residual, config, batch, number,
                              limit if number == numbers[-1] else "") for number in numbers)


def _alternative(plan: LayerPlan, residual: Shape | None, config: AcceleratorConfig, batch: int,
                 number: int, limit: str) -> Alternative:
    parts = _parts(plan, batch, number)
    tiles, beats, cycles = 0, 0, 0
    for part in parts:
        d = describe(plan.layer, residual, config, part, batch)
        tile = (plan.weight_beats(config) + d["in_runs"] * d["in_run_beats"]
                + d["res_runs"] * d["res_run_beats"] + d["out_planes"] * d["out_run_beats"])
        tiles += d["tiles"]
        beats += d["tiles"] * tile
        cycles += _cycles(plan, config, d, tile)
    beats -= (tiles - 1) * plan.weight_beats(config, plan.kept_channels(config, tiles))
    traffic = beats * config.bus.bytes + len(parts) * descriptor_layout().size_bytes
    return Alternative(number, tiles, parts, traffic, cycles, limit)


def _parts(plan: LayerPlan, batch: int, number: int) -> tuple[Part, ...]:
    """Tiles of ``number`` images, and one of those that are left."""
    rest = batch % number
    parts = [Part(band.first, band.rows, 0, batch - rest, number) for band in plan.bands]
    if rest:
        parts.append(Part(parts[0].first, parts[0].rows, batch - rest, rest, rest))
    return tuple(parts)


def _cycles(plan: LayerPlan, config: AcceleratorConfig, d: Mapping[str, int], bus: int) -> int:
    """Rough cycles of one descriptor, whose tiles move ``bus`` beats each."""
    images = d["images"]
    first = max(len(job.base) for job in plan.jobs) * d["out_pixels"]  # of an image, in one job
    windows = -(-d["out_channels"] // config.lanes) * first
    plane = d["plane_beats"] * config.beat_pixels // (1 if d["bank_mode"] else config.write_words)
    load = d["in_planes"] * plane
    # The first jobs of the first tile follow its planes; later tiles load while others compute.
    start = images * (plane + max(load, first) + windows - first)
    return max(start, bus) + (d["tiles"] - 1) * max(images * max(windows, load), bus)
