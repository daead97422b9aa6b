"""Models with additions, shortcuts and branches: how they fold, and what cannot be mapped."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hwgate
from hwgate.errors import CompileError
from hwgate.frontend import lower, read_torch, simplify
from hwgate.frontend.graph import RUNS
from hwgate.nn.gated import ChannelShuffle, GatedConv2d, PaddingShortcut
from hwgate.nn.gates import settle_norms
from hwgate.quant.layer import IMAGE
from support.small_nets import CONFIG, Net, conv, images, normed, quantize

torch.set_num_threads(1)  # tests run in parallel


def test_original_block():
    """conv-norm-add-ReLU: the later convolution takes the residual in."""
    network, found, wanted = quantize(
        lambda m, x: torch.relu(m.b(torch.relu(m.a(x))) + x), images(),
        a=normed(conv(4, 4)), b=normed(conv(4, 4)))
    a, b = network.layers
    assert (a.name, b.name) == ("a.conv", "b.conv") and a.residual is None
    assert (b.source, b.residual, b.relu, b.relu_first) == (None, IMAGE, True, False)
    assert np.abs(found - np.clip(wanted, 0, 127)).max() < 3


def test_post_activation_block():
    """conv-norm-ReLU-add: the ReLU comes first, and the sum may be negative."""
    network, found, wanted = quantize(
        lambda m, x: torch.relu(m.b(torch.relu(m.a(x)))) + x, images(),
        a=normed(conv(4, 4)), b=normed(conv(4, 4)))
    layer = network.layers[1]
    assert (layer.residual, layer.relu, layer.relu_first) == (IMAGE, False, True)
    assert np.abs(found - wanted).max() < 3 and wanted.min() < -20


def option_a(m, x):
    out = m.b(torch.relu(m.a(x)))
    return out + m.way(x)


@pytest.mark.parametrize("way", [
    PaddingShortcut(4, 12, 2), PaddingShortcut(4, 12, 2, offset=8),
    Net(lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0)),
    Net(lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 8))[:, :, ::2, ::2]),
], ids=["middle", "end", "functions", "start"])
def test_padding_shortcut(way):
    """The residual is sampled and moved; other channels get none."""
    with torch.no_grad():
        marked = way(torch.ones(1, 4, 9, 8))[0, :, 0, 0].numpy()
    network, found, wanted = quantize(option_a, images(), a=normed(conv(4, 8, stride=2)),
                                      b=normed(conv(8, 12)), way=way)
    layer = network.layers[1]
    assert (layer.residual, layer.residual_stride) == (IMAGE, 2)
    assert layer.residual_offset == marked.argmax() and layer.decision_shape == (12, 5, 4)
    assert np.abs(found - wanted).max() < 3


def test_projection_shortcut():
    """The 1x1 convolution comes later, so it takes the main path in."""
    network, found, wanted = quantize(
        lambda m, x: torch.relu(option_a(m, x)), images(), a=normed(conv(4, 8, stride=2)),
        b=normed(conv(8, 8)), way=normed(conv(4, 8, 1, 2)))
    project = network.layers[2]
    assert (project.name, project.kernel, project.stride) == ("way.conv", 1, 2)
    assert (project.source, project.residual, project.relu) == (IMAGE, 1, True)
    assert not network.layers[1].relu
    assert np.abs(found - np.clip(wanted, 0, 127)).max() < 3


def test_projection_that_comes_first():
    def forward(m, x):
        short = m.way(x)
        return m.a(x) + short

    network, found, wanted = quantize(forward, images(), a=normed(conv(4, 8)),
                                      way=normed(conv(4, 8, 1)))
    way, main = network.layers
    assert (way.name, main.source, main.residual) == ("way.conv", IMAGE, 0)
    assert np.abs(found - wanted).max() < 3


def test_in_place_additions_and_the_shape_of_the_map():
    """As the common CIFAR ResNets are written."""
    def forward(m, x):
        out = F.relu(m.a(x))
        out += x
        out = F.avg_pool2d(F.relu(out), out.size()[3])
        return m.linear(out.view(out.size(0), -1))

    network, found, wanted = quantize(forward, images(4, 6, 6), a=conv(4, 4, bias=False),
                                      linear=nn.Linear(4, 7))
    assert network.layers[0].relu_first and network.layers[0].relu and network.layers[1].reduce
    assert np.abs(found[:, :, 0, 0] - wanted).max() < 4


@pytest.mark.parametrize("average", [
    lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: x.mean((2, 3), keepdim=True),
    lambda x: F.avg_pool2d(x, 6), nn.AvgPool2d(6)],
    ids=["adaptive", "mean", "function", "module"])
def test_averages(average):
    network, found, wanted = quantize(
        lambda m, x: m.linear(torch.flatten(m.average(F.max_pool2d(m.a(x), 2)), 1)),
        images(4, 12, 12), a=conv(4, 8), linear=nn.Linear(8, 5),
        average=average if isinstance(average, nn.Module) else Net(lambda m, x: average(x)))
    assert network.layers[1].reduce and np.abs(found[:, :, 0, 0] - wanted).max() < 4


def test_residual_before_pooling_and_gated():
    gated = GatedConv2d(8, 8, 3, padding=1, gate_groups=2)
    network, found, wanted = quantize(
        lambda m, x: F.max_pool2d(torch.relu(m.b(m.a(x)) + m.a_only(x)), 2), images(8),
        a=normed(conv(8, 8)), b=normed(gated), a_only=normed(conv(8, 8, 1)))
    assert [layer.pool for layer in network.layers] == [1, 1, 2]
    assert network.layers[1].gated and network.layers[2].residual == 1
    assert np.abs(found - np.clip(wanted, 0, 127)).mean() < 2  # gates near their threshold


def test_shuffle_before_an_addition():
    """The convolution's outputs are reordered, the residual's are not."""
    network, found, wanted = quantize(
        lambda m, x: m.shuffle(m.a(x)) + x, images(8), a=normed(conv(8, 8)),
        shuffle=ChannelShuffle(4))
    assert network.layers[0].residual == IMAGE and np.abs(found - wanted).max() < 3


@pytest.mark.parametrize("kernel,stride,padding", [(5, 1, 2), (5, 2, 1), (7, 2, 3), (7, 1, 0),
                                                   (1, 2, 0), (3, 2, "valid"), (5, 1, "same")])
def test_kernels(kernel, stride, padding):
    network, found, wanted = quantize(
        lambda m, x: m.a(x), images(5, 11, 9), a=normed(conv(5, 6, kernel, stride,
                                                             padding=padding)))
    assert network.layers[0].weight.shape == (6, 5, kernel, kernel)
    assert np.abs(found - wanted).max() < 3


def test_large_residual_leaves_the_sum_its_bits():
    """A residual many times the sum's steps, and one far below a step."""
    for scale in (1e-3, 1.0, 3e4):
        network, found, wanted = quantize(lambda m, x: m.a(x) + x, images() * scale,
                                          a=normed(conv(4, 4)))
        layer = network.layers[0]
        assert 0 <= layer.mult_residual.max() < 1 << 23 and layer.shift.min() >= 1
        assert np.abs(found - wanted).max() < 3


def test_channel_without_weights_still_takes_its_residual():
    a = normed(conv(4, 4))
    a.conv.weight.data[1:3] = 0
    network, found, wanted = quantize(lambda m, x: m.a(x) + x, images(), a=a)
    assert not network.layers[0].weight[1:3].any() and np.abs(found - wanted)[:, 1:3].max() < 1.1


def test_channel_that_all_but_vanishes_keeps_its_offset():
    """Its factor moves a psum, but rounds to nothing at the shift that the residual leaves."""
    a = normed(conv(64, 4, 5))
    a.norm.weight.data[2], a.norm.bias.data[2] = 4e-4, 5.0
    network, found, wanted = quantize(lambda m, x: m.a(m.wide(x)) + x, images() * 16,
                                      wide=conv(4, 64, 1), a=a)
    layer = network.layers[1]
    assert not layer.weight[2].any() and layer.mult[2, 0] > 0 and layer.bias[2, 0] > 0
    assert np.abs(found - wanted)[:, 2].max() < 1.1


def test_dead_code_is_no_layer():
    def forward(m, x):
        m.unused(x)
        return m.a(x)

    model = Net(forward, a=conv(4, 4), unused=conv(4, 4))
    blocks = lower(simplify(read_torch(model, (4, 9, 8))))[0].blocks
    assert [block.name for block in blocks] == ["a"]


@pytest.mark.parametrize("change", [
    lambda m, x: m.a(x) + 1, lambda m, x: (m.a(x) - m.scale) / 3, lambda m, x: 2 - m.a(x),
    lambda m, x: m.a((x - m.mean) / 0.5), lambda m, x: m.a(x).mul_(0.25).add_(m.mean)],
    ids=["number", "parameter", "reversed", "image", "in place"])
def test_constants_are_folded(change):
    """A number, or one of each channel: into the layer before, or the normalization of images."""
    model = Net(change, a=normed(conv(4, 4)))
    model.scale = nn.Parameter(torch.full((1,), 0.3))
    model.mean = torch.tensor([0.1, -0.2, 0.3, 0.4]).reshape(1, 4, 1, 1)
    settle_norms(model, images())
    network = hwgate.quantize(model, images(), CONFIG)
    with torch.no_grad():
        wanted = model.eval()(images()).numpy() / network.layers[0].out_scale
    assert len(network.layers) == 1
    assert np.abs(network.run(images())[0].output - wanted).max() < 3


@pytest.mark.parametrize("forward,sentence", [
    (lambda m, x: m.a(x)[:, :, 1:], "Layer 'slice_1' rearranges values of the shape 4x9x8 to "
     "4x8x8; move whole channels, or flatten"),
    (lambda m, x: m.a(x)[:, :, ::3, ::3], "Layer 'slice_2' takes rows and columns at other "
     "distances than 1 and 2; take whole maps"),
    (lambda m, x: m.a(x)[:, :, ::2], "Layer 'slice_1' takes rows and columns at other "
     "distances than 1 and 2; take whole maps"),
    (lambda m, x: F.pad(m.a(x), (1, 1, 1, 1)), "Layer 'constant_pad_nd' pads a map that no "
     "convolution takes; pad in front of convolutions"),
    (lambda m, x: m.linear(torch.flatten(m.average(m.a(x)), 1)), "Layer 'average' averages over 5 "
     "of 9x8 pixels with stride 5 and padding 0; use AvgPool2d of edge 2 to 7 and stride 1 or 2 "
     "that divides by the same number everywhere, or average over the whole map"),
    (lambda m, x: (m.a(x), m.b(x)), "Model Net must return one tensor, the output of its last "
     "layer"),
    (lambda m, x: torch.cumsum(m.a(x), 1), f"Layer 'cumsum' calls cumsum(); supported are {RUNS}"),
    (lambda m, x: m.wide(x) + x[:, :1], "Layer 'add' adds tensors of the shapes 8x9x8 and 1x9x8, "
     "which must be equal; give both the same channels and pixels"),
    (lambda m, x: m.wide(x) + m.one(x), "Layer 'add' adds tensors of the shapes 8x9x8 and 1x9x8, "
     "which must be equal; give both the same channels and pixels"),
    (lambda m, x: m.a(x) * torch.sigmoid(m.b(x)), f"Layer 'sigmoid' is a sigmoid; supported are "
     f"{RUNS}"),
    (lambda m, x: m.a(x) * m.b(x), f"Layer 'mul' is a product of two values; supported are {RUNS}"),
    (lambda m, x: torch.cat([m.a(x).flatten(1), m.b(x).flatten(1)], 1), "Layer 'cat' is a "
     "concatenation of a flattened map; put it before the flattening"),
    (lambda m, x: torch.cat([m.a(x), m.b(x)], 2), "Layer 'cat' joins values along dimension 2; "
     "join them along the channels"),
    (lambda m, x: m.a(x * torch.tensor([1., 0, 2, 3]).view(4, 1, 1)), "Layer 'mul' multiplies the "
     "image by 0; leave the channel out"),
], ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_what_cannot_be_mapped_is_named(forward, sentence):
    model = Net(forward, a=conv(4, 4), b=conv(4, 4), wide=conv(4, 8), one=conv(4, 1),
                linear=nn.Linear(4, 2), average=nn.AvgPool2d(5))
    with pytest.raises(CompileError) as error:
        hwgate.quantize(model.eval(), images(), CONFIG)
    assert str(error.value) == sentence


@pytest.mark.parametrize("offset", [2, 6])
def test_shortcut_between_channel_groups(offset):
    with pytest.raises(CompileError, match=f"^Layer 'a' adds 4 channels from channel {offset} on "
                       "to its 12, but they must fit and begin at a multiple of 4$"):
        quantize(lambda m, x: m.a(x) + m.way(x), images(), a=conv(4, 12),
                 way=PaddingShortcut(4, 12, offset=offset))


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1),
                                 Net(lambda m, x: F.softmax(F.log_softmax(x, 1), -1))],
                         ids=["softmax", "log", "both"])
def test_a_softmax_at_the_end_is_left_out(end):
    """The answers are those of the whole model, the outputs those before it."""
    torch.manual_seed(0)
    body = nn.Sequential(conv(4, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 5)).eval()
    network = hwgate.quantize(nn.Sequential(body, end), images(), CONFIG)
    with torch.no_grad():
        wanted = body(images()).numpy() / network.layers[-1].out_scale
    assert len(network.layers) == 2 and np.abs(network(images()) - wanted).max() < 4


def test_a_reshape_hides_no_reader():
    """The convolution's output is read as it is, and through a ReLU in another shape."""
    def forward(m, x):
        y = m.a(x)
        return m.b(y) + torch.relu(y.flatten(1)).view(-1, 4, 1, 1)

    network, found, wanted = quantize(forward, images(4, 3, 3), a=conv(4, 4, padding=0),
                                      b=conv(4, 4, 1))
    assert [(layer.name, layer.relu) for layer in network.layers] == [
        ("a", False), ("b", False), ("relu", False)]
    assert network.layers[2].relu_first and np.abs(found - wanted).max() < 3


def test_a_gated_layer_that_runs_twice():
    """Under a name of its own each time, so that figures are kept apart."""
    gated = GatedConv2d(8, 8, 3, padding=1, gate_groups=2)
    network, _, _ = quantize(lambda m, x: m.g(torch.relu(m.g(x))), images(8), g=gated)
    assert [(layer.name, layer.gated) for layer in network.layers] == [("g", True), ("g:2", True)]
