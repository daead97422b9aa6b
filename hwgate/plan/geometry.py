"""Geometry of layers in memory and in the buffers: maps, bands of rows, descriptor fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hwgate.errors import CompileError
from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.machine.layouts import FIRST, LAST, descriptor_layout
from hwgate.quant.layer import QuantizedLayer

__all__ = ["Band", "Lack", "Part", "Shape", "Tiling", "bands_or_lack", "describe", "image_beats",
           "kernel_blocks", "map_bytes", "map_lack", "most_images", "plane_beats", "shortage",
           "split_rows"]

#: Most pixels of a channel group that the loader counts, those before its first row among them;
#: one more is no number of early words.
_MOST_WORDS = 0xFFFE

#: (C, H, W) of a feature map.
Shape = tuple[int, int, int]


class Band(NamedTuple):
    """First row and number of rows of a convolution's output, before pooling."""

    first: int
    rows: int


class Part(NamedTuple):
    """What one tile computes: rows of a layer's convolution, for some images of a batch.

    ``first`` and ``rows`` are those of its band; ``image`` is the first of its ``images`` images.
    """

    first: int
    rows: int
    image: int
    images: int


class Lack(NamedTuple):
    """What a tile needs, and the accelerator has too little of: of ``buffers.knob``."""

    what: str
    need: int
    have: int
    knob: str


@dataclass(frozen=True)
class Tiling:
    """How a layer of a batch is divided into tiles: image after image into bands of rows, or the
    images.

    Parameters
    ----------
    bands : tuple of Band
        From top to bottom; one if a tile has all rows.
    images : int
        Images of the batch.
    per_tile : int
        Images of a tile, 1 if there are several bands; the last tile may have fewer.
    """

    bands: tuple[Band, ...]
    images: int = 1
    per_tile: int = 1

    @property
    def round_tiles(self) -> int:
        """Tiles of a round, of which only the first and the last one may differ from the others:
        the bands of an image, or all tiles."""
        return self.tiles if len(self.bands) == 1 else len(self.bands)

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return len(self.bands) * _ceil(self.images, self.per_tile)

    def part(self, tile: int) -> Part:
        """What a tile computes; the tile behind the last one would begin at its ``image``."""
        number, band = divmod(tile, len(self.bands))
        image = number * self.per_tile
        return Part(*self.bands[band], image, min(self.per_tile, self.images - image))

    def parts(self) -> list[Part]:
        """What each tile computes."""
        return [self.part(tile) for tile in range(self.tiles)]


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


def plane_beats(config: AcceleratorConfig, pixels: int) -> int:
    """Beats of one channel group of a feature map."""
    return _ceil(pixels, config.beat_pixels)


def image_beats(config: AcceleratorConfig, fields: Mapping[str, int]) -> int:
    """Beats that a tile with these descriptor fields reads of a channel group of an image."""
    return _ceil(fields["in_skip"] + fields["in_rows"] * fields["in_width"], config.beat_pixels)


def map_bytes(config: AcceleratorConfig, shape: Shape) -> int:
    """Bytes of one image's feature map; those of a batch are ``[group][image][y][x][R]``, in whole
    beats per group and image."""
    channels, height, width = shape
    return _ceil(channels, config.channels) * plane_beats(config, height * width) * config.bus.bytes


def kernel_blocks(kernel: int) -> int:
    """Blocks of three taps along the edge of a kernel."""
    return _ceil(kernel, 3)


def _input_rows(layer: QuantizedLayer, top: int, rows: int) -> tuple[int, int, int]:
    """(first, count, padding above) of the input rows behind output rows ``top`` onwards."""
    height = layer.in_shape[1]
    above = top * layer.stride - layer.pads[0]
    first = max(0, above)
    if rows == layer.conv_shape[1]:
        return 0, height, layer.pads[0]
    end = min(height, above + (rows - 1) * layer.stride + layer.kernel)
    return first, end - first, first - above


def _place(layer: QuantizedLayer, config: AcceleratorConfig, top: int,
           rows: int) -> tuple[int, int, int]:
    """(input rows, padding above, pixels of the first beat before them) of a band."""
    first, count, above = _input_rows(layer, top, rows)
    return count, above, first * layer.in_shape[2] % config.beat_pixels


def _window_words(layer: QuantizedLayer, rows: int, above: int) -> tuple[int, int]:
    """Window memory words of a row and of a channel group (nine groups of a 1x1 kernel)."""
    width = layer.in_shape[2]
    if layer.kernel == 1:
        return width, rows * width
    row_words = _ceil(layer.pads[2] + width, 3)
    return row_words, row_words * _ceil(above + rows, 3)


def _shortage(layer: QuantizedLayer, residual: Shape | None, config: AcceleratorConfig, top: int,
              rows: int, images: int = 1) -> Lack | None:
    """What a tile needs and the accelerator lacks."""
    buffers = config.buffers
    groups = _ceil(layer.in_shape[0], config.channels)
    passes = _ceil(groups, TAPS) if layer.kernel == 1 else groups
    out_channels, _, out_width = layer.conv_shape
    _, count, above = _input_rows(layer, top, rows)
    _, image_words = _window_words(layer, count, above)
    # The windows of a further image begin at a whole word of the output column.
    decided = 1 if layer.reduce else rows * out_width
    words = images * plane_beats(config, decided)
    pixels = (images - 1) * plane_beats(config, decided) * config.beat_pixels + rows * out_width
    if residual is not None:  # its groups are whole, though the layer's last one may not be
        added = layer.residual_offset + _ceil(residual[0], config.channels) * config.channels
        out_channels = max(out_channels, added)
    for what, need, have, knob in (
            ("channel groups of a job", passes, buffers.passes, "passes"),
            ("window memory words", passes * images * image_words, buffers.window_words,
             "window_words"),
            ("output pixels", pixels, buffers.pixels, "pixels"),
            ("output column words", _ceil(out_channels, config.lanes) * words,
             buffers.output_words, "output_words")):
        if need > have:
            return Lack(what, need, have, knob)
    return None


def most_images(layer: QuantizedLayer, residual: Shape | None, config: AcceleratorConfig,
                images: int) -> tuple[int, str]:
    """Most of ``images`` images that one tile can hold, and in words why not more; 1 for a layer
    in bands of rows."""
    height = layer.conv_shape[1]
    for count in range(1, images + 1):
        lack = _shortage(layer, residual, config, 0, height, count)
        if lack is not None:
            what, need, have, _ = lack
            limit = f"{count} images need {need} {what} of {have}"
            return max(1, count - 1), limit if count > 1 else "an image is divided into bands"
    return images, "the batch has no more"


def shortage(layer: QuantizedLayer, residual: Shape | None, config: AcceleratorConfig,
             rows: int) -> str:
    """What the first ``rows`` rows of a layer need and the buffers lack; empty if they fit."""
    lack = _shortage(layer, residual, config, 0, rows)
    if lack is None:
        return ""
    what, need, have, knob = lack
    return f"{need:,} {what} of {have:,} (buffers.{knob})"


def map_lack(layer: QuantizedLayer, residual: Shape | None,
             config: AcceleratorConfig) -> Lack | None:
    """What all rows of a layer together need, and the buffers lack."""
    return _shortage(layer, residual, config, 0, layer.conv_shape[1])


def split_rows(layer: QuantizedLayer, residual: Shape | None,
               config: AcceleratorConfig) -> tuple[Band, ...]:
    """Bands of rows of a layer's convolution: the fewest that fit the buffers.

    Bands begin at whole beats of the stored map and of the residual operand. Those between the
    first and the last one are alike: they have as many rows and as many input rows, all of them
    in the map, and begin at the same pixel of a beat.

    Raises
    ------
    CompileError
        If not even the smallest band fits.
    """
    found = bands_or_lack(layer, residual, config)
    if not isinstance(found, Lack):
        return found
    smallest = "" if layer.reduce else " even for the smallest band of rows"
    raise CompileError(f"Layer {layer.name!r} needs {found.need} {found.what}{smallest}, but the "
                       f"accelerator has {found.have}; raise buffers.{found.knob} or take a larger "
                       "preset")


def bands_or_lack(layer: QuantizedLayer, residual: Shape | None,
                  config: AcceleratorConfig) -> tuple[Band, ...] | Lack:
    """Bands as of :func:`split_rows`, or what its smallest band lacks most."""
    height = layer.conv_shape[1]
    lack = _shortage(layer, residual, config, 0, height)
    if lack is None:
        return (Band(0, height),)
    steps = [layer.out_shape[2]]
    if residual is not None:
        steps.append(layer.pool * layer.residual_stride * residual[2])
    unit = next(n for n in range(1, config.beat_pixels + 1)
                if all(n * step % config.beat_pixels == 0 for step in steps))
    stored = height - height % layer.pool
    if not layer.reduce:
        for rows in range(stored // (unit * layer.pool) * unit * layer.pool, 0,
                          -unit * layer.pool):
            # The last band has the rest, rows that pooling drops among it.
            tops = range(0, stored, rows)
            bands = tuple(Band(top, rows if top < tops[-1] else height - top) for top in tops)
            if len({_place(layer, config, *band) for band in bands[1:-1]}) > 1:
                continue
            lacks = [_shortage(layer, residual, config, *band) for band in bands]
            lack = max(filter(None, lacks), key=lambda found: found.need / found.have, default=None)
            if lack is None:
                return bands
    return lack


def describe(layer: QuantizedLayer, residual: Shape | None, config: AcceleratorConfig,
             tiling: Tiling) -> dict[str, int]:
    """Descriptor fields of a layer that follow from the shapes; addresses are relative to the maps,
    and there are none of the weights."""
    last = tiling.round_tiles - 1
    tiles = [_describe_tile(layer, residual, config, tiling, tile)
             for tile in (0, min(1, max(0, last - 1)), last)]
    same = {name: max(tile[name] for tile in tiles)
            for name in ("image_words", "group_words", "slot_words", "slot_pixels")}
    group = layer.residual_offset // config.channels
    if residual is not None:
        same["res_slot"] = group // config.slot_groups * config.slot_reads * same["slot_words"]
    return (dict.fromkeys((f.name for f in descriptor_layout().fields), 0) | tiles[0]
            | {name: tiles[1][name] for name in FIRST}
            | {f"{name}_first": tiles[0][name] for name in FIRST}
            | {f"{name}_last": tiles[2].get(name, 0) for name in LAST} | same)


def _describe_tile(layer: QuantizedLayer, residual: Shape | None, config: AcceleratorConfig,
                   tiling: Tiling, tile: int) -> dict[str, int]:
    """Fields under their plain names, as one tile has them."""
    beat_pixels, size, part = config.beat_pixels, config.bus.bytes, tiling.part(tile)
    channels, _, width = layer.in_shape
    out_channels, out_height, out_width = layer.conv_shape
    _, store_height, store_width = layer.out_shape
    groups, out_planes = _ceil(channels, config.channels), _ceil(out_channels, config.channels)
    top, rows, images, bank_mode = part.first, part.rows, part.images, layer.kernel == 1

    first, count, above = _input_rows(layer, top, rows)
    row_words, image_words = _window_words(layer, count, above)
    skip = first * width % beat_pixels
    in_beats = _ceil(skip + count * width, beat_pixels)
    if skip + count * width > _MOST_WORDS:
        raise ValueError(f"{count} input rows of {width:,} pixels; the loader counts "
                         f"{_MOST_WORDS:,} pixels of a channel group")
    if top + rows == out_height:
        store_rows = store_height - top // layer.pool
    else:
        store_rows = rows // layer.pool
    decided, kept = rows * out_width, 1 if layer.reduce else rows * out_width
    out_beats = plane_beats(config, store_rows * store_width)
    out_plane = plane_beats(config, store_height * store_width) * size
    step_q, step_m = (layer.stride, 0) if bank_mode else divmod(layer.stride, 3)

    def row_of(part: Part) -> int:
        return _input_rows(layer, part.first, part.rows)[0]

    def out_address(part: Part) -> int:
        return (part.image * out_plane
                + part.first // layer.pool * store_width // beat_pixels * size)

    return {
        "bank_mode": bank_mode, "reduce": layer.reduce, "relu": layer.relu,
        "relu_first": layer.relu_first, "pad": layer.pads[2], "pad_top": above,
        "kernel_blocks": kernel_blocks(layer.kernel), "step_q": step_q, "step_m": step_m,
        "row_step": step_q * row_words, "row_words": row_words, "image_words": image_words,
        "group_words": images * image_words, "tiles": tiling.tiles,
        "round_tiles": tiling.round_tiles, "images": images,
        "row_end": above + count, "col_end": layer.pads[2] + width,
        **_runs("in", config, tiling, tile, layer.in_shape, in_beats, row_of),
        "in_width": width, "in_planes": groups, "in_rows": count, "in_skip": skip,
        **_early(layer, above, skip, tiling.per_tile),
        "out_width": out_width, "out_pixels": decided, "out_channels": out_channels,
        "job_outputs": images * kept, "slot_words": images * plane_beats(config, kept),
        "slot_pixels": plane_beats(config, kept) * beat_pixels,
        "out_address": out_address(part), "out_plane_stride": tiling.images * out_plane,
        "out_stride": _further(tiling, tile, out_address),
        "out_planes": out_planes, "out_beats": out_beats, "out_run_beats": images * out_beats,
        "store_width": store_width, "store_pixels": store_rows * store_width,
        "pool": layer.pool, "pool_words": layer.pool * out_width,
        "last_channels": out_channels - (out_planes - 1) * config.channels,
        **(_describe_residual(layer, residual, config, tiling, tile) if residual else {})}


def _further(tiling: Tiling, tile: int, address: Callable[[Part], int]) -> int:
    """Bytes from a tile's address to the next one's, which may lie before it, modulo 2**32."""
    return (address(tiling.part(tile + 1)) - address(tiling.part(tile))) % (1 << 32)


def _runs(prefix: str, config: AcceleratorConfig, tiling: Tiling, tile: int, shape: Shape,
          beats: int, row_of: Callable[[Part], int]) -> dict[str, int]:
    """Where a tile's share of maps of a shape lies: per group and image ``beats`` beats, from a row
    on that ``row_of`` tells."""
    channels, height, width = shape
    plane, size = plane_beats(config, height * width), config.bus.bytes
    groups, images = _ceil(channels, config.channels), tiling.part(tile).images
    joined = images == tiling.images and len(tiling.bands) == 1

    def address(part: Part) -> int:
        return (part.image * plane + row_of(part) * width // config.beat_pixels) * size

    return {
        f"{prefix}_address": address(tiling.part(tile)),
        f"{prefix}_stride": _further(tiling, tile, address),
        f"{prefix}_runs": 1 if joined else groups,
        f"{prefix}_run_stride": tiling.images * plane * size,
        f"{prefix}_run_beats": images * beats * (groups if joined else 1)}


def _early(layer: QuantizedLayer, above: int, skip: int, per_tile: int) -> dict[str, int]:
    """Pixels of a channel group that a pass waits for: it follows the loader row by row."""
    width = layer.in_shape[2]
    # Nine groups share a pass of a 1x1 kernel, and are loaded one after the other; so are images.
    if layer.kernel == 1 or per_tile > 1:
        return {"early_words": 0xFFFF}
    return {"early_words": skip + max(1, (layer.kernel - above) * width),
            "early_step": layer.stride * width}


def _describe_residual(layer: QuantizedLayer, shape: Shape, config: AcceleratorConfig,
                       tiling: Tiling, tile: int) -> dict[str, int]:
    channels, height, width = shape
    step, part = layer.residual_stride, tiling.part(tile)
    count = min(height, (part.first + part.rows) * step) - part.first * step
    beats, group = plane_beats(config, count * width), layer.residual_offset // config.channels
    return {
        **_runs("res", config, tiling, tile, shape, beats, lambda part: part.first * step),
        "res_planes": _ceil(channels, config.channels), "res_width": width,
        "res_words": count * width, "res_beats": beats, "res_step": step, "res_group": group,
        "res_part": group % config.slot_groups}
