"""Ways to write the same network that change nothing: each must run, and follow the model."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hwgate

CONFIG = hwgate.preset("digits")


class Net(nn.Module):
    """A convolution, what a test does with its output, a linear layer."""

    def __init__(self, body, **parts):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 8, 3, padding=1), nn.Linear(8, 5)
        self.body = body
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x, factor=1.0):
        return self.body(self, x)


class NormAct(nn.BatchNorm2d):
    """A norm that activates, as timm has it."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def pooled(h):
    return torch.flatten(F.adaptive_avg_pool2d(h, 1), 1)


def checked(m, x):
    h = m.conv(x)
    assert h.shape[1] == 8 and h.shape[-1] > 2, "a shape"
    return m.linear(pooled(F.relu(h)))


BODIES = {
    "view(-1, C)": lambda m, x: m.linear(F.adaptive_avg_pool2d(m.conv(x), 1).view(-1, 8)),
    "squeeze": lambda m, x: m.linear(F.adaptive_avg_pool2d(m.conv(x), 1).squeeze(-1).squeeze(-1)),
    "mean of means": lambda m, x: m.linear(F.relu(m.conv(x)).mean(3).mean(2)),
    "to": lambda m, x: m.linear(pooled(m.conv(x.to(torch.float32)).to("cpu"))),
    "contiguous": lambda m, x: m.linear(pooled(m.conv(x.contiguous()).contiguous())),
    "detach": lambda m, x: m.linear(pooled(m.conv(x).detach())),
    "assert": checked,
    "softmax": lambda m, x: F.softmax(m.linear(pooled(m.conv(x))), dim=1),
    "log-softmax": lambda m, x: F.log_softmax(m.linear(pooled(m.conv(x))), dim=1),
    "average at the end": lambda m, x: pooled(F.relu(m.conv(x))),
    "synchronized norm": lambda m, x: m.linear(pooled(m.sync(m.conv(x)))),
    "normalization inside": lambda m, x: m.linear(pooled(m.conv((x - 0.5) / 0.25))),
    "F.pad": lambda m, x: m.linear(pooled(m.bare(F.pad(x, (0, 1, 0, 1))))),
    "norm and activation": lambda m, x: m.linear(pooled(m.act(m.conv(x)))),
    "identity between": lambda m, x: m.linear(pooled(F.relu(m.same(m.norm(m.conv(x)))))),
    "two poolings": lambda m, x: m.linear(pooled(F.max_pool2d(F.max_pool2d(m.conv(x), 2), 2))),
    "average of single pixels": lambda m, x: m.linear(pooled(F.avg_pool2d(m.conv(x), 1))),
    "divisor": lambda m, x: m.linear(pooled(F.avg_pool2d(m.conv(x), 2, divisor_override=3))),
}


def images(*shape):
    return torch.rand(24, *shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", BODIES)
def test_it_runs_and_follows(name):
    torch.manual_seed(0)
    model = Net(BODIES[name], sync=nn.SyncBatchNorm(8), bare=nn.Conv2d(2, 8, 3), act=NormAct(8),
                norm=nn.BatchNorm2d(8), same=nn.Identity()).eval()
    x = images(2, 9, 8)
    network = hwgate.quantize(model, x, CONFIG)
    found = network(x) * network.layers[-1].out_scale
    with torch.no_grad():
        wanted = model(x).numpy()
    if "softmax" in name:  # left to the host: it ranks the same
        assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.9
    else:
        error = np.sqrt(np.square(found - wanted).mean()) / wanted.std()
        assert found.shape == wanted.shape and error < 0.12, error


def test_a_map_comes_back_as_a_map():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1)).eval()
    x = images(2, 7, 5)
    network = hwgate.quantize(model, x, CONFIG)
    found = network(x)
    assert found.shape == (24, 3, 7, 5) and not network.flat
    with torch.no_grad():
        wanted = model(x).numpy() / network.layers[-1].out_scale
    assert np.abs(found - wanted).max() < 4


def test_vectors():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 24), nn.BatchNorm1d(24), nn.ReLU(),
                          nn.Linear(24, 10)).eval()
    x = torch.randn(32, 40, generator=torch.Generator().manual_seed(1))
    network = hwgate.quantize(model, x, CONFIG)
    assert network.image_shape == (40, 1, 1) and network.flat
    with torch.no_grad():
        wanted = model(x).numpy() / network.layers[-1].out_scale
    assert np.abs(network(x) - wanted).max() < 5
    program = hwgate.compile(network)
    assert hwgate.estimate(program, x[:3]).cycles > 0
