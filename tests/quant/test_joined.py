"""Maps side by side: an order in memory in which every layer finds its maps as one."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgate.quant.joined import joined, side_by_side

MAPS = range(5)
RUNS = st.lists(st.lists(st.sampled_from(MAPS), min_size=1, max_size=3), max_size=5)


def lies_together(order, run):
    """Whether a run of maps is in an order as it is, one behind the other."""
    return any(order[at:at + len(run)] == tuple(run) for at in range(len(order)))


def order_exists(runs):
    """By trying every order of the maps."""
    return any(all(lies_together(order, run) for run in runs) for order in permutations(MAPS))


def connected(runs):
    """Sets of maps that runs chain together."""
    sets = [{n} for run in runs for n in run]
    for run in runs:
        touched = [own for own in sets if own & set(run)]
        sets = [own for own in sets if not own & set(run)] + [set().union(*touched)]
    return {frozenset(own) for own in sets}


@given(RUNS)
def test_an_order_is_found_where_there_is_one(runs):
    """The first run that has none is named, and those before it hold."""
    chains, conflict = side_by_side(runs)
    wanted = next((n for n in range(len(runs)) if not order_exists(runs[:n + 1])), None)
    assert conflict == wanted
    for run in runs[:conflict]:
        assert lies_together(chains[run[0]], run)


@given(RUNS)
def test_chains_are_no_longer_than_runs_make_them(runs):
    chains, conflict = side_by_side(runs)
    if conflict is None:
        assert {frozenset(chain) for chain in chains.values()} == connected(runs)
    for n, chain in chains.items():
        assert n in chain and len(set(chain)) == len(chain)
        assert all(chains[other] is chain for other in chain)


@pytest.mark.parametrize("runs, conflict", [
    ([(0, 1), (1, 2), (0, 1, 2)], None),
    ([(0, 1, 2), (1, 2, 3), (2,)], None),
    ([(0, 0)], 0),
    ([(2, 1, 2)], 0),
    ([(0, 1), (1, 0)], 1),
    ([(0, 1), (1, 2), (2, 0)], 2),
    ([(0, 1), (0, 2)], 1),
    ([(0, 2), (3,), (1, 2)], 2),
    ([(0, 2, 1), (0, 1)], 1),
], ids=["chain", "overlap", "twice", "twice, apart", "swapped", "circle", "two behind one",
        "two before one", "skips one"])
def test_what_cannot_lie_side_by_side(runs, conflict):
    assert side_by_side(runs)[1] == conflict


def test_a_run_with_a_conflict_has_no_place():
    """And those behind it have theirs."""
    chains, conflict = side_by_side([(0, 1), (0, 2), (3, 4)])
    assert conflict == 1 and chains == {0: (0, 1), 1: (0, 1), 3: (3, 4), 4: (3, 4)}


def test_channels_come_one_map_after_the_other():
    rng = np.random.default_rng(0)
    maps = [rng.integers(-9, 10, (2, channels, 3, 4)).astype(np.int8) for channels in (3, 1, 2)]
    found = joined(maps)
    assert found.shape == (2, 6, 3, 4) and found.dtype == np.int8
    for (start, end), own in zip(pairwise((0, 3, 4, 6)), maps, strict=True):
        np.testing.assert_array_equal(found[:, start:end], own)
    assert joined(maps[:1]) is maps[0]
