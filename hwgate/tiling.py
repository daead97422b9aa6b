"""Images of a batch in tiles: images that share a tile share its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hwgate.config import AcceleratorConfig
from hwgate.errors import UserError
from hwgate.geometry import Part, Shape, most_images
from hwgate.plan import LayerPlan

__all__ = ["Candidate", "candidates", "check_images_per_tile"]


@dataclass(frozen=True)
class Candidate:
    """One way to run a layer for a batch.

    Parameters
    ----------
    words : str
        For people: how it differs from the others.
    parts : tuple of Part
        What each descriptor computes; a tile of fewer images has its own.
    fields : mapping
        Descriptor fields that it sets besides those of its parts.
    limit : str
        Why a tile cannot hold more images; empty if it can.
    """

    words: str
    parts: tuple[Part, ...]
    fields: Mapping[str, int] = field(default_factory=dict)
    limit: str = ""

    @property
    def per_tile(self) -> int:
        """Images of a tile; the last tile may have fewer."""
        return max(part.per_tile for part in self.parts)


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


def candidates(plan: LayerPlan, residual: Shape | None, config: AcceleratorConfig, batch: int,
               most: int | None = None) -> tuple[Candidate, ...]:
    """Ways to run a layer for a batch, by their numbers of images per tile, from 1 on.

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
    most : int, optional
        Nothing but the largest number up to this one.
    """
    fit, limit = most_images(plan.layer, residual, config, batch)
    numbers = sorted({-(-batch // -(-batch // count)) for count in range(1, fit + 1)})
    found = tuple(_candidate(plan, config, batch, number, limit if number == numbers[-1] else "")
                  for number in numbers)
    return found if most is None else tuple(c for c in found if c.per_tile <= most)[-1:]


def _candidate(plan: LayerPlan, config: AcceleratorConfig, batch: int, number: int,
               limit: str) -> Candidate:
    """Tiles of ``number`` images, and the weights that stay on chip between them."""
    parts = _parts(plan, batch, number)
    tiles = sum(-(-part.images // part.per_tile) for part in parts)
    return Candidate(f"{number} per tile", parts,
                     {"kept_channels": plan.kept_channels(config, tiles)}, limit)


def _parts(plan: LayerPlan, batch: int, number: int) -> tuple[Part, ...]:
    """Tiles of ``number`` images, and one of those that are left."""
    rest = batch % number
    parts = [Part(band.first, band.rows, 0, batch - rest, number) for band in plan.bands]
    if rest:
        parts.append(Part(parts[0].first, parts[0].rows, batch - rest, rest, rest))
    return tuple(parts)
