"""Bands of rows and descriptor fields, against what a convolution touches row by row."""

import re
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from hypothesis import assume, given, settings

from hwgate.errors import CompileError
from hwgate.machine.config import TAPS, AcceleratorConfig, BufferConfig, BusConfig
from hwgate.machine.layouts import descriptor_layout
from hwgate.plan.geometry import (
    image_beats,
    kernel_blocks,
    map_bytes,
    plane_beats,
    split_rows,
)
from hwgate.plan.layer import plan_layer
from hwgate.quant.layer import KERNELS
from hwgate.quant.loader import feature_map
from support.geometry_cases import Case, cases, make_layer, placed_tiles

ROOMY = BufferConfig(window_words=1 << 14, pixels=1 << 14, output_words=1 << 16, passes=1 << 10)


def rows_read(layer, top, rows):
    """Input rows that output rows ``top`` onwards touch; all of them if the layer runs whole."""
    if rows == layer.conv_shape[1]:
        return list(range(layer.in_shape[1]))
    touched = {row * layer.stride - layer.pads[0] + tap for row in range(top, top + rows)
               for tap in range(layer.kernel)}
    return sorted(touched & set(range(layer.in_shape[1])))


def buffers_needed(case, top, rows):
    """What the buffers must hold of a band: (passes, window words, pixels, column words)."""
    layer, config = case.layer, case.config
    groups = ceil(layer.in_shape[0] / config.channels)
    width, read = layer.in_shape[2], rows_read(layer, top, rows)
    loaded = read[-1] + 1 - read[0]  # rows between those are loaded as well
    if layer.kernel == 1:
        passes, words = ceil(groups / TAPS), loaded * width
    else:
        above = max(0, layer.pads[0] - top * layer.stride)
        passes = groups
        words = ceil((layer.pads[2] + width) / 3) * ceil((above + loaded) / 3)
    pixels = rows * layer.conv_shape[2]
    slots = ceil(layer.conv_shape[0] / config.lanes)
    if case.residual is not None:  # it comes in whole groups
        last = layer.residual_offset + ceil(case.residual[0] / config.channels) * config.channels
        slots = max(slots, ceil(last / config.lanes))
    columns = slots * ceil((1 if layer.reduce else pixels) / config.beat_pixels)
    return passes, passes * words, pixels, columns


def fits(case, top, rows):
    buffers = case.config.buffers
    have = buffers.passes, buffers.window_words, buffers.pixels, buffers.output_words
    return all(need <= h for need, h in zip(buffers_needed(case, top, rows), have, strict=True))


def heights(case):
    """Heights of bands that begin at whole beats and whole pooling windows."""
    layer, beat = case.layer, case.config.beat_pixels
    for rows in range(layer.pool, layer.conv_shape[1], layer.pool):
        stored = rows // layer.pool * layer.out_shape[2]
        operand = rows * layer.residual_stride * case.residual[2] if case.residual else 0
        if stored % beat == 0 and operand % beat == 0:
            yield rows


def alike(case, bands):
    """Those between the first and the last one read as many rows, all of the map, and begin at the
    same pixel of a beat."""
    layer, found = case.layer, set()
    for top, rows in bands[1:-1]:
        read = rows_read(layer, top, rows)
        found.add((read[-1] - read[0], max(0, layer.pads[0] - top * layer.stride),
                   read[0] * layer.in_shape[2] % case.config.beat_pixels))
    return len(found) <= 1


def divisions(case):
    """Every division into bands of one height, the last with what is left over."""
    height, rest = case.layer.conv_shape[1], case.layer.conv_shape[1] % case.layer.pool
    yield [(0, height)]
    if not case.layer.reduce:
        for rows in heights(case):
            tops = range(0, height - rest, rows)
            bands = [(top, rows if top != tops[-1] else height - top) for top in tops]
            if alike(case, bands):
                yield bands


@settings(deadline=None, max_examples=100)
@given(cases())
def test_bands_cover_every_row_once_and_fit(case):
    possible = [bands for bands in divisions(case) if all(fits(case, *band) for band in bands)]
    try:
        bands = case.bands()
    except CompileError as error:
        assert not possible
        found = re.fullmatch(
            r"Layer 'conv' needs (\d+) (channel groups of a job|window memory words|output pixels|"
            r"output column words)( even for the smallest band of rows)?, but the accelerator has "
            r"(\d+); raise buffers\.(\w+) or take a larger preset", str(error))
        assert int(found[1]) > int(found[4]) == getattr(case.config.buffers, found[5])
        assert (found[3] is None) == case.layer.reduce
        roomy = replace(case, config=replace(case.config, buffers=ROOMY))
        assert roomy.bands() == [(0, case.layer.conv_shape[1])]
        return
    assert [row for top, rows in bands for row in range(top, top + rows)] == list(
        range(case.layer.conv_shape[1]))
    assert all(fits(case, *band) for band in bands)
    assert len(bands) == min(map(len, possible)), "as few as there can be"
    assert all(top % case.layer.pool == 0 for top, _ in bands)


def bands_or_discard(case):
    try:
        return case.described()
    except CompileError:
        assume(False)


@settings(deadline=None, max_examples=100)
@given(cases())
def test_fields_fit_the_descriptor_and_the_buffers(case):
    buffers = case.config.buffers
    described = bands_or_discard(case)
    descriptor_layout().pack(case.fields())
    for _, rows, fields in described:
        groups = ceil(fields["in_planes"] / TAPS) if fields["bank_mode"] else fields["in_planes"]
        assert groups <= buffers.passes and groups * fields["group_words"] <= buffers.window_words
        assert fields["out_pixels"] == rows * case.layer.conv_shape[2] <= buffers.pixels
        slots = ceil(fields["out_channels"] / case.config.lanes)
        assert slots * fields["slot_words"] <= buffers.output_words
        assert fields["in_skip"] < case.config.beat_pixels
        assert fields["pad"] <= 3 and fields["pad_top"] <= 3


@settings(deadline=None, max_examples=100)
@given(cases())
def test_windows_of_a_band_lie_over_the_rows_it_loads(case):
    """Rows are counted in the band's own padded map, ``pad_top`` of it above the first."""
    layer, beat = case.layer, case.config.beat_pixels
    height, width = layer.in_shape[1:]
    for top, rows, fields in bands_or_discard(case):
        pixel = fields["in_address"] // case.config.bus.bytes * beat + fields["in_skip"]
        first, column = divmod(pixel, width)
        count = fields["in_rows"]
        assert column == 0 and fields["row_end"] == fields["pad_top"] + count
        read = rows_read(layer, top, rows)
        assert list(range(first, first + count)) == list(range(read[0], read[-1] + 1))
        for row in range(rows):
            corner = (top + row) * layer.stride - layer.pads[0]
            assert first + row * layer.stride - fields["pad_top"] == corner
        # The band's rows are padded where the map ends, and nowhere else.
        assert fields["pad_top"] == 0 or first == 0
        last = (top + rows - 1) * layer.stride - layer.pads[0] + layer.kernel
        assert first + count >= min(height, last)


@settings(deadline=None, max_examples=100)
@given(cases())
def test_a_row_of_windows_waits_for_the_pixels_it_reads(case):
    """No fewer and, unless the band ends before the window does, no more."""
    layer, width = case.layer, case.layer.in_shape[2]
    for top, rows, fields in bands_or_discard(case):
        if layer.kernel == 1:
            assert fields["early_words"] == 0xFFFF
            continue
        first = rows_read(layer, top, rows)[0]
        for row in range(rows):
            taps = [(top + row) * layer.stride - layer.pads[0] + tap for tap in range(layer.kernel)]
            read = max(set(taps) & set(range(layer.in_shape[1])))
            pixels = fields["in_skip"] + (read + 1 - first) * width
            waits = fields["early_words"] + row * fields["early_step"]
            assert waits >= pixels and (waits == pixels or read < taps[-1])


@settings(deadline=None, max_examples=100)
@given(cases())
def test_requests_cover_the_rows_and_stay_in_their_planes(case):
    layer, config = case.layer, case.config
    size, beat = config.bus.bytes, config.beat_pixels
    groups = ceil(layer.in_shape[0] / config.channels)
    plane = plane_beats(config, layer.in_shape[1] * layer.in_shape[2])
    for _, _, fields in bands_or_discard(case):
        asked = [fields["in_address"] // size + run * fields["in_run_stride"] // size + at
                 for run in range(fields["in_runs"]) for at in range(fields["in_run_beats"])]
        first = fields["in_address"] // size * beat + fields["in_skip"]
        last = first + fields["in_rows"] * fields["in_width"] - 1
        wanted = [group * plane + at for group in range(groups)
                  for at in range(first // beat, last // beat + 1)]
        assert asked == wanted and len(asked) == groups * image_beats(config, fields)


@settings(deadline=None, max_examples=100)
@given(cases())
def test_bands_store_every_beat_once(case):
    layer, config = case.layer, case.config
    _, height, width = layer.out_shape
    size, stored, pixels = config.bus.bytes, [], 0
    for top, _, fields in bands_or_discard(case):
        assert fields["out_address"] // size * config.beat_pixels == top // layer.pool * width
        first = fields["out_address"] // size
        stored += range(first, first + fields["out_beats"])
        pixels += fields["store_pixels"]
        assert fields["out_beats"] == ceil(fields["store_pixels"] / config.beat_pixels)
        assert fields["out_plane_stride"] == plane_beats(config, height * width) * size
    assert stored == list(range(plane_beats(config, height * width))) and pixels == height * width


@settings(deadline=None, max_examples=100)
@given(cases())
def test_bands_of_an_image_are_those_of_every_image(case):
    """Side by side in every channel group of the batch."""
    alone, size = bands_or_discard(case), case.config.bus.bytes
    tiles, images = list(placed_tiles(case.fields(3))), 3
    shapes = {"in": case.layer.in_shape, "out": case.layer.out_shape, "res": case.residual}
    assert len(tiles) == images * len(alone)
    strides = {name for name in alone[0][2] if name.endswith("_stride")}
    joined = {"in_runs", "in_run_beats", "res_runs", "res_run_beats"} if len(alone) == 1 else set()
    for number, fields in enumerate(tiles):
        image, band = divmod(number, len(alone))
        one = alone[band][2]
        for prefix, shape in shapes.items():
            if shape is not None:
                plane = plane_beats(case.config, shape[1] * shape[2]) * size
                name = f"{prefix}_address"
                assert fields[name] == one[name] + image * plane
        rest = {name for name in one if not name.endswith("_address")} - strides - joined
        assert {name for name in rest if one[name] != fields[name]} <= {
            "tiles", "round_tiles", *(f"{name}_{which}" for name in joined | strides
                                      for which in ("first", "last"))}


@settings(deadline=None, max_examples=150)
@given(cases())
def test_operands_of_a_band_are_those_of_its_outputs(case):
    """Every ``res_step``-th row and column of what is read, and no word beyond the columns."""
    layer, config = case.layer, case.config
    if case.residual is None:
        for _, _, fields in bands_or_discard(case):
            assert not any(value for name, value in fields.items() if name.startswith("res_"))
        return
    channels, height, width = case.residual
    groups, step = ceil(channels / config.channels), layer.residual_stride
    plane = plane_beats(config, height * width)
    for top, rows, fields in bands_or_discard(case):
        pixel = fields["res_address"] // config.bus.bytes * config.beat_pixels
        first, column = divmod(pixel, width)
        assert column == 0 and fields["res_width"] == width and fields["res_step"] == step
        read = range(first, first + fields["res_words"] // width)
        assert list(read[::step]) == [step * row for row in range(top, top + rows)]
        asked = [(fields["res_address"] + run * fields["res_run_stride"]) // config.bus.bytes + at
                 for run in range(fields["res_runs"]) for at in range(fields["res_run_beats"])]
        start = pixel // config.beat_pixels
        assert asked == [group * plane + at for group in range(groups)
                         for at in range(start, start + fields["res_beats"])]
        # Output channel 0 of the operand, in the columns: lane c mod lanes, slot c div lanes.
        slot, lane = divmod(layer.residual_offset, config.lanes)
        assert fields["res_slot"] == slot * fields["slot_words"]
        assert fields["res_part"] == lane // config.channels
        assert fields["res_group"] == layer.residual_offset // config.channels
        last = ceil((layer.residual_offset + groups * config.channels) / config.lanes)
        assert last * fields["slot_words"] <= config.buffers.output_words


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 3, 5), (9, 4, 4), (5, 1, 7)])
@pytest.mark.parametrize("config", [
    AcceleratorConfig(), AcceleratorConfig(channels=8, bus=BusConfig(data_bits=64))],
    ids=lambda c: f"R{c.channels}")
def test_bytes_of_a_map_are_those_of_its_layout(shape, config):
    stored = feature_map(np.zeros(shape, np.int8), config.channels, config.beat_pixels)
    assert map_bytes(config, shape) == stored.size
    assert plane_beats(config, shape[1] * shape[2]) * config.bus.bytes == stored[0].size


def test_kernels_in_blocks_of_three():
    assert [kernel_blocks(kernel) for kernel in KERNELS] == [1, 1, 2, 3]


def test_the_first_band_of_a_large_kernel_fits():
    """It has the most rows of padding above, and almost all rows of the map."""
    buffers = replace(AcceleratorConfig().buffers, window_words=16)
    layer = make_layer(1, 8, 6, 1, 7, stride=2)
    case = Case(layer, None, replace(AcceleratorConfig(channels=2), buffers=buffers))
    assert [fits(case, *band) for band in case.bands()] == [True] * len(case.bands())


def test_a_layer_that_sums_its_pixels_is_not_divided():
    buffers = replace(AcceleratorConfig().buffers, pixels=16)
    layer = make_layer(4, 5, 5, 10, 1, reduce=True)
    with pytest.raises(CompileError, match=re.escape(
            "Layer 'conv' needs 25 output pixels, but the accelerator has 16; "
            "raise buffers.pixels or take a larger preset")):
        split_rows(layer, None, replace(AcceleratorConfig(), buffers=buffers))


def test_a_row_that_does_not_fit():
    buffers = replace(AcceleratorConfig().buffers, window_words=16)
    with pytest.raises(CompileError, match=re.escape(
            "Layer 'conv' needs 22 window memory words even for the smallest band of rows, but the "
            "accelerator has 16; raise buffers.window_words or take a larger preset")):
        split_rows(make_layer(4, 64, 64, 4), None, replace(AcceleratorConfig(), buffers=buffers))


def test_tau_counts_whole_maps():
    layer = make_layer(12, 20, 20, 8, 3)
    base = np.zeros((8, 12), bool)
    base[:, :4] = True
    layer = replace(layer, base=base, threshold=np.zeros(8, np.int64), limit=7)
    roomy = replace(AcceleratorConfig(), buffers=ROOMY)
    assert plan_layer(layer, None, roomy).fields["gate_limit"] == 7
    buffers = replace(AcceleratorConfig().buffers, pixels=128)
    with pytest.raises(CompileError, match=re.escape(
            "Layer 'conv' has a tau, which counts the open gates of whole maps, but its maps run "
            "in 4 bands of rows; train it with tau=0, or give the accelerator larger buffers")):
        plan_layer(layer, None, replace(AcceleratorConfig(), buffers=buffers))
