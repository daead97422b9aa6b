"""Images of a batch in tiles: images that share a tile share its weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from hwgate.config import AcceleratorConfig
from hwgate.errors import UserError
from hwgate.geometry import Shape, Tiling, describe, most_images
from hwgate.layouts import descriptor_layout, tiles_of
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
        Tiles of the batch: how often weights are read.
    tiling : Tiling
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
    tiling: Tiling
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
                 per_tile: int | None = None) -> Tiling:
    """Tiles of a layer for ``batch`` images: its bands of rows, or else groups of images.

    With ``per_tile``, the tiles are as few as they can be with at most so many images. Without,
    the alternative with the fewest bytes wins among those about as fast as the fastest.
    """
    if batch == 1:
        return Tiling(plan.bands, batch)
    found = alternatives(plan, residual, config, batch)
    if per_tile is not None:
        return max((a for a in found if a.per_tile <= per_tile), key=lambda a: a.per_tile).tiling
    limit = (1 + _BYTES_ARE_WORTH) * min(a.cycles for a in found)
    return min((a for a in found if a.cycles <= limit), key=lambda a: (a.bytes, a.cycles)).tiling


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
    tiling = Tiling(plan.bands, batch, number)
    beats, cycles, weights = 0, 0, plan.weight_beats(config)
    for d in tiles_of(describe(plan.layer, residual, config, tiling)):
        tile = (weights + d["in_runs"] * d["in_run_beats"]
                + d["res_runs"] * d["res_run_beats"] + d["out_planes"] * d["out_run_beats"])
        cycles += _cycles(plan, config, d, tile, beats == 0)
        beats += tile
    traffic = beats * config.bus.bytes + descriptor_layout().size_bytes
    return Alternative(number, tiling.tiles, tiling, traffic, cycles, limit)


def _cycles(plan: LayerPlan, config: AcceleratorConfig, d: Mapping[str, int], bus: int,
            begins: bool) -> int:
    """Rough cycles of one tile, which moves ``bus`` beats; of the first one if it ``begins``."""
    images = d["images"]
    first = max(len(job.base) for job in plan.jobs) * d["out_pixels"]  # of an image, in one job
    windows = -(-d["out_channels"] // config.lanes) * first
    plane = d["plane_beats"] * config.beat_pixels // (1 if d["bank_mode"] else config.write_words)
    load = d["in_planes"] * plane
    # The first jobs of the first tile follow its planes; later tiles load while others compute.
    if begins:
        return max(images * (plane + max(load, first) + windows - first), bus)
    return max(images * max(windows, load), bus)
