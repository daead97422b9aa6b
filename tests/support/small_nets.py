"""Small models whose forward is a function, and their integer networks beside what they compute."""

from collections import OrderedDict

import torch
from torch import nn

import hwgate
from hwgate.machine.config import AcceleratorConfig
from hwgate.nn.gates import settle_norms

__all__ = ["CONFIG", "Net", "conv", "images", "normed", "quantize"]

CONFIG = AcceleratorConfig()


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
