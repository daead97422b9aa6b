"""What operators cost, as the page on operators says: layers, and passes of each of their jobs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hwgate
from hwgate.errors import CompileError

CONFIG = hwgate.preset("cifar")  # R is 4


class Body(nn.Module):
    """Convolutions of eight channels, and what is made of them."""

    def __init__(self, body):
        super().__init__()
        self.one, self.two = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.wide, self.narrow = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.norm, self.linear = nn.BatchNorm2d(8), nn.Linear(8, 8)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def conv(kernel, **options):
    return nn.Conv2d(8, 8, kernel, **options)


def flat(x):
    return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


#: A model, and the passes of a job of each of its layers.
COSTS = {
    "3x3": (conv(3), [2]),
    "1x1": (conv(1), [1]),
    "5x5": (conv(5), [8]),
    "2x2": (conv(2), [2]),
    "4x4": (conv(4), [8]),
    "dilation 2": (conv(3, dilation=2), [8]),
    "two groups": (conv(3, groups=2), [1]),
    "depthwise": (conv(3, groups=8), [1]),
    "depthwise 5x5": (conv(5, groups=8), [4]),
    "flattened": (nn.Sequential(conv(3), nn.Flatten(), nn.Linear(128, 4)), [2, 8]),
    "norm, ReLU6, max pooling": (
        nn.Sequential(conv(3), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2)), [2]),
    "norm of the image": (nn.Sequential(nn.BatchNorm2d(8), conv(3)), [2]),
    "average pooling": (nn.Sequential(conv(3), nn.AvgPool2d(2)), [2, 1]),
    "average and linear": (Body(lambda m, x: m.linear(flat(m.one(x)))), [2, 1]),
    "average at the end": (Body(lambda m, x: flat(m.one(x))), [2, 1]),
    "softmax": (Body(lambda m, x: F.softmax(m.linear(flat(m.one(x))), 1)), [2, 1]),
    "padding": (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv(3, stride=2)), [2]),
    "addition": (Body(lambda m, x: m.two(F.relu(m.one(x))) + x), [2, 2]),
    "addition of the same": (Body(lambda m, x: (lambda y: y + y)(m.one(x))), [2, 1]),
    "norm behind an addition": (
        Body(lambda m, x: (lambda y: m.two(F.relu(m.norm(y))) + y)(m.one(x) + x)), [2, 1, 2]),
    "concatenation": (Body(lambda m, x: m.wide(torch.cat([m.one(x), m.two(x)], 1))), [2, 2, 4]),
    "concatenation as the result": (
        Body(lambda m, x: torch.cat([m.one(x), m.two(x)], 1)), [2, 2, 1]),
    "concatenations of other neighbours": (
        Body(lambda m, x: (lambda a, b: m.wide(torch.cat([a, b], 1)) + m.wide(
            torch.cat([b, a], 1)))(m.one(x), m.two(x))), [2, 2, 4, 4]),
    "half of the channels": (Body(lambda m, x: m.narrow(m.one(x).chunk(2, 1)[1])), [2, 1]),
    "shuffle": (nn.Sequential(conv(3, padding=1), nn.ChannelShuffle(2), conv(3)), [2, 2]),
    "every second pixel": (Body(lambda m, x: m.two(m.one(x)[:, :, ::2, ::2])), [2, 1, 2]),
}


@pytest.mark.parametrize("name", COSTS)
def test_layers_and_passes(name):
    model, wanted = COSTS[name]
    images = torch.randn(8, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    network = hwgate.quantize(model.eval(), images, CONFIG, check="warn")
    plans = hwgate.compile(network).plans
    assert [max(len(job.base) for job in plan.jobs) for plan in plans] == wanted


@pytest.mark.parametrize("module", [nn.PixelShuffle(2), nn.PixelUnshuffle(2)], ids=repr)
def test_a_rearranged_result_is_refused(module):
    with pytest.raises(CompileError, match="^Layer '1' rearranges values of the shape 8x4x4 to .*; "
                                           "move whole channels, or flatten$"):
        hwgate.quantize(nn.Sequential(conv(3), module), torch.randn(4, 8, 6, 6), CONFIG)
