"""Images of a batch in tiles: images that share a tile share its weights."""

from dataclasses import dataclass

from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig
from hwgate.plan.geometry import Shape, Tiling, most_images
from hwgate.plan.layer import LayerPlan

__all__ = ["Candidate", "candidates", "check_images_per_tile"]


@dataclass(frozen=True)
class Candidate:
    """One way to run a layer for a batch.

    Parameters
    ----------
    tiling : Tiling
    limit : str
        Why a tile cannot hold more images; empty if it can.
    """

    tiling: Tiling
    limit: str = ""

    @property
    def words(self) -> str:
        """How it differs from the others, for people."""
        return f"{self.tiling.per_tile} per tile"


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
    fit, limit = most_images(plan.stored, residual, config, batch)
    numbers = sorted({-(-batch // -(-batch // count)) for count in range(1, fit + 1)})
    found = tuple(Candidate(Tiling(plan.bands, batch, number),
                            limit if number == numbers[-1] else "") for number in numbers)
    if any(one.tiling.tiles > 0xFFFF for one in found):
        found = tuple(one for one in found if one.tiling.tiles <= 0xFFFF)
        if not found:
            raise UserError(f"Layer {plan.layer.name!r} must have at most {0xFFFF} tiles, not the "
                            f"{len(plan.bands) * batch} of {batch} images")
    return found if most is None else tuple(c for c in found if c.tiling.per_tile <= most)[-1:]
