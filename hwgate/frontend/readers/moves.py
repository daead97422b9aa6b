"""What an operator that only moves values about amounts to.

Views, transpositions, slices, splits and padding are run on the *places* of values instead of the
values: what comes out tells which value of the source, or which zero, lies where.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["ZERO", "Moved", "Unknown", "selection", "spatial_padding"]

#: Place of a zero that no value of the source is.
ZERO = -1


@dataclass(frozen=True, eq=False)
class Unknown:
    """A value that is refused, or behind one, and that no image has channels of.

    Parameters
    ----------
    source : str
        Name of the value.
    """

    source: str


@dataclass(frozen=True, eq=False)
class Moved:
    """Values of a source, moved about.

    Parameters
    ----------
    source : str
        Name of the value.
    shape : tuple of int
        Of the source, for one image.
    places : int64 tensor
        For one image: the place in the flat source of each value; ``ZERO`` for a zero.
    origin : str
        Where the user finds what moved them last.
    """

    source: str
    shape: tuple[int, ...]
    places: Tensor
    origin: str = ""

    @staticmethod
    def of(source: str, shape: tuple[int, ...]) -> "Moved":
        """The source as it is."""
        count = int(torch.tensor(shape).prod()) if shape else 1
        return Moved(source, shape, torch.arange(count).reshape(shape))

    @property
    def plain(self) -> bool:
        """Whether every value is where it was, in the same shape."""
        return (tuple(self.places.shape) == self.shape
                and torch.equal(self.places.flatten(), torch.arange(self.places.numel())))

    def through(self, move: Callable[[Tensor], Any], batch: int, origin: str = "") -> Any:
        """The same behind a further move of a batch, found at ``origin``: ``Moved``, or several.

        Raises
        ------
        ValueError
            If values move between images.
        """
        count = int(self.places.max()) + 1
        own = torch.arange(batch).reshape(-1, *[1] * self.places.ndim) * count
        moved = move(torch.where(self.places[None] == ZERO, ZERO, self.places[None] + own))
        if isinstance(moved, Tensor):
            return self._one(moved, batch, count, origin)
        return [self._one(part, batch, count, origin) for part in moved]

    def _one(self, moved: Tensor, batch: int, count: int, origin: str) -> "Moved":
        if not moved.ndim or len(moved) != batch:
            raise ValueError("moves values between images")
        own = torch.arange(batch).reshape(-1, *[1] * (moved.ndim - 1)) * count
        places = torch.where(moved == ZERO, ZERO, moved - own)
        if not torch.equal(places, places[:1].expand_as(places)):
            raise ValueError("moves values between images")
        return Moved(self.source, self.shape, places[0].contiguous(), origin)


def _lines(places: Tensor) -> Tensor | None:
    """For (channels, lines) of line numbers, or ZERO: the number of each line, if it is the same
    in every channel that has any."""
    found = places.max(dim=0).values
    same = (places == found) | (places == ZERO)
    return found if bool(same.all()) else None


def selection(moved: Moved) -> tuple[list[int], Tensor, Tensor] | None:
    """Channels, rows and columns that a map is made of, if it is made of whole ones of a map.

    Returns
    -------
    (channels, rows, columns) or None
        Output (c, y, x) is the source's (channels[c], rows[y], columns[x]), or zero where one of
        these is ``ZERO``.
    """
    if len(moved.shape) != 3 or moved.places.ndim != 3:
        return None
    _, height, width = moved.shape
    places, none = moved.places, moved.places == ZERO
    if bool(none.all()):
        return None
    channel = torch.where(none, ZERO, places // (height * width)).flatten(1)
    row = torch.where(none, ZERO, places % (height * width) // width)
    column = torch.where(none, ZERO, places % width)
    channels = channel.max(dim=1).values
    rows, columns = _lines(row.max(dim=2).values), _lines(column.max(dim=1).values)
    if rows is None or columns is None:
        return None
    made = (channels[:, None, None] * height + rows[:, None]) * width + columns
    made = torch.where((channels[:, None, None] == ZERO) | (rows[:, None] == ZERO)
                       | (columns == ZERO), ZERO, made)
    return (channels.tolist(), rows, columns) if torch.equal(made, places) else None


def spatial_padding(lines: Tensor, size: int) -> tuple[int, int, int] | None:
    """Lines that are every so-many-th line of ``size``, from the first one on, between zeros.

    Returns
    -------
    (step, before, behind) or None
    """
    taken = (lines != ZERO).nonzero().flatten()
    if not len(taken):
        return None
    first, last = int(taken[0]), int(taken[-1])
    own = lines[first:last + 1]
    step = int(own[1] - own[0]) if len(own) > 1 else size
    if step < 1 or not torch.equal(own, torch.arange(0, size, step)):
        return None
    return step, first, len(lines) - 1 - last
