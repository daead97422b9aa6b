"""Models with additions, shortcuts and branches: how they fold, and what cannot be mapped."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hwgate
from hwgate.errors import CompileError
from hwgate.frontend import lower, read_torch, simplify
from hwgate.machine.config import AcceleratorConfig
from hwgate.nn.gated import ChannelShuffle, GatedConv2d, PaddingShortcut
from hwgate.nn.gates import settle_norms
from hwgate.quant.layer import IMAGE

CONFIG = AcceleratorConfig()
torch.set_num_threads(1)  # tests run in parallel


class Net(nn.Module):
    """A model whose forward is a function of its modules and the images."""

    def __init__(self, forward, **modules):
        super().__init__()
        self._forward = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self._forward(self, x)


def conv(inputs, outputs, kernel=3, stride=1, **options):
    options.setdefault("padding", kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, **options)


def normed(layer):
    """A convolution with a batch norm that is not trivial."""
    norm = nn.BatchNorm2d(layer.out_channels)
    norm.weight.data.uniform_(0.5, 1.5)
    norm.bias.data.normal_(0, 0.3)
    return nn.Sequential(OrderedDict(conv=layer, norm=norm))


def quantize(forward, images, **modules):
    """The model, settled on images, its integer network, and float outputs in its steps."""
    torch.manual_seed(1)
    model = settle_norms(Net(forward, **modules), images).eval()
    network = hwgate.quantize(model, images, CONFIG)
    with torch.no_grad():
        wanted = model(images).numpy() / network.layers[-1].out_scale
    return network, network.run(images)[-1].output, wanted


def images(channels=4, height=9, width=8, count=8):
    return torch.rand(count, channels, height, width, generator=torch.manual_seed(0)) * 2 - 1


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


UNFIT = ("adds two values that no convolution can take in; one must come straight from a "
         "convolution, batch norm or ReLU that nothing else uses and that comes after the other "
         "one")


def preactivated(m, x):
    x = m.a(x)
    return m.b(torch.relu(x)) + x


def pooled(m, x):
    return F.max_pool2d(m.a(x), 2) + F.max_pool2d(m.b(x), 2)


@pytest.mark.parametrize("forward,sentence", [
    (preactivated, "Layer 'relu' changes the output of 'a', which is also used elsewhere; use the "
     "output behind it, or keep a second convolution"),
    (pooled, f"Layer 'add' {UNFIT}"),
    (lambda m, x: (m.a(x) + m.b(x)) + x, f"Layer 'add_1' {UNFIT}"),
    (lambda m, x: x + x, "Layer 'add' adds a value to itself; scale the weights instead"),
    (lambda m, x: torch.add(m.a(x), x, alpha=2), "Layer 'add' is a scale before the first "
     "convolution; apply it to the images instead"),
    (lambda m, x: m.norm(m.a(x) + x), "Layer 'norm' is not directly behind the convolution 'a'; "
     "order a block as convolution, batch norm, ReLU, max pooling"),
    (lambda m, x: m.shuffle(m.a(x) + x), "Layer 'shuffle' shuffles a sum; shuffle the "
     "convolution's output before the addition"),
    (lambda m, x: m.a(x[:, :, ::2, ::2]), "Layer 'a' follows the shortcut 'slice_2'; add what the "
     "shortcut returns to another output"),
    (lambda m, x: m.a(x)[:, :, 1:], "Layer 'slice_1' rearranges values of the shape 4x9x8 to "
     "4x8x8; move whole channels, or flatten"),
    (lambda m, x: F.pad(m.a(x), (1, 1, 1, 1)), "Layer 'constant_pad_nd' pads a map that no "
     "convolution takes; pad in front of convolutions"),
    (lambda m, x: F.avg_pool2d(m.a(x), 3, 2), "Layer 'avg_pool2d' averages over 3 of 9x8 pixels; "
     "average over all of them, before a Linear layer"),
    (lambda m, x: m.linear(torch.flatten(m.average(m.a(x)), 1)), "Layer 'average' averages over 5 "
     "of 9x8 pixels; average over all of them, before a Linear layer"),
    (lambda m, x: m.parts(m.a(x)), "Layer 'parts' averages over 2 of 9x8 pixels; average over all "
     "of them, before a Linear layer"),
    (lambda m, x: (m.a(x), m.b(x)), "Model Net must return one tensor, the output of its last "
     "layer"),
    (lambda m, x: m.a(x)[:, :, ::2, ::2], "The model must return one tensor, the output of its "
     "last layer"),
    (lambda m, x: torch.cumsum(m.a(x), 1), "Layer 'cumsum' calls cumsum(); supported are "),
    (lambda m, x: torch.relu(torch.cat([m.a(x), m.b(x)], 1)), "Layer 'cat' takes more than one "
     "tensor; only an addition may combine tensors"),
    (lambda m, x: m.wide(x) + x[:, :1], "Layer 'add' adds tensors of the shapes 8x9x8 and 1x9x8, "
     "which must be equal"),
    (lambda m, x: m.wide(x) + m.one(x), "Layer 'add' adds tensors of the shapes 8x9x8 and 1x9x8, "
     "which must be equal"),
], ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_what_cannot_be_mapped_is_named(forward, sentence):
    model = Net(forward, a=conv(4, 4), b=conv(4, 4), norm=nn.BatchNorm2d(4), wide=conv(4, 8),
                one=conv(4, 1), shuffle=ChannelShuffle(2), linear=nn.Linear(4, 2),
                average=nn.AvgPool2d(5), parts=nn.AvgPool2d(2, padding=1))
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(CompileError) as error:
        hwgate.quantize(model.eval(), images(), CONFIG)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("offset", [2, 6])
def test_shortcut_between_channel_groups(offset):
    with pytest.raises(CompileError, match=f"^Layer 'a' adds 4 channels from channel {offset} on "
                       "to its 12, but they must fit and begin at a multiple of 4$"):
        quantize(lambda m, x: m.a(x) + m.way(x), images(), a=conv(4, 12),
                 way=PaddingShortcut(4, 12, offset=offset))


def test_depthwise_convolution_is_refused():
    with pytest.raises(CompileError, match="^Layer 'a' has groups 4, and supported is 1; depthwise "
                       "and grouped convolutions leave the array idle, so use groups=1, or "
                       r"GatedConv2d\(grouping=True\) for grouped base paths$"):
        quantize(lambda m, x: m.a(x), images(), a=conv(4, 4, groups=4))


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

    with pytest.raises(CompileError, match="^Layer 'relu' changes the output of 'a', which is also "
                                           "used elsewhere"):
        quantize(forward, images(4, 3, 3), a=conv(4, 4, padding=0), b=conv(4, 4, 1))


def test_a_gated_layer_that_runs_twice():
    """Under a name of its own each time, so that figures are kept apart."""
    gated = GatedConv2d(8, 8, 3, padding=1, gate_groups=2)
    network, _, _ = quantize(lambda m, x: m.g(torch.relu(m.g(x))), images(8), g=gated)
    assert [(layer.name, layer.gated) for layer in network.layers] == [("g", True), ("g:2", True)]
