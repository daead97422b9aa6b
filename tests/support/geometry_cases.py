"""Random layers of every kind for tests of geometry, and accelerators of any buffers for them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from hwgate.machine.config import AcceleratorConfig, BufferConfig, BusConfig, ConfigError
from hwgate.machine.layouts import tiles_of
from hwgate.plan.geometry import Tiling, describe, split_rows
from hwgate.quant.layer import KERNELS, MOST_PADDING, QuantizedLayer

__all__ = ["Case", "cases", "make_layer", "placed_tiles"]


@dataclass(frozen=True)
class Case:
    """A layer, the shape of its residual operand, and an accelerator."""

    layer: QuantizedLayer
    residual: tuple[int, int, int] | None
    config: AcceleratorConfig

    def bands(self):
        return list(split_rows(self.layer, self.residual, self.config))

    def fields(self, images=1):
        """Descriptor of a batch, one image per tile or in bands."""
        tiling = Tiling(tuple(self.bands()), images)
        return describe(self.layer, self.residual, self.config, tiling)

    def described(self):
        """(first row, rows, fields) of the tiles of one image."""
        return [(*band, d) for band, d in zip(self.bands(), placed_tiles(self.fields()),
                                              strict=True)]


def placed_tiles(d: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Fields of each tile of a layer, with addresses of its own."""
    at = {f"{prefix}_address": d[f"{prefix}_address"] for prefix in ("in", "res", "out")}
    for tile in tiles_of(d):
        yield {**tile, **at}
        at = {name: (address + tile[name.replace("address", "stride")]) % (1 << 32)
              for name, address in at.items()}


def make_layer(channels, height, width, outputs, kernel=3, **options):
    options.setdefault("padding", kernel // 2)
    return QuantizedLayer(
        "conv", np.ones((outputs, channels, kernel, kernel), np.int8),
        np.ones((outputs, channels), bool), None, np.zeros((outputs, 2), np.int64),
        np.ones((outputs, 2), np.int64), np.ones(outputs, np.int64), (channels, height, width),
        **options)


def power(low, high):
    return st.integers(low, high).map(lambda n: 1 << n)


@st.composite
def cases(draw):
    """Layers of every kind, on accelerators whose buffers hold them whole, in bands, or not."""
    buffers = BufferConfig(window_words=draw(power(4, 10)), pixels=draw(power(4, 10)),
                           output_words=draw(power(4, 11)), passes=draw(power(3, 5)))
    try:
        config = AcceleratorConfig(
            lanes=draw(power(0, 4)), channels=draw(power(1, 4)), buffers=buffers,
            bus=BusConfig(data_bits=draw(st.sampled_from([64, 128]))))
    except ConfigError:
        assume(False)
    kernel = draw(st.sampled_from(KERNELS))
    before = st.integers(0, min(kernel - 1, MOST_PADDING))
    after = st.integers(0, kernel - 1)
    padding = draw(st.one_of(st.integers(0, kernel // 2), st.tuples(before, after, before, after)))
    stride = draw(st.integers(1, 2))
    pool, reduce = draw(st.integers(1, 3)), kernel == 1 and draw(st.booleans())
    size = st.integers(1, 40)
    layer = make_layer(draw(size), draw(size), draw(size), draw(size), kernel, padding=padding,
                       stride=1 if reduce else stride, pool=1 if reduce else pool, reduce=reduce)
    assume(min(layer.conv_shape) >= 1 and min(layer.out_shape) >= 1)
    residual = None
    if not reduce and draw(st.booleans()):
        outputs, height, width = layer.conv_shape
        step, room = draw(st.integers(1, 2)), (outputs - 1) // config.channels
        offset = draw(st.integers(0, room)) * config.channels
        residual = (draw(st.integers(1, outputs - offset)),
                    *(step * edge - draw(st.integers(0, step - 1)) for edge in (height, width)))
        layer = replace(layer, residual_stride=step, residual_offset=offset)
    return Case(layer, residual, config)
