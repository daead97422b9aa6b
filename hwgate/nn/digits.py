"""The small gated network of the demo."""

from collections import OrderedDict
from dataclasses import replace

from torch import nn

from hwgate.nn.models import Gating

__all__ = ["digits_network"]

#: Gates of the demo's network.
_GATING = Gating(groups=4, grouping=True, sparse_bp=True)


def digits_network(gating: Gating = _GATING) -> nn.Sequential:
    """Five 3x3 convolutions, four of them gated, and a linear layer.

    With grouping, the second and third gated layer are grouped, with channel shuffles in between.
    """
    def block(conv: nn.Conv2d, *more: nn.Module) -> nn.Sequential:
        return nn.Sequential(OrderedDict(
            [("conv", conv), ("norm", nn.BatchNorm2d(conv.out_channels)), ("relu", nn.ReLU())]
            + [(type(module).__name__.lower(), module) for module in more
               if not isinstance(module, nn.Identity)]))

    plain = replace(gating, grouping=False)
    return nn.Sequential(OrderedDict([
        ("stem", block(nn.Conv2d(1, 16, 3, padding=1, bias=False))),
        ("gated1", block(plain.conv3x3(16, 32))),
        ("gated2", block(gating.conv3x3(32, 32), gating.shuffler(32))),
        ("gated3", block(gating.conv3x3(32, 32), gating.shuffler(32), nn.MaxPool2d(2))),
        ("gated4", block(plain.conv3x3(32, 64))),
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("linear", nn.Linear(64, 10)),
    ]))
