"""Views: which channels of which blocks a value is made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgate.frontend.lowering.views import UNKNOWN, View, joined_view
from hwgate.quant.layer import IMAGE


def test_the_output_of_a_block():
    view = View.of(3, 4)
    assert view.channels == ((3, 0), (3, 1), (3, 2), (3, 3))
    assert view.maps == (3,) and view.plain and not view.unknown
    assert view.whole(4) == 3 and view.whole(5) is None
    assert view.placed((3,), (4,)) is None


def test_the_image_and_what_no_layer_computes():
    assert View.of(IMAGE, 2).whole(2) == IMAGE
    assert View.of(UNKNOWN, 2).unknown
    assert joined_view([View.of(0, 2), View.of(UNKNOWN, 1)]).unknown


def test_taking_channels():
    view = View.of(3, 4).taking([2, -1, 0, 2])
    assert view.channels == ((3, 2), None, (3, 0), (3, 2))
    assert view.maps == (3,) and view.whole(4) is None
    assert view.placed((3,), (4,)) == (2, -1, 0, 2)
    assert view.taking([1, 3]).channels == (None, (3, 2))
    assert View.of(3, 4).taking(range(4)).whole(4) == 3


def test_only_zeros_have_no_map():
    view = View.of(1, 2).taking([-1, -1, -1])
    assert view.maps == () and view.placed((), ()) == (-1, -1, -1)


def test_joining_values():
    view = joined_view([View.of(5, 2), View.of(IMAGE, 3), View.of(5, 2)])
    assert view.maps == (5, IMAGE) and view.whole(7) is None
    assert view.placed((5, IMAGE), (2, 3)) == (0, 1, 2, 3, 4, 0, 1)
    assert view.placed((IMAGE, 5), (3, 2)) == (3, 4, 0, 1, 2, 3, 4)
    assert joined_view([View.of(0, 2), View.of(4, 3)]).placed((0, 4), (2, 3)) is None


@pytest.mark.parametrize("options", [{"average": True}, {"stride": 2}])
def test_other_pixels_are_not_the_output(options):
    view = View(View.of(0, 3).channels, **options)
    assert not view.plain and view.whole(3) is None
    taken = view.taking([1])
    assert (taken.average, taken.stride) == (view.average, view.stride)
    with pytest.raises(AssertionError):
        joined_view([view, View.of(1, 2)])


@given(st.data())
def test_views_follow_arrays(data):
    """Whatever is joined and taken, in any order: ``placed`` finds the same values."""
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    maps = [np.arange(size) + 100 * n + 1 for n, size in enumerate(sizes)]
    pool = [(View.of(n, size), maps[n]) for n, size in enumerate(sizes)]
    for _ in range(data.draw(st.integers(1, 5))):
        parts = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
        view = joined_view([part for part, _ in parts])
        values = np.concatenate([values for _, values in parts])
        if data.draw(st.booleans()):
            chosen = data.draw(st.lists(st.integers(-1, len(values) - 1), min_size=1, max_size=6))
            view = view.taking(chosen)
            values = np.append(values, 0)[chosen]
        pool.append((view, values))
    order = data.draw(st.permutations(view.maps))
    side = np.concatenate([np.zeros(0, int), *(maps[n] for n in order)])
    places = view.placed(order, [sizes[n] for n in order])
    found = side if places is None else np.append(side, 0)[list(places)]
    np.testing.assert_array_equal(found, values)
    assert (places is None) == (len(side) == len(values) and bool((side == values).all()))
