"""Images of a batch in tiles: every image once, in buffers that hold it."""

import re
from math import ceil

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import hwgate
from hwgate.errors import CompileError, UserError
from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.machine.layouts import descriptor_layout
from hwgate.plan.geometry import Tiling, describe, plane_beats
from hwgate.plan.layer import Job, LayerPlan
from hwgate.plan.tiling import candidates
from hwgate.quant.network import QuantizedNetwork
from support.geometry_cases import cases, make_layer, placed_tiles


def found(case, batch):
    """Candidates of a layer with one block of weights."""
    try:
        bands = tuple(case.bands())
    except CompileError:
        assume(False)
    plan = LayerPlan(case.layer, case.layer, bands, (Job((0,), ()),), (), (((0, False),),), b"",
                     {"first_blocks": 1, "first_beats": 5})
    return candidates(plan, case.residual, case.config, batch)


def needs(case, d):
    """What the buffers must hold of a tile: (window words, psums, column words)."""
    groups = ceil(d["in_planes"] / TAPS) if d["bank_mode"] else d["in_planes"]
    outputs = d["out_channels"]
    if case.residual is not None:  # it comes in whole groups
        outputs = max(outputs, (d["res_group"] + d["res_planes"]) * case.config.channels)
    return (groups * d["group_words"], (d["images"] - 1) * d["slot_pixels"] + d["out_pixels"],
            ceil(outputs / case.config.lanes) * d["slot_words"])


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(1, 9))
def test_every_image_once_in_buffers_that_hold_it(case, batch):
    buffers = case.config.buffers
    for choice in found(case, batch):
        parts = choice.tiling.parts()
        rows = {(part.first, part.rows) for part in parts}
        for place in rows:
            own = [part for part in parts if (part.first, part.rows) == place]
            assert [n for part in own for n in range(part.image, part.image + part.images)
                    ] == list(range(batch))
        assert choice.tiling.per_tile == max(part.images for part in parts)
        assert len(rows) == 1 or choice.tiling.per_tile == 1, "bands have one image per tile"
        assert choice.tiling.tiles == len(rows) * ceil(batch / choice.tiling.per_tile) == len(parts)
        layer = describe(case.layer, case.residual, case.config, choice.tiling)
        descriptor_layout().pack(layer)
        for part, d in zip(parts, placed_tiles(layer), strict=True):
            assert (d["tiles"], d["images"]) == (len(parts), part.images)
            have = buffers.window_words, buffers.pixels, buffers.output_words
            assert all(n <= h for n, h in zip(needs(case, d), have, strict=True))


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(1, 9))
def test_numbers_end_where_one_more_image_does_not_fit(case, batch):
    choices = found(case, batch)
    numbers = [choice.tiling.per_tile for choice in choices]
    tiles = [ceil(batch / number) for number in numbers]
    assert numbers[0] == 1 and tiles == sorted(set(tiles), reverse=True)
    assert not any(choice.limit for choice in choices[:-1])
    limit, bands = choices[-1].limit, choices[-1].tiling.bands
    if limit == "the batch has no more":
        assert numbers[-1] == batch
    elif limit == "an image is divided into bands":
        assert numbers == [1] and len(bands) > 1
    else:
        said = re.fullmatch(r"(\d+) images need (\d+) (.+) of (\d+)", limit)
        assert said and ceil(batch / int(said[1])) <= tiles[-1] and int(said[2]) > int(said[4])
        d = describe(case.layer, case.residual, case.config,
                     Tiling(bands, int(said[1]), int(said[1])))
        names = "window memory words", "output pixels", "output column words"
        assert dict(zip(names, needs(case, d), strict=True))[said[3]] == int(said[2])


def beats(config, d, prefix, size):
    """Beats of a tile's requests, relative to the map."""
    return [(d[f"{prefix}_address"] + run * d[f"{prefix}_run_stride"]) // size + at
            for run in range(d[f"{prefix}_runs"]) for at in range(d[f"{prefix}_run_beats"])]


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(1, 6))
def test_requests_of_whole_maps(case, batch):
    """Every beat of every image once: read by plane, then image; written side by side."""
    config, size = case.config, case.config.bus.bytes
    for choice in found(case, batch):
        if len(choice.tiling.bands) > 1:
            continue
        stored = []
        layer = describe(case.layer, case.residual, config, choice.tiling)
        for part, d in zip(choice.tiling.parts(), placed_tiles(layer), strict=True):
            maps = {"in": case.layer.in_shape, "res": case.residual}
            for prefix, shape in maps.items():
                if shape is None:
                    continue
                plane = plane_beats(config, shape[1] * shape[2])
                groups = ceil(shape[0] / config.channels)
                assert beats(config, d, prefix, size) == [
                    (group * batch + image) * plane + at for group in range(groups)
                    for image in range(part.image, part.image + part.images)
                    for at in range(plane)]
            stored += [(d["out_address"] + group * d["out_plane_stride"]) // size + at
                       for group in range(d["out_planes"]) for at in range(d["out_run_beats"])]
        _, height, width = case.layer.out_shape
        groups = ceil(case.layer.conv_shape[0] / config.channels)
        assert sorted(stored) == list(range(
            groups * batch * plane_beats(config, height * width)))


@pytest.mark.parametrize("batch,most,images", [
    (1, None, [1]), (8, None, [8]), (8, 4, [4, 4]), (8, 3, [3, 3, 2]), (9, 4, [3, 3, 3]),
    (7, 4, [4, 3]), (5, 1, [1] * 5), (3, 9, [3])])
def test_tiles_are_few_and_even(batch, most, images):
    layer = make_layer(8, 2, 2, 8)
    config = AcceleratorConfig()
    plan = hwgate.compile(QuantizedNetwork(config, (layer,)), config).plans[0]
    options = candidates(plan, None, config, batch, most)
    parts = options[-1].tiling.parts()
    assert most is None or len(options) == 1
    assert [part.images for part in parts] == images
    assert [part.image for part in parts] == [sum(images[:n]) for n in range(len(images))]
    assert {(part.first, part.rows) for part in parts} == {(0, 2)}


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_images_per_tile_must_be_a_number(value):
    config = AcceleratorConfig()
    network = QuantizedNetwork(config, (make_layer(4, 2, 2, 4),))
    with pytest.raises(UserError, match=re.escape(
            f"Images per tile must be a positive integer or None, not {value!r}")):
        hwgate.compile(network, config, images_per_tile=value)
