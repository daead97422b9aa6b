"""Jobs of a layer: which weight blocks they have, and what a layer takes as it lies in memory."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgate.machine.config import TAPS, AcceleratorConfig, BusConfig
from hwgate.machine.layouts import Gated, header_layout
from hwgate.plan.geometry import kernel_blocks
from hwgate.plan.layer import _REQUEST_CYCLES, _least, plan_layer, stored_layer
from hwgate.quant.golden import base_psum, convolve
from support.geometry_cases import make_layer

CONFIGS = [AcceleratorConfig(), AcceleratorConfig(lanes=2, channels=8),
           AcceleratorConfig(lanes=8, channels=2, bus=BusConfig(data_bits=64))]


@st.composite
def thin_layers(draw, kernels=(1, 3, 5)):
    """A configuration and a layer of which each output channel has weights in some groups; gated,
    most of the time."""
    config, kernel = draw(st.sampled_from(CONFIGS)), draw(st.sampled_from(kernels))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    size = config.channels * (TAPS if kernel == 1 else 1)
    channels = draw(st.integers(1, 5 * size))
    groups = -(-channels // size)
    layer = make_layer(channels, 6, 5, draw(st.integers(1, 12)), kernel)
    weight = rng.integers(-9, 10, layer.weight.shape)
    keeps = rng.random((len(weight), groups)) < rng.choice([0.0, 0.3, 1.0], (len(weight), 1))
    weight = weight * np.repeat(keeps, size, axis=1)[:, :channels, None, None]
    layer = replace(layer, weight=weight.astype(np.int8))
    if groups > 1 and rng.random() < 0.7:
        base = np.array([np.isin(np.arange(groups), rng.permutation(groups)[:rng.integers(
            1, groups)]) for _ in weight])
        layer = replace(layer, base=np.repeat(base, size, axis=1)[:, :channels],
                        threshold=rng.integers(-99, 99, len(weight)))
    return config, layer


def groups_of(config, layer):
    """Of each output channel: groups with weights in the base and the conditional path, and all
    groups of each path."""
    size = config.channels * (TAPS if layer.kernel == 1 else 1)
    count = -(-layer.in_shape[0] // size)
    parts = [slice(n * size, (n + 1) * size) for n in range(count)]
    found = []
    for weight, base in zip(layer.weight, layer.base, strict=True):
        used = {n for n in range(count) if weight[parts[n]].any()}
        own = {n for n in range(count) if base[parts[n]].all() or not layer.gated}
        found.append((used & own, used - own, own, set(range(count)) - own))
    return found


@settings(deadline=None, max_examples=100)
@given(thin_layers())
def test_jobs_have_the_blocks_with_weights(case):
    """And, where a path has none, one of zeros; in the base path maybe more, see below."""
    config, layer = case
    plan, blocks = plan_layer(layer, None, config), kernel_blocks(layer.kernel) ** 2
    for job, (base, conditional, own, others) in zip(plan.jobs, groups_of(config, layer),
                                                     strict=True):
        assert list(job.base) == sorted(job.base) and list(job.conditional) == sorted(
            job.conditional)
        assert base <= set(job.base) <= own and job.base
        assert len(job.base) == blocks * len(set(job.base))
        assert len(job.conditional) == blocks * len(set(job.conditional))
        if layer.gated and not conditional:
            assert len(set(job.conditional)) == 1 and set(job.conditional) <= others
        else:
            assert set(job.conditional) == conditional


@settings(deadline=None, max_examples=100)
@given(thin_layers())
def test_base_blocks_are_as_many_as_spare_requests(case):
    """Each job has the least number of groups, or all that its path has."""
    config, layer = case
    plan, blocks = plan_layer(layer, None, config), kernel_blocks(layer.kernel) ** 2
    found = groups_of(config, layer)
    _, height, width = layer.conv_shape
    count = -(-layer.in_shape[0] // (config.channels * (TAPS if layer.kernel == 1 else 1)))
    used = np.array([[n in base for n in range(count)] for base, *_ in found])
    least = _least(used, height * width)
    for job, (base, _, own, _) in zip(plan.jobs, found, strict=True):
        assert len(set(job.base)) == min(max(len(base), least), len(own))
    assert plan.fields["first_blocks"] == min(config.request_blocks, min(
        len(job.base) for job in plan.jobs))
    assert plan.fields["first_blocks"] >= min(config.request_blocks, blocks)


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8),
       st.integers(1, 100))
def test_the_least_number_of_groups_costs_least(used, pixels):
    """Against every number: a group of zeros costs its pixels, a further request its latency."""
    counts = [max(1, sum(own)) for own in used]

    def cost(least):
        added = sum(max(0, least - count) for count in counts) * pixels
        return added + sum(count > least for count in counts) * _REQUEST_CYCLES

    least = _least(np.array(used), pixels)
    assert cost(least) == min(map(cost, range(1, 5)))


@pytest.mark.parametrize("thin, pixels, least", [
    (1, 30, 4), (7, 30, 1), (0, 30, 4), (8, 30, 1), (1, 1000, 1)],
    ids=["one of eight", "seven of eight", "none", "all", "one, a large map"])
def test_few_thin_channels_take_zeros(thin, pixels, least):
    """Channels of one group among those of four."""
    used = np.ones((8, 4), bool)
    used[:thin, 1:] = False
    assert _least(used, pixels) == least


def test_a_thin_channel_does_not_split_the_requests_of_the_others():
    config = AcceleratorConfig()
    layer = make_layer(16, 2, 2, 32)
    layer.weight[5, 4:] = 0
    plan = plan_layer(layer, None, config)
    assert plan.jobs[5].base == (0, 1, 2, 3) and plan.fields["first_blocks"] == 4
    large = plan_layer(replace(layer, in_shape=(16, 32, 32)), None, config)
    assert large.jobs[5].base == (0,) and large.fields["first_blocks"] == 1


@settings(deadline=None, max_examples=100)
@given(thin_layers())
def test_headers_say_which_groups_come(case):
    """Bitmaps have the groups of a job, and its weight stream their blocks."""
    config, layer = case
    plan, layout = plan_layer(layer, None, config), header_layout(config)
    blocks, stride = kernel_blocks(layer.kernel) ** 2, plan.fields["job_stride"]
    for channel, job in enumerate(plan.jobs):
        at = plan.places[channel, False] * stride
        header = layout.unpack(plan.stream[at:at + layout.size_bytes])
        for path, own in (("base", job.base), ("cond", job.conditional)):
            assert header[f"{path}_bitmap"] == sum(1 << group for group in set(own))
            assert header[f"{path}_blocks"] == len(own) == blocks * header[
                f"{path}_bitmap"].bit_count()
        assert header["gated"] == (Gated.OWN if layer.gated else Gated.NONE)
        rest = np.frombuffer(plan.stream[at + layout.size_bytes:at + stride], np.int8)
        assert (rest != 0).sum() == (layer.weight[channel] != 0).sum()


@settings(deadline=None, max_examples=60)
@given(thin_layers(kernels=(1, 3)), st.data())
def test_a_layer_as_it_is_stored_computes_the_same(case, data):
    """Its input has holes where maps side by side have no whole groups; whatever is in them."""
    config, layer = case
    channels, size = layer.in_shape[0], config.channels
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, channels - 1)), max_size=3)))
    ends = [cut for cut in cuts if cut < channels] + [channels]
    parts = np.diff([0, *ends]).tolist()
    room = [-(-part // size) * size for part in parts]
    stored, rng = stored_layer(layer, parts, config), np.random.default_rng(len(parts))
    x = rng.integers(-99, 100, (2, *layer.in_shape)).astype(np.int8)
    lying = rng.integers(-99, 100, (2, sum(room), *layer.in_shape[1:])).astype(np.int8)
    for part, start, place in zip(parts, np.cumsum([0, *parts]), np.cumsum([0, *room]),
                                  strict=False):
        lying[:, place:place + part] = x[:, start:start + part]
    assert stored.in_shape[0] == (channels if parts[:-1] == room[:-1] else sum(room))
    lying = lying[:, :stored.in_shape[0]]
    np.testing.assert_array_equal(convolve(lying, stored.weight, stored.pads),
                                  convolve(x, layer.weight, layer.pads))
    if layer.gated:
        np.testing.assert_array_equal(base_psum(stored, lying), base_psum(layer, x))
