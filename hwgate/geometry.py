"""Geometry of layers in memory and in the buffers: maps, bands of rows, descriptor fields."""

from collections.abc import Iterator

from hwgate.config import TAPS, AcceleratorConfig
from hwgate.errors import CompileError
from hwgate.layouts import descriptor_layout
from hwgate.quant.network import QuantizedLayer

__all__ = ["describe", "kernel_blocks", "map_bytes", "plane_beats", "shortage", "split_rows"]

#: (C, H, W) of a feature map.
Shape = tuple[int, int, int]


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


def plane_beats(config: AcceleratorConfig, pixels: int) -> int:
    """Beats of one channel group of a feature map."""
    return _ceil(pixels, config.beat_pixels)


def map_bytes(config: AcceleratorConfig, shape: Shape) -> int:
    """Bytes of one image's feature map, ``[group][y][x][R]`` in whole beats per group."""
    channels, height, width = shape
    return _ceil(channels, config.channels) * plane_beats(config, height * width) * config.bus.bytes


def kernel_blocks(kernel: int) -> int:
    """Blocks of three taps along the edge of a kernel."""
    return _ceil(kernel, 3)


def _input_rows(layer: QuantizedLayer, top: int, rows: int) -> tuple[int, int, int]:
    """(first, count, padding above) of the input rows behind output rows ``top`` onwards."""
    height = layer.in_shape[1]
    above = top * layer.stride - layer.padding
    first = max(0, above)
    if rows == layer.conv_shape[1]:
        return 0, height, layer.padding
    end = min(height, above + (rows - 1) * layer.stride + layer.kernel)
    return first, end - first, first - above


def _window_words(layer: QuantizedLayer, rows: int, above: int) -> tuple[int, int]:
    """Window memory words of a row and of a channel group (nine groups of a 1x1 kernel)."""
    width = layer.in_shape[2]
    if layer.kernel == 1:
        return width, rows * width
    row_words = _ceil(width + 2 * layer.padding, 3)
    return row_words, row_words * _ceil(above + rows, 3)


def _shortage(layer: QuantizedLayer, residual: Shape | None, config: AcceleratorConfig, top: int,
              rows: int) -> tuple[str, int, int, str] | None:
    """What a band needs and the accelerator lacks: (what, needed, present, knob)."""
    buffers = config.buffers
    groups = _ceil(layer.in_shape[0], config.channels)
    passes = _ceil(groups, TAPS) if layer.kernel == 1 else groups
    out_channels, _, out_width = layer.conv_shape
    _, count, above = _input_rows(layer, top, rows)
    _, group_words = _window_words(layer, count, above)
    decided = 1 if layer.reduce else rows * out_width
    if residual is not None:  # its groups are whole, though the layer's last one may not be
        added = layer.residual_offset + _ceil(residual[0], config.channels) * config.channels
        out_channels = max(out_channels, added)
    words = _ceil(out_channels, config.lanes) * plane_beats(config, decided)
    for what, need, have, knob in (
            ("channel groups of a job", passes, buffers.passes, "passes"),
            ("window memory words", passes * group_words, buffers.window_words, "window_words"),
            ("output pixels", rows * out_width, buffers.pixels, "pixels"),
            ("output column words", words, buffers.output_words, "output_words")):
        if need > have:
            return what, need, have, knob
    return None


def shortage(layer: QuantizedLayer, residual: Shape | None, config: AcceleratorConfig,
             rows: int) -> str:
    """What the first ``rows`` rows of a layer need and the buffers lack; empty if they fit."""
    lack = _shortage(layer, residual, config, 0, rows)
    if lack is None:
        return ""
    what, need, have, knob = lack
    return f"{need:,} {what} of {have:,} (buffers.{knob})"


def split_rows(layer: QuantizedLayer, residual: Shape | None,
               config: AcceleratorConfig) -> Iterator[tuple[int, int]]:
    """Bands (first row, rows) of a layer's convolution: the fewest that fit the buffers.

    Bands begin at whole beats of the stored map and of the residual operand.

    Raises
    ------
    CompileError
        If not even the smallest band fits.
    """
    height = layer.conv_shape[1]
    lack = _shortage(layer, residual, config, 0, height)
    if lack is None:
        return iter([(0, height)])
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
            bands = [(top, rows if top < tops[-1] else height - top) for top in tops]
            lacks = [_shortage(layer, residual, config, *band) for band in bands]
            lack = max(filter(None, lacks), key=lambda found: found[1] / found[2], default=None)
            if lack is None:
                return iter(bands)
    what, need, have, knob = lack
    smallest = "" if layer.reduce else " even for the smallest band of rows"
    raise CompileError(f"Layer {layer.name!r} needs {need} {what}{smallest}, but the accelerator "
                       f"has {have}; raise buffers.{knob} or take a larger preset")


def describe(layer: QuantizedLayer, residual: Shape | None, config: AcceleratorConfig,
             top: int, rows: int) -> dict[str, int]:
    """Descriptor fields of a band that follow from the shapes; addresses relative to the maps."""
    beat_pixels, size = config.beat_pixels, config.bus.bytes
    channels, height, width = layer.in_shape
    out_channels, out_height, out_width = layer.conv_shape
    _, store_height, store_width = layer.out_shape
    groups, out_planes = _ceil(channels, config.channels), _ceil(out_channels, config.channels)
    whole, bank_mode = rows == out_height, layer.kernel == 1

    first, count, above = _input_rows(layer, top, rows)
    row_words, group_words = _window_words(layer, count, above)
    skip = first * width % beat_pixels
    in_beats, plane = _ceil(skip + count * width, beat_pixels), plane_beats(config, height * width)
    if top + rows == out_height:
        store_rows = store_height - top // layer.pool
    else:
        store_rows = rows // layer.pool
    step_q, step_m = (layer.stride, 0) if bank_mode else divmod(layer.stride, 3)
    return dict.fromkeys((f.name for f in descriptor_layout().fields), 0) | {
        "bank_mode": bank_mode, "reduce": layer.reduce, "relu": layer.relu,
        "relu_first": layer.relu_first, "pad": layer.padding, "pad_top": above,
        "kernel_blocks": kernel_blocks(layer.kernel), "step_q": step_q, "step_m": step_m,
        "row_step": step_q * row_words, "row_words": row_words, "group_words": group_words,
        "row_end": above + count, "col_end": layer.padding + width,
        "in_address": first * width // beat_pixels * size, "in_width": width,
        "in_planes": groups, "plane_words": count * width, "plane_beats": in_beats,
        "in_skip": skip, "in_runs": 1 if whole else groups, "in_run_stride": plane * size,
        "in_run_beats": groups * plane if whole else in_beats,
        "out_width": out_width, "out_pixels": rows * out_width, "out_channels": out_channels,
        "slot_words": plane_beats(config, 1 if layer.reduce else rows * out_width),
        "out_address": top // layer.pool * store_width // beat_pixels * size,
        "out_planes": out_planes, "out_beats": plane_beats(config, store_rows * store_width),
        "out_plane_stride": plane_beats(config, store_height * store_width) * size,
        "store_width": store_width, "store_pixels": store_rows * store_width,
        "pool": layer.pool, "pool_words": layer.pool * out_width,
        "last_channels": out_channels - (out_planes - 1) * config.channels,
        **(_describe_residual(layer, residual, config, top, rows) if residual else {})}


def _describe_residual(layer: QuantizedLayer, shape: Shape, config: AcceleratorConfig,
                       top: int, rows: int) -> dict[str, int]:
    channels, height, width = shape
    step, size = layer.residual_stride, config.bus.bytes
    whole = rows == layer.conv_shape[1]
    planes, plane = _ceil(channels, config.channels), plane_beats(config, height * width)
    first = top * step
    count = min(height, (top + rows) * step) - first
    beats = plane_beats(config, count * width)
    group = layer.residual_offset // config.channels
    slot_words = plane_beats(config, rows * layer.conv_shape[2])
    return {
        "res_planes": planes, "res_address": first * width // config.beat_pixels * size,
        "res_width": width, "res_words": count * width, "res_beats": beats, "res_step": step,
        "res_runs": 1 if whole else planes, "res_run_stride": plane * size,
        "res_run_beats": planes * plane if whole else beats, "res_group": group,
        "res_part": group % config.slot_groups,
        "res_slot": group // config.slot_groups * config.slot_reads * slot_words}
