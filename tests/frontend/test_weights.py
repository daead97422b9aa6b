"""Weights of blocks as layers have them, against the convolutions that they come from."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from hwgate.frontend.graph import Node
from hwgate.frontend.lowering.blocks import Block, averaging, copying
from hwgate.frontend.lowering.limits import kernel_edge
from hwgate.frontend.lowering.weights import fan_in, padding, square_weights


def block(weight, channels=None, **options):
    """A block of a convolution, or of a linear layer for a matrix."""
    if weight.ndim == 2:
        node = Node("x", "Linear", (), (len(weight),), tensors={"weight": weight})
    else:
        options = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1,
                   **options}
        node = Node("x", "Conv", (), (len(weight), 1, 1), tensors={"weight": weight},
                    options=options)
    return Block("x", "x", node, (0,), channels)


def computed(made, maps, steps):
    """What a layer computes that reads maps of integers, side by side."""
    weight = square_weights(made, made.op.tensors["weight"].numpy(), [len(m[0]) for m in maps],
                            steps)
    pads = padding(made)
    top, bottom, left, right = (pads,) * 4 if isinstance(pads, int) else pads
    x = F.pad(torch.cat(maps, 1), (left, right, top, bottom)) * max(steps)
    return F.conv2d(x, torch.from_numpy(weight), stride=made.op.options.get("stride", 1))


@given(st.data())
def test_any_convolution_of_any_channels(data):
    """Groups, dilation, kernels of any shape, channels from anywhere, maps in other steps."""
    draw = data.draw
    groups, own, outputs = (draw(st.integers(1, n), f"n{n}") for n in (4, 3, 2))
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    down = draw(st.integers(1, 3 if rows > 1 else 1).filter(lambda d: (rows - 1) * d < 7))
    across = draw(st.integers(1, 3 if columns > 1 else 1).filter(lambda d: (columns - 1) * d < 7))
    tall, wide = (rows - 1) * down + 1, (columns - 1) * across + 1
    pads = (*(draw(st.integers(0, min(tall - 1, 3))) for _ in range(2)),
            *(draw(st.integers(0, min(wide - 1, 3))) for _ in range(2)))
    stride = draw(st.sampled_from([1, 2]))
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    steps = [draw(st.sampled_from([1.0, 0.5, 0.125, 3.0])) for _ in sizes]
    count = groups * own
    channels = draw(st.lists(st.integers(-1, sum(sizes) - 1), min_size=count, max_size=count))
    if count == sum(sizes) and draw(st.booleans()):
        channels = None
    generator = torch.manual_seed(draw(st.integers(0, 99)))
    weight = torch.randn(groups * outputs, own, rows, columns, generator=generator).double()
    maps = [torch.randint(-9, 9, (2, size, 9, 8), generator=generator).double() for size in sizes]

    real = torch.cat([m * step for m, step in zip(maps, steps, strict=True)]
                     + [torch.zeros(2, 1, 9, 8)], 1)
    x = real[:, :-1] if channels is None else real[:, channels]
    top, bottom, left, right = pads
    wanted = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, stride=stride,
                      dilation=(down, across), groups=groups)
    made = block(weight, None if channels is None else tuple(channels), stride=(stride, stride),
                 padding=pads, dilation=(down, across), groups=groups)
    torch.testing.assert_close(computed(made, maps, steps), wanted)


def test_a_linear_layer_on_channels_in_another_order():
    weight = torch.randn(3, 4, generator=torch.manual_seed(0)).double()
    made = block(weight, (2, -1, 0, 2))
    found = square_weights(made, weight.numpy(), [1, 2], [1.0, 2.0])
    assert found.shape == (3, 3, 1, 1) and padding(made) == 0
    wanted = np.stack([weight[:, 2] / 2, torch.zeros(3), weight[:, 0] + weight[:, 3]], 1)
    np.testing.assert_allclose(found[:, :, 0, 0], wanted)


@pytest.mark.parametrize("kernel, dilation, given, wanted", [
    ((3, 3), (1, 1), (1, 1, 1, 1), 1), ((3, 3), (1, 1), (1, 0, 1, 0), (1, 0, 1, 0)),
    ((4, 4), (1, 1), (1, 1, 1, 1), (1, 2, 1, 2)), ((1, 3), (1, 1), (0, 0, 1, 1), (0, 2, 1, 1)),
    ((3, 3), (2, 2), (2, 2, 2, 2), 2), ((2, 2), (3, 1), (0, 0, 0, 0), (0, 1, 0, 3)),
    ((2, 6), (1, 1), (0, 0, 0, 0), (0, 5, 0, 1))])
def test_zeros_around_are_padding(kernel, dilation, given, wanted):
    assert padding(block(torch.ones(1, 1, *kernel), padding=given, dilation=dilation)) == wanted


def test_the_smallest_kernel():
    assert [kernel_edge(n, 1) for n in range(1, 9)] == [1, 3, 3, 5, 5, 7, 7, None]
    assert kernel_edge(2, 6) == 7 and kernel_edge(3, 8) is None


@pytest.mark.parametrize("stride", [1, 2])
def test_a_copy_hands_on_its_map(stride):
    x = torch.randint(-9, 9, (2, 5, 7, 6), generator=torch.manual_seed(0)).double()
    node = copying("y", (5, 7, 6), "y", stride)
    found = computed(Block("y", "y", node, (0,)), [x], [1.0])
    torch.testing.assert_close(found, x[:, :, ::stride, ::stride])
    assert node.shape == found.shape[1:]


def test_an_average_hands_on_its_channels():
    made = Block("y", "y", averaging("y", 3, "y"), (0,), average=True)
    weight = square_weights(made, np.eye(3), [3], [1.0])
    np.testing.assert_array_equal(weight[:, :, 0, 0], np.eye(3))


def test_only_spread_weights_have_a_fan_in():
    """A depthwise convolution counts its own weights, a plain one all that there are."""
    depthwise, even = torch.ones(4, 1, 3, 3), torch.ones(4, 2, 2, 2)
    made = block(depthwise, groups=4)
    assert fan_in(made, square_weights(made, depthwise.numpy(), [4], [1.0])) == 9
    made = block(even)
    assert fan_in(made, square_weights(made, even.numpy(), [2], [1.0])) == 8
    plain = torch.ones(4, 4, 3, 3)
    assert fan_in(block(plain), square_weights(block(plain), plain.numpy(), [4], [1.0])) is None
