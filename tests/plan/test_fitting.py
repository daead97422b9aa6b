"""The smallest buffers that hold layers, against trying them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgate.errors import CompileError
from hwgate.machine.config import AcceleratorConfig, BufferConfig
from hwgate.plan.fitting import (
    FIELDS,
    Placed,
    changed_fields,
    described,
    lack_of,
    presets_by_size,
    smallest,
    widest,
)
from hwgate.plan.geometry import split_rows
from hwgate.plan.layer import plan_layer
from support.geometry_cases import cases, make_layer

CONFIG = AcceleratorConfig()


def fit(layers, config):
    """Whether all layers can be divided into bands."""
    try:
        return bool([split_rows(*placed, config) for placed in layers])
    except CompileError:
        return False


@settings(max_examples=150, deadline=None)
@given(st.lists(cases(), min_size=1, max_size=3))
def test_no_field_can_be_lowered(found):
    layers, config = [Placed(case.layer, case.residual) for case in found], found[0].config
    raised = smallest(layers, config)
    assert raised is not None  # none of these layers is too large for the largest buffers
    assert fit(layers, raised)
    assert (raised is config) == fit(layers, config)
    changes = changed_fields(config, raised)
    assert set(changes) <= set(FIELDS)
    assert replace(raised, buffers=config.buffers) == config
    for name, value in changes.items():
        assert value > getattr(config.buffers, name)
        assert not fit(layers, replace(raised, buffers=replace(raised.buffers, **{
            name: value // 2})))


def test_the_largest_buffers_are_those_that_a_configuration_may_have():
    buffers = widest(CONFIG).buffers
    assert buffers == BufferConfig(passes=1 << 10, window_words=1 << 14, pixels=1 << 14,
                                   output_words=1 << 16)
    assert smallest([Placed(make_layer(4, 8, 50_000, 4), None)], CONFIG) is None


def test_a_layer_with_a_tau_must_fit_in_one_band():
    base = np.zeros((8, 12), bool)
    base[:, :4] = True
    layer = replace(make_layer(12, 20, 20, 8), base=base, threshold=np.zeros(8, np.int64), limit=7)
    placed = Placed(layer, None)
    lack = lack_of(placed, CONFIG)
    assert lack is not None and (lack.need, lack.have, lack.knob) == (400, 256, "pixels")
    assert lack_of(Placed(replace(layer, limit=0), None), CONFIG) is None
    raised = smallest([placed], CONFIG)
    assert changed_fields(CONFIG, raised) == {"pixels": 512}
    assert len(plan_layer(layer, None, raised).bands) == 1


def test_maps_that_exceed_the_fields_of_a_descriptor():
    large = Placed(make_layer(2, 256, 256, 2, stride=2), None)
    assert described(large, widest(CONFIG)) == (
        "256 input rows of 256 pixels; the loader counts 65,534 pixels of a channel group")
    assert not described(large, smallest([large], CONFIG))


@pytest.mark.parametrize("earlier, later", [("tiny", "digits"), ("digits", "cifar"),
                                            ("cifar", "resident"), ("resident", "wide")])
def test_presets_from_small_to_large(earlier, later):
    names = presets_by_size()
    assert names.index(earlier) < names.index(later)
