"""Passes on graphs: each computes the same as before, and leaves alone what it cannot."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hwgate.frontend import read_torch, simplify
from hwgate.frontend.passes import pools_as_convolutions, whole_averages, whole_windows
from support.small_nets import Net

torch.set_num_threads(1)  # tests run in parallel


def graph_of(forward, shape, **modules):
    return read_torch(Net(forward, **modules).eval(), shape)


def operators(graph):
    return [node.op for node in graph.nodes[1:]]


@pytest.mark.parametrize("options", [
    {"kernel_size": 2}, {"kernel_size": 3, "stride": 1}, {"kernel_size": 3, "stride": 2},
    {"kernel_size": (2, 3), "stride": 2}, {"kernel_size": 7, "stride": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1}, {"kernel_size": 5, "stride": 2, "padding": 2},
    {"kernel_size": (3, 5), "stride": 1, "padding": (1, 2)},
    {"kernel_size": 3, "stride": 2, "padding": 1, "divisor_override": 5},
    {"kernel_size": 2, "divisor_override": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False,
     "divisor_override": 4},
    {"kernel_size": 3, "stride": 1, "count_include_pad": False},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True}], ids=str)
def test_poolings_that_are_convolutions(options):
    """On 9x11 pixels, where the last one needs no more windows than without ``ceil_mode``."""
    x = torch.randn(2, 3, 9, 11, generator=torch.manual_seed(0))
    found = pools_as_convolutions(graph_of(lambda m, x: F.avg_pool2d(x, **options), (3, 9, 11)))
    assert operators(found) == ["Conv"] and found.nodes[1].options["groups"] == 3
    torch.testing.assert_close(found(x), F.avg_pool2d(x, **options))


@pytest.mark.parametrize("options", [
    {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False},
    {"kernel_size": 2, "ceil_mode": True}, {"kernel_size": 4, "stride": 2, "ceil_mode": True},
    {"kernel_size": 3}, {"kernel_size": 8, "stride": 1}, {"kernel_size": 3, "stride": (1, 2)},
    {"kernel_size": (2, 9), "stride": 1}], ids=str)
def test_poolings_that_are_none(options):
    """They divide by other numbers at the border, or have a window or stride that no layer has."""
    x = torch.randn(2, 3, 9, 11, generator=torch.manual_seed(0))
    found = pools_as_convolutions(graph_of(lambda m, x: F.avg_pool2d(x, **options), (3, 9, 11)))
    assert operators(found) == ["AvgPool"]
    torch.testing.assert_close(found(x), F.avg_pool2d(x, **options))


@pytest.mark.parametrize("options, ceil", [
    ({"kernel_size": 3}, False), ({"kernel_size": 2}, True),
    ({"kernel_size": 2, "padding": 1}, False), ({"kernel_size": 3, "dilation": 2}, True)], ids=str)
def test_maxima_in_ceil_mode(options, ceil):
    """On 9x12 pixels: only of one that has more windows by it does the pooling stay in it."""
    x = torch.randn(2, 3, 9, 12, generator=torch.manual_seed(0))
    options = {**options, "ceil_mode": True}
    found = whole_windows(graph_of(lambda m, x: F.max_pool2d(x, **options), (3, 9, 12)))
    assert [node.options["ceil_mode"] for node in found.nodes[1:]] == [ceil]
    torch.testing.assert_close(found(x), F.max_pool2d(x, **options))


@pytest.mark.parametrize("options, op", [
    ({"kernel_size": (5, 4)}, "Mean"), ({"kernel_size": (5, 4), "divisor_override": 20}, "Mean"),
    ({"kernel_size": (5, 4), "divisor_override": 3}, "AvgPool"),
    ({"kernel_size": (5, 4), "padding": (1, 0)}, "AvgPool"), ({"kernel_size": 4}, "AvgPool")],
    ids=str)
def test_an_average_of_one_window(options, op):
    x = torch.randn(2, 3, 5, 4, generator=torch.manual_seed(0))
    found = whole_averages(graph_of(lambda m, x: F.avg_pool2d(x, **options), (3, 5, 4)))
    assert operators(found) == [op]
    torch.testing.assert_close(found(x), F.avg_pool2d(x, **options))


@pytest.mark.parametrize("forward, wanted", [
    (lambda m, x: m.a(F.pad(x, (1, 0, 2, 1))), ["Conv"]),
    (lambda m, x: x.mean(3, keepdim=True).mean(2, keepdim=True), ["Mean"]),
    (lambda m, x: F.relu(F.max_pool2d(F.relu(x), 2)), ["Activation", "MaxPool"]),
    (lambda m, x: (x * 2 + 1) * 3 - 4, ["Affine"]),
    (lambda m, x: m.n(m.a(x)), ["Conv", "BatchNorm"]),
    (lambda m, x: m.n(F.relu(x)) * 2, ["Activation", "BatchNorm", "Affine"]),
    (lambda m, x: F.avg_pool2d(F.relu(x), 3, 1, 1), ["Activation", "Conv"]),
], ids=["padding", "means", "ReLU twice", "scales", "norm of a convolution", "norm of a ReLU",
        "pooling"])
def test_what_is_simplified(forward, wanted):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    graph, x = graph_of(forward, (3, 8, 6), a=nn.Conv2d(3, 3, 3), n=norm), torch.randn(2, 3, 8, 6)
    found = simplify(graph)
    assert operators(found) == wanted
    torch.testing.assert_close(found(x), graph(x), rtol=1e-4, atol=1e-5)
