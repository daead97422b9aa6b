"""What an operator sees of the blocks' outputs: some of their channels, their average, every second
pixel. None of it takes a layer until somebody needs it as a map of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["UNKNOWN", "View", "joined_view"]

#: Index of the block of a value that no layer computes.
UNKNOWN = -2


@dataclass(frozen=True)
class View:
    """A value in terms of the outputs of blocks.

    Parameters
    ----------
    channels : tuple of (int, int) or None
        Block (or ``IMAGE``) and channel of each of its channels; None for one that is zero.
    average : bool
        Averaged over all pixels.
    stride : int
        Distance of the rows and columns that are taken.
    """

    channels: tuple[tuple[int, int] | None, ...]
    average: bool = False
    stride: int = 1

    @classmethod
    def of(cls, index: int, channels: int) -> "View":
        """The output of a block."""
        return cls(tuple((index, channel) for channel in range(channels)))

    @property
    def maps(self) -> tuple[int, ...]:
        """Blocks that it takes channels of, in their order."""
        return tuple(dict.fromkeys(pair[0] for pair in self.channels if pair is not None))

    @property
    def unknown(self) -> bool:
        return UNKNOWN in self.maps

    @property
    def plain(self) -> bool:
        """All pixels, as they are."""
        return not self.average and self.stride == 1

    def whole(self, channels: int) -> int | None:
        """The block that it is the output of, as it is, if that has so many channels."""
        index = next(iter(self.maps), UNKNOWN)
        return index if self == View.of(index, channels) else None

    def taking(self, channels: Sequence[int]) -> "View":
        """Some of its channels; zeros for -1."""
        return replace(self, channels=tuple(
            None if channel < 0 else self.channels[channel] for channel in channels))

    def placed(self, maps: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...] | None:
        """Where its channels are among those of maps of such sizes side by side, -1 for zeros;
        None if it has all of them, in order."""
        starts = dict(zip(maps, (sum(sizes[:n]) for n in range(len(sizes))), strict=True))
        found = tuple(-1 if pair is None else starts[pair[0]] + pair[1] for pair in self.channels)
        return None if found == tuple(range(sum(sizes))) else found


def joined_view(views: Sequence[View]) -> View:
    """Values side by side, which must be plain."""
    assert all(view.plain for view in views)
    return View(tuple(pair for view in views for pair in view.channels))
