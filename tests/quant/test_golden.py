"""Golden models of gate, requantizer, layer and network against plain Python integers."""

from dataclasses import asdict, replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig, FormatConfig, preset
from hwgate.quant.gate import close_idle, decide
from hwgate.quant.golden import base_psum, convolve, max_pool, psum_bound, run_layer
from hwgate.quant.joined import joined
from hwgate.quant.layer import IMAGE, QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from hwgate.quant.requantize import requantize
from hwgate.quant.tasks import task_list
from support.random_layers import DENSITIES, Features, Limits, fits, random_images, random_network
from support.shared_gates import share_gates

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
INT16 = st.integers(-(1 << 15), (1 << 15) - 1)
INT8 = st.integers(-128, 127)


def test_gate_opens_strictly_above_the_threshold():
    psums = np.array([-(1 << 31), 6, 7, 8, (1 << 31) - 1])
    assert decide(psums, np.int64(7)).tolist() == [False, False, False, True, True]
    assert decide(psums, np.int64(-(1 << 31))).tolist() == [False, True, True, True, True]
    assert not decide(psums, np.int64((1 << 31) - 1)).any()


@pytest.mark.parametrize("limit,kept", [(0, [1, 2, 3]), (1, [2, 3]), (2, [3]), (3, []),
                                        (65535, [])])
def test_few_open_gates_of_an_image_close(limit, kept):
    decisions = np.zeros((2, 2, 2, 2), bool)  # one, two, three and no open gate
    decisions[0, 0, 0, 1] = decisions[0, 1, 1] = decisions[1, 0, 0] = decisions[1, 0, 1, 0] = True
    found = close_idle(decisions, limit)
    counts = found.sum(axis=(2, 3))
    assert sorted(counts[counts > 0]) == kept and not (found & ~decisions).any()


def test_task_lists_of_images():
    decisions = [0, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1]
    assert task_list(decisions) == [1, 3, 4, 9, 10, 11] == task_list(decisions, 0, 3)
    assert task_list(decisions, 1, 3) == [3, 4, 9, 10, 11]
    assert task_list(decisions, 2, 3) == [9, 10, 11] and task_list(decisions, 3, 3) == []
    assert task_list(decisions, 5) == task_list(decisions) and not task_list(decisions, 6)
    assert task_list([]) == []


@given(INT32, INT32, INT16, st.integers(1, 47), st.sampled_from([-128, 0]), INT8, INT16)
def test_requantize_rounds_half_up_once(psum, bias, mult, shift, low, residual, mult_residual):
    exact = Fraction((psum + bias) * mult + residual * mult_residual, 1 << shift)
    wanted = min(max(floor(exact + Fraction(1, 2)), low), 127)
    assert requantize(psum, bias, mult, shift, low, 127, residual, mult_residual) == wanted


@pytest.mark.parametrize("psum,wanted", [(-4, -1), (-3, -1), (-2, 0), (1, 0), (2, 1), (6, 2)])
def test_requantize_ties(psum, wanted):
    assert requantize(psum, 0, 1, 2, -128, 127) == wanted


def plain_layer(layer, image, formats, added=None):
    """One image through a layer, one integer at a time: output, psums, decisions."""
    channels, height, width = layer.conv_shape
    (above, _, left, _), kernel, stride = layer.pads, layer.kernel, layer.stride
    low, high = formats.limits(formats.activation)
    if layer.reduce:
        places = [(0, 0, [(y, x) for y in range(height) for x in range(width)])]
    else:
        places = [(y, x, [(y, x)]) for y in range(height) for x in range(width)]
    values, psums, decisions = (np.zeros(layer.decision_shape, np.int64) for _ in range(3))
    for c in range(channels):
        gate = c if layer.gate is None else int(layer.gate[c])
        for y, x, pixels in places:
            sums, score = [0, 0], 0
            for py, px in pixels:
                for source in range(layer.in_shape[0]):
                    for i in range(kernel):
                        for j in range(kernel):
                            at = py * stride + i - above, px * stride + j - left
                            if 0 <= at[0] < layer.in_shape[1] and 0 <= at[1] < layer.in_shape[2]:
                                value = int(image[source, *at])
                                sums[int(layer.base[c, source])] += (
                                    int(layer.weight[c, source, i, j]) * value)
                                if layer.score is not None:
                                    score += int(layer.score[gate, source, i, j]) * value
            compared = sums[1] if layer.score is None else score
            opened = layer.threshold is None or compared > int(layer.threshold[gate])
            psum = sums[1] + sums[0] * opened
            scaled = (psum + int(layer.bias[c, int(opened)])) * int(layer.mult[c, int(opened)])
            if layer.relu_first:
                scaled = max(scaled, 0)
            if added is not None and 0 <= c - layer.residual_offset < len(added):
                step = layer.residual_stride
                operand = added[c - layer.residual_offset, y * step, x * step]
                scaled += int(operand) * int(layer.mult_residual[c])
            rounded = floor(Fraction(scaled, 1 << int(layer.shift[c])) + Fraction(1, 2))
            values[c, y, x] = min(max(rounded, 0 if layer.relu else low), high)
            psums[c, y, x], decisions[c, y, x] = psum, opened
        if 0 < decisions[c].sum() <= layer.limit:  # as if no gate could open
            closed = np.full_like(layer.threshold, 1 << 40)
            found = plain_layer(replace(layer, threshold=closed, limit=0, pool=1), image, formats,
                                added)
            values[c], psums[c], decisions[c] = (maps[c] for maps in found)
    edge, (_, out_height, out_width) = layer.pool, layer.out_shape
    output = np.array([[[values[c, y * edge:(y + 1) * edge, x * edge:(x + 1) * edge].max()
                         for x in range(out_width)] for y in range(out_height)]
                       for c in range(channels)])
    return output, psums, decisions.astype(bool)


def check_contract(network, image):
    """Every layer of a run on one image against :func:`plain_layer`."""
    maps = [network.quantize_images(image)[0]]
    for index, (layer, found) in enumerate(zip(network.layers, network.run(image), strict=True)):
        added = None if layer.residual is None else maps[layer.residual + 1]
        x = np.concatenate([maps[n + 1] for n in network.inputs(index)])
        output, psum, decision = plain_layer(layer, x, network.config.formats, added)
        np.testing.assert_array_equal(found.output[0], output)
        np.testing.assert_array_equal(found.psum[0], psum)
        np.testing.assert_array_equal(found.decision[0], decision)
        assert found.output.dtype == np.int8 and found.output.shape[1:] == layer.out_shape
        maps.append(found.output[0])


FORMATS = pytest.mark.parametrize("formats", [FormatConfig(), FormatConfig(activation=4, weight=3)],
                                  ids=["int8", "int4"])


@pytest.mark.parametrize("seed", range(6))
@FORMATS
def test_layer_is_the_contract(formats, seed):
    rng = np.random.default_rng(seed)
    config = AcceleratorConfig(channels=2, formats=formats)
    network = random_network(rng, config, layers=2, gated=True, reduce=bool(seed % 2))
    check_contract(network, random_images(rng, network, 1))


@pytest.mark.parametrize("seed", range(12))
@FORMATS
def test_graph_is_the_contract(formats, seed):
    rng = np.random.default_rng(seed)
    config = AcceleratorConfig(channels=2, formats=formats)
    network = random_network(rng, config, layers=4, limits=Limits(size=7, channels=8),
                             features=Features.every())
    check_contract(network, random_images(rng, network, 1))


@pytest.mark.parametrize("seed", range(12))
def test_shared_gates_are_the_contract(seed):
    rng = np.random.default_rng(seed)
    network = random_network(rng, AcceleratorConfig(channels=2), layers=3, gated=True,
                             limits=Limits(size=7, channels=8), features=Features.every())
    images = random_images(rng, network, 1)
    network = share_gates(rng, network, images, lambda layer, residual: True)
    assert any(layer.gate is not None for layer in network.layers)
    check_contract(network, images)


@pytest.mark.parametrize("feature,share", [
    ("stride", lambda net, n: net.layers[n].stride == 2),
    ("pointwise", lambda net, n: net.layers[n].kernel == 1 and not net.layers[n].reduce),
    ("kernels", lambda net, n: net.layers[n].kernel > 3),
    ("residual", lambda net, n: net.layers[n].residual is not None),
    ("branches", lambda net, n: len(net.inputs(n)) == 1 and net.inputs(n) != (n - 1,)),
    ("relu_first", lambda net, n: net.layers[n].relu_first),
    ("asymmetric", lambda net, n: len(set(net.layers[n].pads)) > 1),
    ("grouped", lambda net, n: net.layers[n].fan_in is not None),
    ("zeros", lambda net, n: net.layers[n].fan_in is None and not net.layers[n].weight.any(
        axis=(1, 2, 3)).all()),
    ("joined", lambda net, n: len(net.inputs(n)) > 1),
    ("tau", lambda net, n: net.layers[n].limit > 0),
], ids=lambda v: v if isinstance(v, str) else "")
def test_random_networks_have_the_features_asked_for(feature, share):
    config = AcceleratorConfig()
    every = asdict(Features.every())
    without = Features(**{**every, feature: type(every[feature])()})
    counts = []
    for features in (Features.every(), without):
        found = [share(net, n) for seed in range(30)
                 for net in [random_network(np.random.default_rng(seed), config, layers=4,
                                            features=features)]
                 for n in range(len(net.layers))]
        counts.append(sum(found) / len(found))
    assert counts[0] > 0.08 and counts[1] == 0


def test_random_residuals_matter():
    """Outputs change with the residual, and with the ReLU before it."""
    config, moved, first = AcceleratorConfig(), [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        net = random_network(rng, config, layers=3, features=Features.every())
        image = random_images(rng, net, 2)
        results = net.run(image)
        for index, layer in enumerate(net.layers):
            if layer.residual is None:
                continue
            maps = [image if n == IMAGE else results[n].output
                    for n in (*net.inputs(index), layer.residual)]
            x, added = joined(maps[:-1]), maps[-1]
            for changed, seen in ((replace(layer, mult_residual=0 * layer.mult_residual), moved),
                                  (replace(layer, relu_first=False), first)):
                if layer.relu_first or seen is moved:
                    again = run_layer(changed, x, config.formats, added).output
                    seen.append((again != results[index].output).mean())
    assert len(moved) > 30 and np.mean(moved) > 0.2 and len(first) > 8 and np.mean(first) > 0.1


def test_residual_is_added_with_one_rounding():
    layer = QuantizedLayer(
        "sum", np.ones((4, 1, 1, 1), np.int8), np.ones((4, 1), bool), None,
        np.array([[0, 0], [0, 0], [-9, -9], [0, 0]]), np.ones((4, 2), np.int64), np.full(4, 9),
        (1, 1, 2), residual=IMAGE, mult_residual=np.full(4, 256), relu=False)
    x = np.array([[[[3, -1]]]], np.int8)

    def outputs(**changes):
        return run_layer(replace(layer, **changes), x, residual=x).output[0, :, 0].tolist()

    # (3 + 3*256 + 256) >> 9 = 2, where (3 >> 9) + round(1.5) would be 2 and -1 - 0.5 would be -1
    assert outputs() == [[2, -1], [0, 0], [0, 0], [0, 0]]
    assert outputs(residual_offset=2) == [[0, 0], [0, 0], [1, -1], [0, 0]]
    assert outputs(residual_offset=2, relu_first=True) == [[0, 0], [0, 0], [2, 0], [0, 0]]
    assert outputs(residual_offset=2, relu=True) == [[0, 0], [0, 0], [1, 0], [0, 0]]


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_exact_and_strided(kernel, stride):
    rng = np.random.default_rng(0)
    x, weight = (rng.integers(-128, 128, shape).astype(np.int8)
                 for shape in ((2, 5, 7, 6), (3, 5, kernel, kernel)))
    for padding in range(kernel // 2 + 1):
        if min(x.shape[2:]) + 2 * padding >= kernel:
            wanted = torch.nn.functional.conv2d(
                torch.from_numpy(x).long(), torch.from_numpy(weight).long(), None, stride, padding)
            np.testing.assert_array_equal(convolve(x, weight, padding, stride), wanted.numpy())


def test_convolution_is_exact_at_its_largest_sums():
    x, weight = np.full((1, 1200, 3, 3), -128, np.int8), np.full((2, 1200, 3, 3), -127, np.int8)
    weight[1] = 1
    weight[1, 0, 0, 0] = -128
    for channels in (1, 100, 114, 115, 1200):  # from 2^24 on in double precision
        sums = convolve(x[:, :channels], weight[:, :channels]).ravel().tolist()
        assert sums == [128 * 127 * 9 * channels, 128 * 128 - 128 * (9 * channels - 1)]


def test_max_pool_drops_remainders():
    x = np.arange(35, dtype=np.int8).reshape(1, 1, 5, 7)
    assert max_pool(x, 2).tolist() == [[[[8, 10, 12], [22, 24, 26]]]]
    assert max_pool(x, 1) is not None and max_pool(x, 3).shape == (1, 1, 1, 2)


def tied_layer():
    """Base psums 1, 2, 3 at three pixels, threshold 2, conditional path worth 100."""
    return QuantizedLayer(
        "tie", np.array([[[[1]], [[100]]]], np.int8), np.array([[True, False]]), np.array([2]),
        np.array([[0, 0]]), np.array([[2, 2]]), np.array([1]), (2, 1, 3))


def test_closed_gate_keeps_the_partial_sum_and_ties_close():
    found = run_layer(tied_layer(), np.array([[[[1, 2, 3]], [[1, 1, 1]]]], np.int8))
    assert found.decision.ravel().tolist() == [False, False, True]
    assert found.psum.ravel().tolist() == [1, 2, 103]
    assert found.output.ravel().tolist() == [1, 2, 103]


def test_closed_and_open_pixels_have_their_own_parameters():
    layer = replace(tied_layer(), bias=np.array([[10, -10]]), mult=np.array([[2, -2]]), relu=False)
    found = run_layer(layer, np.array([[[[1, 2, 3]], [[1, 1, 1]]]], np.int8))
    assert found.output.ravel().tolist() == [11, 12, -93]


def network(**formats):
    return QuantizedNetwork(AcceleratorConfig(formats=FormatConfig(**formats)),
                            (replace(tied_layer(), in_scale=0.5),))


def test_images_round_half_to_even_and_clamp():
    steps = network().quantize_images([[[[0.25, 0.75, 100]], [[-100, -0.75, 0.3]]]])
    assert steps.tolist() == [[[[0, 2, 127]], [[-128, -2, 1]]]] and steps.dtype == np.int8
    assert network(activation=4).quantize_images(np.full((1, 2, 1, 3), 9.0)).max() == 7
    assert torch.equal(torch.from_numpy(network().quantize_images(torch.rand(1, 2, 1, 3)) > 2),
                       torch.zeros(1, 2, 1, 3, dtype=torch.bool))


def test_images_are_normalized():
    scaled = replace(network(), image_mean=np.array([1.0, 2.0]), image_std=np.array([2.0, 4.0]))
    assert scaled.quantize_images(np.full((1, 2, 1, 3), 9.0))[0, :, 0, 0].tolist() == [8, 4]


def test_integer_images_pass():
    images = np.array([[[[1, 2, 3]], [[1, 1, 1]]]], np.int8)
    np.testing.assert_array_equal(network().quantize_images(images), images)
    assert network()(images).tolist() == [[1, 2, 103]]


@pytest.mark.parametrize("images,sentence", [
    (np.zeros((1, 2, 1, 3), np.uint8), "Images must be float or int8, not uint8"),
    (np.zeros((2, 1, 3)), "Images must have the shape (N, 2, 1, 3), not (2, 1, 3)"),
    (np.zeros((1, 2, 3, 1)), "Images must have the shape (N, 2, 1, 3), not (1, 2, 3, 1)"),
    (np.zeros((0, 2, 1, 3)), "A batch must have at least one image, not 0"),
    (np.full((1, 2, 1, 3), np.nan), "Images must be finite, not NaN or infinite"),
    (np.full((1, 2, 1, 3), 9, np.int8), "Quantized images must be in -8..7, not 9..9"),
], ids=["type", "rank", "shape", "empty", "nan", "range"])
def test_bad_images(images, sentence):
    with pytest.raises(UserError) as error:
        network(activation=4)(images)
    assert str(error.value) == sentence


def test_forced_open_is_one_ungated_sum():
    rng = np.random.default_rng(1)
    gated = random_network(rng, AcceleratorConfig(), layers=1, gated=True, density="mixed",
                           reduce=False)
    images = random_images(rng, gated, 2)
    dense, layer = gated.force_open(), gated.layers[0]
    found = dense.run(images)[0]
    assert layer.gated and not dense.layers[0].gated and found.decision.all()
    np.testing.assert_array_equal(found.psum, convolve(images, layer.weight, layer.padding))
    opened = gated.run(images)[0].decision
    np.testing.assert_array_equal(found.psum[opened], gated.run(images)[0].psum[opened])
    assert dense.layers[0].base_macs == dense.layers[0].macs == layer.macs


@pytest.mark.parametrize("name", ["digits", "tiny", "wide"])
@pytest.mark.parametrize("density", DENSITIES)
def test_random_networks_fit_and_decide_as_asked(name, density):
    config, open_shares, mixed = preset(name), [], 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        net = random_network(rng, config, gated=True, density=density)
        images = random_images(rng, net, 3)
        for layer, found in zip(net.layers, net.run(images), strict=True):
            assert fits(layer, None, config) and (psum_bound(layer, config.formats) < 1 << 31).all()
            assert np.abs(layer.mult).max() <= 1 << 15 and np.abs(layer.bias).max() <= 1 << 31
            assert layer.shift.min() >= 1 and layer.shift.max() <= 47
            if layer.gated:
                open_shares.append(found.decision.mean())
                mixed += 0 < open_shares[-1] < 1
                ends = np.arange(0, layer.in_shape[0], config.channels)
                assert (np.add.reduceat(layer.base, ends, axis=1)
                        % np.diff([*ends, layer.in_shape[0]]) == 0).all()
                assert layer.base.any(1).all() and not layer.base.all(1).any()
                assert base_psum(layer, images).shape == found.psum.shape
            images = found.output
    assert len(open_shares) >= 3
    assert {"closed": max(open_shares) == 0, "open": min(open_shares) == 1,
            "mixed": mixed > len(open_shares) / 2}.get(density, mixed > 0)


def test_random_networks_stay_inside_a_narrow_accumulator():
    config = AcceleratorConfig(formats=FormatConfig(accumulator=20))
    for seed in range(10):
        for layer in random_network(np.random.default_rng(seed), config).layers:
            assert psum_bound(layer, config.formats).max() < 1 << 19
