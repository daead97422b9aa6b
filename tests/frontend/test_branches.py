"""Concatenations, slices, shuffles and sums: the integers follow, and no layer is wasted."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hwgate
from hwgate.nn.gated import ChannelShuffle, GatedConv2d
from hwgate.quant.layer import IMAGE
from support.small_nets import conv, images, normed, quantize

torch.set_num_threads(1)  # tests run in parallel

#: Every layer of a network must follow its model by so many dB of signal to noise.
FLOOR = 24


class Case(NamedTuple):
    """A network: its forward, what makes its modules, the layers that it takes, and its image."""

    forward: Callable
    modules: Callable
    layers: str
    shape: tuple = (4, 9, 8)


def made(**modules):
    return modules


def densenet(m, x):
    x = m.stem(x)
    for norm, layer in ((m.n0, m.c0), (m.n1, m.c1), (m.n2, m.c2)):
        x = torch.cat([x, layer(F.relu(norm(x)))], 1)
    return m.end(F.relu(m.last(x)).mean((2, 3)))


def shufflenet(m, x):
    x = F.relu(m.stem(x))
    for inner, depth, outer in ((m.in1, m.dw1, m.out1), (m.in2, m.dw2, m.out2)):
        left, right = x.chunk(2, 1)
        x = m.shuffle(torch.cat([left, F.relu(outer(depth(F.relu(inner(right)))))], 1))
    return m.end(x.mean((2, 3)))


def inception(m, x):
    x = F.relu(m.stem(x))
    parts = [m.a(x), m.b(F.relu(m.b0(x))), F.avg_pool2d(x, 3, 1, 1), m.c(x)]
    return m.end(F.relu(torch.cat(parts, 1)))


def googlenet(m, x):
    x = F.relu(m.stem(x))
    parts = [F.relu(m.a(x)), F.relu(m.b(F.relu(m.b0(x)))), F.relu(m.c(F.avg_pool2d(x, 3, 1, 1)))]
    return m.end(torch.cat(parts, 1))


def preactivation(m, x):
    x = m.stem(x)
    x = m.a2(F.relu(m.an(m.a1(F.relu(m.n1(x)))))) + x
    x = m.b2(F.relu(m.bn(m.b1(F.relu(m.n2(x)))))) + x
    return m.end(F.relu(m.last(x)).mean((2, 3)))


def mobilenet(m, x):
    x = F.relu6(m.stem(x))
    x = m.project(F.relu6(m.depth(F.relu6(m.expand(x))))) + x
    return m.end(F.relu6(m.head(x)).mean((2, 3)))


def vgg(m, x):
    x = F.max_pool2d(F.relu(m.a(x)), 2)
    x = F.max_pool2d(F.relu(m.b(x)), 2)
    return m.l2(m.drop(F.relu(m.l1(x.flatten(1)))))


def resnet(m, x):
    x = F.relu(m.stem(x))
    x = F.relu(m.a2(F.relu(m.a1(x))) + x)
    x = F.relu(m.b2(F.relu(m.b1(x))) + m.way(x))
    return m.end(F.adaptive_avg_pool2d(x, 1).flatten(1))


def three_orders(m, x):
    a, b, c = (F.relu(layer(x)) for layer in (m.a, m.b, m.c))
    return m.p(torch.cat([a, b], 1)) + m.q(torch.cat([b, a], 1)) + m.r(torch.cat([a, c], 1))


def neighbours(m, x):
    """Each pair side by side: no order of three maps has all."""
    a, b, c = (F.relu(layer(x)) for layer in (m.a, m.b, m.c))
    return m.p(torch.cat([a, b], 1)) + m.q(torch.cat([b, c], 1)) + m.r(torch.cat([a, c], 1))


def two_slices(m, x):
    x = F.relu(m.a(x))
    return m.b(x[:, :7]) + m.c(x[:, 5:])


def on(first, rest):
    """A network of a ReLU of ``m.a``, and what follows."""
    return lambda m, x: rest(m, first(m, x))


def features(m, x):
    return F.relu(m.a(x))


def vector(m, x):
    return features(m, x).mean((2, 3))


CASES = {
    # No layers but their own.
    "ResNet": Case(resnet, lambda: made(
        stem=normed(conv(4, 8)), a1=normed(conv(8, 8)), a2=normed(conv(8, 8)),
        b1=normed(conv(8, 12, stride=2)), b2=normed(conv(12, 12)), way=normed(conv(8, 12, 1, 2)),
        end=nn.Linear(12, 5)), "stem.conv a1.conv a2.conv b1.conv b2.conv way.conv end"),
    "VGG": Case(vgg, lambda: made(
        a=conv(4, 6), b=conv(6, 8), l1=nn.Linear(48, 10), drop=nn.Dropout(), l2=nn.Linear(10, 5)),
        "a b l1 l2", (4, 12, 8)),
    "MobileNet": Case(mobilenet, lambda: made(
        stem=normed(conv(4, 8)), expand=normed(conv(8, 24, 1)),
        depth=normed(conv(24, 24, groups=24)), project=normed(conv(24, 8, 1)),
        head=normed(conv(8, 16, 1)), end=nn.Linear(16, 5)),
        "stem.conv expand.conv depth.conv project.conv head.conv end"),
    "GoogLeNet": Case(googlenet, lambda: made(
        stem=conv(4, 7), a=conv(7, 5, 1), b0=conv(7, 3, 1), b=conv(3, 6, 5), c=conv(7, 2, 1),
        end=conv(13, 6, 1)), "stem a b0 b avg_pool2d c end"),
    "concatenation with the image": Case(
        lambda m, x: m.b(torch.cat([x, features(m, x)], 1)),
        lambda: made(a=conv(4, 6), b=conv(10, 5)), "a b"),
    "concatenation of a map with itself": Case(
        on(features, lambda m, y: m.b(torch.cat([y, y], 1))),
        lambda: made(a=conv(4, 6), b=conv(12, 5)), "a b"),
    "two maps in any order": Case(three_orders, lambda: made(
        a=conv(4, 5), b=conv(4, 6), c=conv(4, 7), p=conv(11, 4), q=conv(11, 4), r=conv(12, 4)),
        "a b c p q r"),
    "two slices": Case(two_slices, lambda: made(a=conv(4, 12), b=conv(7, 3), c=conv(7, 3)),
                       "a b c"),
    "channels of zeros": Case(
        on(features, lambda m, y: m.b(F.pad(y, (0, 0, 0, 0, 2, 1)))),
        lambda: made(a=conv(4, 6), b=conv(9, 5)), "a b"),
    "ReLU6 before an addition": Case(
        lambda m, x: F.relu6(m.a(x) * 9) + m.b(x),
        lambda: made(a=normed(conv(4, 6)), b=normed(conv(4, 6))), "a.conv b.conv"),
    "average before a 1x1 convolution": Case(
        lambda m, x: m.b(F.adaptive_avg_pool2d(features(m, x), 1)),
        lambda: made(a=conv(4, 6), b=conv(6, 5, 1)), "a b"),
    "Linear and norm of a 5x5 map": Case(
        on(features, lambda m, y: m.l2(F.relu(m.n(m.l1(y.flatten(1)))))),
        lambda: made(a=conv(4, 6), l1=nn.Linear(150, 20), n=nn.BatchNorm1d(20),
                     l2=nn.Linear(20, 5)), "a l1 l2", (4, 5, 5)),
    "Linear of a 4x6 map": Case(
        on(features, lambda m, y: m.l1(y.flatten(1))),
        lambda: made(a=conv(4, 6), l1=nn.Linear(144, 5)), "a l1", (4, 4, 6)),
    "Linear of a flattened concatenation": Case(
        on(features, lambda m, y: m.l1(torch.cat([y, m.b(y)], 1).flatten(1))),
        lambda: made(a=conv(4, 6), b=conv(6, 5, 1), l1=nn.Linear(132, 5)), "a b l1", (4, 4, 3)),
    "Linear layers of a vector": Case(
        lambda m, x: m.l2(F.relu(m.l1(x.flatten(1)))),
        lambda: made(l1=nn.Linear(4, 7), l2=nn.Linear(7, 5)), "l1 l2", (4, 1, 1)),
    "an earlier layer's output": Case(
        on(features, lambda m, y: (m.b(y), y)[1]),
        lambda: made(a=conv(4, 8), b=conv(8, 8)), "a"),
    "two maximum poolings": Case(
        lambda m, x: F.max_pool2d(F.max_pool2d(m.a(x), 2), 2), lambda: made(a=conv(4, 4)), "a"),
    "norm of the image": Case(
        lambda m, x: m.a(m.n(x)), lambda: made(n=nn.BatchNorm2d(4), a=conv(4, 6)), "a"),
    # With layers that copy, average or normalize.
    "DenseNet": Case(densenet, lambda: made(
        stem=conv(4, 6), **{f"c{n}": conv(6 + 5 * n, 5) for n in range(3)},
        **{f"n{n}": nn.BatchNorm2d(6 + 5 * n) for n in range(3)}, last=nn.BatchNorm2d(21),
        end=nn.Linear(21, 5)), "stem n0 c0 n1 c1 n2 c2 last end"),
    "ShuffleNet": Case(shufflenet, lambda: made(
        stem=conv(4, 12), in1=normed(conv(6, 6, 1)), dw1=normed(conv(6, 6, groups=6)),
        out1=normed(conv(6, 6, 1)), in2=normed(conv(6, 6, 1)), dw2=normed(conv(6, 6, groups=6)),
        out2=normed(conv(6, 6, 1)), shuffle=ChannelShuffle(2), end=nn.Linear(12, 5)),
        "stem in1.conv dw1.conv out1.conv in2.conv in2.conv:2 dw2.conv out2.conv end"),
    "Inception": Case(inception, lambda: made(
        stem=conv(4, 7), a=conv(7, 5, 1), b0=conv(7, 3, 1), b=conv(3, 6, 5),
        c=nn.Conv2d(7, 2, (1, 7), padding=(0, 3)), end=conv(20, 6, 1)),
        "stem a b0 b avg_pool2d c relu_2 end"),
    "pre-activation ResNet": Case(preactivation, lambda: made(
        stem=conv(4, 8), n1=nn.BatchNorm2d(8), a1=conv(8, 8), an=nn.BatchNorm2d(8), a2=conv(8, 8),
        n2=nn.BatchNorm2d(8), b1=conv(8, 8), bn=nn.BatchNorm2d(8), b2=conv(8, 8),
        last=nn.BatchNorm2d(8), end=nn.Linear(8, 5)), "stem n1 a1 a2 n2 b1 b2 last end"),
    "x + x": Case(lambda m, x: x + x, dict, "add"),
    "a map plus itself": Case(
        on(features, lambda m, y: y + y), lambda: made(a=conv(4, 6)), "a add"),
    "sum of two pooled maps": Case(
        lambda m, x: F.max_pool2d(m.a(x), 2) + F.max_pool2d(m.b(x), 2),
        lambda: made(a=conv(4, 4), b=conv(4, 4)), "a b add"),
    "sum of three": Case(lambda m, x: (m.a(x) + m.b(x)) + x,
                         lambda: made(a=conv(4, 4), b=conv(4, 4)), "a b add_1"),
    "sum of multiples": Case(lambda m, x: torch.add(m.a(x), x, alpha=2),
                             lambda: made(a=conv(4, 4)), "a add"),
    "ReLU of one of two readers": Case(
        lambda m, x: (lambda y: m.b(torch.relu(y)) + y)(m.a(x)),
        lambda: made(a=conv(4, 4), b=conv(4, 4)), "a relu b"),
    "norm of a sum": Case(lambda m, x: m.n(m.a(x) + x),
                          lambda: made(a=conv(4, 4), n=nn.BatchNorm2d(4)), "a n"),
    "shuffle of a sum": Case(lambda m, x: m.shuffle(m.a(x) + x),
                             lambda: made(a=conv(4, 4), shuffle=ChannelShuffle(2)), "a shuffle"),
    "sum of two ReLU6": Case(
        lambda m, x: F.relu6(m.a(x) * 9) + F.relu6(m.b(x) * 9),
        lambda: made(a=normed(conv(4, 6)), b=normed(conv(4, 6))), "a.conv b.conv add"),
    "sum of two slices": Case(
        on(features, lambda m, y: y[:, :6] + y[:, 6:]), lambda: made(a=conv(4, 12)),
        "a add add:2"),
    "ReLU of a concatenation": Case(
        lambda m, x: torch.relu(torch.cat([m.a(x), m.b(x)], 1)),
        lambda: made(a=conv(4, 4), b=conv(4, 6)), "a b relu"),
    "every second pixel of the image": Case(
        lambda m, x: m.a(x[:, :, ::2, ::2]), lambda: made(a=conv(4, 4)), "a a:2"),
    "a branch at stride 2": Case(
        on(features, lambda m, y: m.b(y) + m.c(y[:, :, ::2, ::2])),
        lambda: made(a=conv(4, 8), b=conv(8, 8, 3, 2), c=conv(8, 8, 1)), "a b c c:2"),
    "every second pixel at the end": Case(
        lambda m, x: features(m, x)[:, :, ::2, ::2], lambda: made(a=conv(4, 4)), "a slice_2"),
    "a few channels": Case(
        on(features, lambda m, y: m.b(y[:, 2:6])), lambda: made(a=conv(4, 32), b=conv(4, 4)),
        "a b b:2"),
    "three maps, each beside each": Case(neighbours, lambda: made(
        a=conv(4, 5), b=conv(4, 6), c=conv(4, 7), p=conv(11, 4), q=conv(13, 4), r=conv(12, 4)),
        "a b c p q r r:2 r:3"),
    "an average at the end": Case(
        lambda m, x: F.adaptive_avg_pool2d(features(m, x), 1), lambda: made(a=conv(4, 6)),
        "a mean"),
    "ReLU of an average": Case(lambda m, x: F.relu(m.a(x).mean((2, 3))),
                               lambda: made(a=conv(4, 6)), "a relu"),
    "concatenation of vectors": Case(
        on(vector, lambda m, y: m.l2(torch.cat([F.relu(m.l1(y)), y], 1))),
        lambda: made(a=conv(4, 6), l1=nn.Linear(6, 7), l2=nn.Linear(13, 5)), "a l1 cat l2"),
    "sum of vectors": Case(
        on(vector, lambda m, y: m.l2(F.relu(m.l1(y)) + y)),
        lambda: made(a=conv(4, 6), l1=nn.Linear(6, 6), l2=nn.Linear(6, 5)), "a l1 add add:2 l2"),
    "pooling of the image": Case(
        lambda m, x: m.a(F.max_pool2d(x, 2)), lambda: made(a=conv(4, 4)),
        "max_pool2d_with_indices a"),
    "norm of an image that others read": Case(
        lambda m, x: m.a(m.n(x)) + m.b(x),
        lambda: made(n=nn.BatchNorm2d(4), a=conv(4, 6), b=conv(4, 6)), "n a b"),
}


def quantized(name):
    case = CASES[name]
    torch.manual_seed(0)
    return quantize(case.forward, images(*case.shape), **case.modules())


@pytest.mark.parametrize("name", CASES)
def test_integers_follow(name):
    network, found, wanted = quantized(name)
    assert " ".join(layer.name for layer in network.layers) == CASES[name].layers
    assert network.fidelity.worst.own > FLOOR
    assert network.fidelity.layers[-1].through > FLOOR
    assert found.size == wanted.size
    # Apart from values beyond the range of activations, which are clipped.
    inside = np.abs(wanted.reshape(found.shape)) < 127.5
    assert inside.mean() > 0.9
    assert np.abs(found - wanted.reshape(found.shape))[inside].max() < 8


def test_a_gated_layer_takes_maps_side_by_side():
    """In the model's order, on which its base paths depend."""
    gated = GatedConv2d(16, 8, 3, padding=1, gate_groups=2)
    network, _, _ = quantize(
        lambda m, x: m.g(torch.cat([F.relu(m.b(x)), F.relu(m.a(x))], 1)) + m.c(
            torch.cat([F.relu(m.b(x)), x], 1)), images(),
        a=conv(4, 8), b=conv(4, 8), c=conv(12, 8), g=gated)
    layer = next(layer for layer in network.layers if layer.name == "g")
    assert layer.gated and np.array_equal(layer.base, gated.base.numpy())
    assert [network.layers[n].name.partition(":")[0] for n in layer.source] == ["b", "a"]


def test_maps_in_other_steps_are_joined():
    """The weights of a map in finer steps are scaled, not the map."""
    network, found, wanted = quantize(
        lambda m, x: m.b(torch.cat([x, m.a(x) * 8], 1)), images(), a=conv(4, 6), b=conv(10, 5))
    a, b = network.layers
    assert b.source == (IMAGE, 0) and b.in_scale == max(a.in_scale, a.out_scale)
    assert a.in_scale != a.out_scale and np.abs(found - wanted).max() < 4


def test_simulation_and_cost_model_agree():
    """Layers that join, copy, average, sum and spread kernels, cycle by cycle."""
    for name in ("ShuffleNet", "Inception", "sum of vectors", "Linear of a 4x6 map"):
        network, _, _ = quantized(name)
        program = hwgate.compile(network)
        x = images(*CASES[name].shape, count=2).numpy()
        model = hwgate.estimate(program, x)
        compared = hwgate.compare(hwgate.simulate(program, x), model)
        assert compared.first is None, f"{name}: {compared.describe()}"
