"""A layer takes an operator in only where nobody else reads its output, however it is seen."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hwgate
from hwgate.errors import CompileError, UserError
from hwgate.frontend import lower, read_torch, simplify
from hwgate.frontend.door import check_lowering

CONFIG = hwgate.preset("cifar")


class Net(nn.Module):
    """A map of 16 channels, layers for both halves, and what a test does with them."""

    def __init__(self, body):
        super().__init__()
        self.stem, self.eight = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.whole, self.norm = nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(16)
        self.four, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 10)
        self.vector, self.small = nn.Linear(64, 64), nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.point = nn.Conv2d(16, 4, 1, stride=2)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def turned(z):
    return torch.cat([z[:, 8:], z[:, :8]], 1)


def rejoined(change):
    """What changes both halves, joined again, does not change the half that another layer reads."""
    def body(m, x):
        y = m.stem(x)
        a, b = y.chunk(2, 1)
        return m.whole(change(m, torch.cat([a, b], 1), y)) + m.eight(a)
    return body


BODIES = {
    "clamp": rejoined(lambda m, z, y: z.clamp(-1.2, 1.2)),
    "norm": rejoined(lambda m, z, y: m.norm(z)),
    "relu": rejoined(lambda m, z, y: F.relu(z)),
    "shuffle": rejoined(lambda m, z, y: turned(z)),
    "addition": rejoined(lambda m, z, y: z + turned(y)),
    "pooled, flattened": lambda m, x: m.linear(F.relu(torch.flatten(
        F.max_pool2d(m.four(x), 2), 1))),
    "average, stride 2": lambda m, x: m.point(F.adaptive_avg_pool2d(m.stem(x), 1)).flatten(1),
    "a map of zeros beside another": lambda m, x: m.whole(torch.cat(
        [F.relu(m.stem(x) - 100)[:, :8], m.stem(x)[:, :8] * 0.02], 1)),
}


def images():
    return torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", BODIES)
def test_it_follows(name):
    torch.manual_seed(0)
    model, x = Net(BODIES[name]).eval(), images()
    network = hwgate.quantize(model, x, CONFIG)
    with torch.no_grad():
        wanted = model(x).numpy()
    found = (network(x) * network.layers[-1].out_scale).reshape(wanted.shape)
    assert network.fidelity.worst.own > 25
    assert np.sqrt(np.square(found - wanted).mean()) < 0.05 * wanted.std()


@pytest.mark.parametrize("body,sentence", [
    (lambda m, x: m.vector(torch.flatten(F.max_pool2d(m.four(x), 2), 1))
     + torch.flatten(m.small(x), 1),
     "adds a flattened map to a vector; add maps before the flattening"),
    (lambda m, x: (lambda y: torch.cat([F.pad(y, (0, 0, 0, 0, 0, 4)), y], 1))(m.four(x))[:, 4:8],
     "takes nothing but zeros; leave it out"),
    (lambda m, x: m.stem(x).clamp(0, 0), "clamps to 0..0; clamp to 0..n"),
    (lambda m, x: m.stem(x) / 0, "divides by 0; leave it out"),
    (lambda m, x: torch.clamp(m.stem(x), max=m.stem(x)), "clamps to tensors; clamp to numbers"),
])
def test_refused(body, sentence):
    with pytest.raises(CompileError, match=sentence):
        hwgate.quantize(Net(body).eval(), images(), CONFIG)


def test_a_shared_output_that_is_changed_is_seen(monkeypatch):
    """Of all that a layer's readers see, by value: a ratio over the layer was too coarse for it."""
    lowering = import_module("hwgate.frontend.lowering.lower")._Lowering
    monkeypatch.setattr(lowering, "_free",
                        lambda self, name, index: index >= 0 and self.readers[name] == 1)
    with pytest.raises(CompileError, match="^Layer 'eight' would compute something else"):
        hwgate.quantize(Net(BODIES["clamp"]).eval(), images(), CONFIG)


def planted(found, **changes):
    blocks = [replace(block, **changes) if block.name == "stem" else block
              for block in found.blocks]
    return replace(found, blocks=tuple(blocks))


@pytest.mark.parametrize("changes", [
    {"relu": True}, {"bound": 0.5}, {"order": torch.tensor([*range(14), 15, 14])},
    {"channels": (0, 2, 1)}, {"residual": -1}], ids=lambda changes: next(iter(changes)))
def test_a_wrong_block_is_seen(changes):
    model = Net(lambda m, x: m.whole(m.stem(x))).eval()
    graph = simplify(read_torch(model, (3, 8, 8)))
    found, _ = lower(graph)
    check_lowering(found, graph, images().numpy())
    with pytest.raises(CompileError, match="^Layer 'stem' would compute something else"):
        check_lowering(planted(found, **changes), graph, images().numpy())


def test_images_stay_as_they_are():
    x = images()
    kept = x.clone()
    hwgate.quantize(Net(lambda m, x: m.stem(F.relu_(x))).eval(), x, CONFIG)
    assert torch.equal(x, kept)


def test_no_shape():
    with pytest.raises(UserError, match="Shape of an image must be a tuple or a list, not 32"):
        hwgate.check(Net(BODIES["clamp"]), 32, CONFIG)
