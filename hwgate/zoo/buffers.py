"""Off-chip reduction of the plain method as a curve over tiles and buffers.

A gate saves off-chip bytes where a channel stays closed in a whole tile, so the smaller the tile,
the more it saves, and the more often everything else is read. Nothing stays on chip between layers
and nothing is compressed, gated or dense.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

import hwgate
from hwgate.errors import CompileError
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.comparison import compare
from hwgate.zoo.levers import HEADLINE

__all__ = ["BATCH", "KINDS", "Setting", "curve", "settings"]

#: Images of the batch at every point.
BATCH = 8

#: What the curves go over, for people.
KINDS = {"pixels": "most pixels of a tile", "window": "words of a bank of window memory",
         "images": "most images of a tile"}

Step = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """One accelerator and one way to make tiles.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`: what this curve goes over.
    per_tile : int
        Images of a tile, where so many fit.
    changes : mapping
        Fields of :class:`hwgate.machine.config.BufferConfig`.
    checked : bool
        Whether the RTL runs, too.
    """

    kind: str
    per_tile: int
    changes: dict[str, int] = field(default_factory=dict)
    checked: bool = False


def settings() -> Iterator[Setting]:
    """Points of the curves. Whatever is not named is the network's own."""
    for pixels in (32, 64, 128, 256, 1024):
        yield Setting("pixels", 1, {"pixels": pixels}, pixels == 128)
    for words in (128, 256, 512, 1024, 2048):
        yield Setting("window", 1, {"window_words": words})
    for images in (1, 2, 4, 8):
        yield Setting("images", images, {"window_words": 4096, "pixels": 4096,
                                         "output_words": 8192}, images == 4)


def curve(network: QuantizedNetwork, images: NDArray[Any],
          step: Step = lambda _: None) -> list[dict[str, Any]]:
    """Bytes and cycles of the gated and the dense program at every setting where both fit.

    Parameters
    ----------
    network : QuantizedNetwork
    images : (N, C, H, W)
        One batch.
    step : callable
        Told, in words, what happens next.

    Returns
    -------
    list of dict
        Ready for JSON, in the order of :func:`settings`. ``equal`` is None unless the RTL ran, and
        ``tiles`` is the sum over the layers of one batch.

    Raises
    ------
    UserError
        As compiler, simulator and cost model raise it.
    """
    points = []
    for setting in settings():
        config = HEADLINE.accelerator(network.config)
        config = replace(config, buffers=replace(config.buffers, **setting.changes))
        buffers = config.buffers
        step(f"{setting.per_tile} images a tile, {buffers.window_words} words, "
             f"{buffers.pixels} pixels")
        point = _point(replace(network, config=config), setting, images)
        if point is not None:
            points.append({"kind": setting.kind, "per_tile": setting.per_tile, **{
                name: getattr(buffers, name)
                for name in ("window_words", "pixels", "output_words")}, **point})
    return points


def _point(network: QuantizedNetwork, setting: Setting, images: NDArray[Any]
           ) -> dict[str, Any] | None:
    """Figures of both programs; None if a layer does not fit."""
    found: dict[str, Any] = {"equal": None}
    for kind, dense in (("", False), ("_dense", True)):
        try:
            program = hwgate.compile(network, dense=dense, images_per_tile=setting.per_tile)
            model = hwgate.estimate(program, images)
        except CompileError:
            return None
        found |= {f"bytes{kind}": model.bytes_total, f"cycles{kind}": model.cycles}
        if setting.checked:
            equal = compare(hwgate.simulate(program, images), model).equal
            found["equal"] = equal and found["equal"] is not False
    return found | {"tiles": sum(tiling.tiles for _, tiling, _ in program.bind(images).steps)}
