"""Places of values that only move: what views, slices, splits and padding amount to."""

import pytest
import torch
from torch.nn import functional as F

from hwgate.frontend.readers.moves import ZERO, Moved, selection, spatial_padding

SHAPE = (4, 3, 5)
BATCH = 2


def moved(*moves):
    value = Moved.of("x", SHAPE)
    for move in moves:
        value = value.through(move, BATCH)
    return value


@pytest.mark.parametrize("moves", [
    (), (lambda x: x.flatten(1), lambda x: x.reshape(2, 4, 3, 5)),
    (lambda x: x.permute(0, 2, 3, 1), lambda x: x.permute(0, 3, 1, 2)),
    (lambda x: F.pad(x, (1, 0), value=ZERO), lambda x: x[..., 1:])], ids=range(4))
def test_moves_that_cancel(moves):
    assert moved(*moves).plain


def test_a_shuffle():
    found = moved(lambda x: x.reshape(2, 2, 2, 3, 5), lambda x: x.transpose(1, 2),
                  lambda x: x.reshape(2, 4, 3, 5))
    channels, rows, columns = selection(found)
    assert channels == [0, 2, 1, 3]
    assert spatial_padding(rows, 3) == spatial_padding(columns, 5) == (1, 0, 0)


def test_a_padding_shortcut():
    found = moved(lambda x: x[:, :, ::2, ::2],
                  lambda x: F.pad(x, (0, 0, 0, 0, 1, 3), value=ZERO))
    channels, rows, columns = selection(found)
    assert channels == [ZERO, 0, 1, 2, 3, ZERO, ZERO, ZERO]
    assert spatial_padding(rows, 3) == (2, 0, 0) and spatial_padding(columns, 5) == (2, 0, 0)


def test_padding_and_parts():
    first, second = moved().through(lambda x: x.split([1, 3], 1), BATCH)
    assert selection(first)[0] == [0] and selection(second)[0] == [1, 2, 3]
    _, rows, columns = selection(moved(lambda x: F.pad(x, (1, 2, 3, 0), value=ZERO)))
    assert spatial_padding(rows, 3) == (1, 3, 0) and spatial_padding(columns, 5) == (1, 1, 2)


@pytest.mark.parametrize("move", [
    lambda x: x.flip(2), lambda x: x[:, :, 1:], lambda x: x.transpose(2, 3),
    lambda x: x.roll(1, 3)], ids=["flip", "crop", "transpose", "roll"])
def test_what_is_no_whole_map(move):
    found = selection(moved(move))
    assert found is None or None in (spatial_padding(found[1], 3), spatial_padding(found[2], 5))


@pytest.mark.parametrize("move", [
    lambda x: x.flip(0), lambda x: x.transpose(0, 1), lambda x: x.flatten(0, 1),
    lambda x: torch.cat([x[1:], x[:1]])], ids=["flip", "transpose", "flatten", "roll"])
def test_images_stay_apart(move):
    with pytest.raises(ValueError, match="^moves values between images$"):
        moved(move)
