"""The operators of a graph, as functions in float: what each means, apart from any framework."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from hwgate.nn.gated import GatedConv2d

__all__ = ["ACTIVATIONS", "OPERATORS"]

Tensors = Mapping[str, Tensor]
Options = Mapping[str, Any]

#: Activations without parameters, by name.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "sigmoid": torch.sigmoid, "silu": F.silu, "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid, "gelu": F.gelu, "tanh": torch.tanh,
    "softmax": lambda x: F.softmax(x, 1), "log_softmax": lambda x: F.log_softmax(x, 1),
}


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Values (C,) or () as they apply to a map (N, C, H, W) or a vector (N, C)."""
    return values.to(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))


def _optional(tensors: Tensors, name: str, x: Tensor) -> Tensor | None:
    return tensors[name].to(x.dtype) if name in tensors else None


def _conv(x: Tensor, tensors: Tensors, options: Options) -> Tensor:
    """``padding`` is (top, bottom, left, right); ``gate`` is the layer that decides, if there is
    one, and computes the convolution."""
    top, bottom, left, right = options["padding"]
    gate = options.get("gate")
    if gate is not None:
        return _gated(x, tensors, gate)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), tensors["weight"].to(x.dtype),
                    _optional(tensors, "bias", x), options["stride"], 0, options["dilation"],
                    options["groups"])


class _Alone(nn.Module):
    """What a gated layer computes without its hooks and what a class made of it adds: nodes of
    their own."""

    def __init__(self, layer: GatedConv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return GatedConv2d.forward(self.layer, x)


def _gated(x: Tensor, tensors: Tensors, layer: GatedConv2d) -> Tensor:
    """A gated layer in the type of its input."""
    own = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    if not is_parametrized(layer):  # which computes its weights anew from what is its own
        own |= tensors
    return functional_call(_Alone(layer), {
        f"layer.{name}": value.to(x.dtype) if value.is_floating_point() else value
        for name, value in own.items()}, (x,))


def _norm(x: Tensor, tensors: Tensors, options: Options) -> Tensor:
    return F.batch_norm(x, tensors["mean"].to(x.dtype), tensors["variance"].to(x.dtype),
                        _optional(tensors, "weight", x), _optional(tensors, "bias", x), False, 0.0,
                        options["eps"])


def _activation(x: Tensor, tensors: Tensors, options: Options) -> Tensor:
    """``kind`` is one of :data:`ACTIVATIONS`, or ``clamp`` between ``low`` and ``high``."""
    if options["kind"] == "clamp":
        return x.clamp(options["low"], options["high"])
    return ACTIVATIONS[options["kind"]](x)


def _pad(x: Tensor, tensors: Tensors, options: Options) -> Tensor:
    """Zeros around a map: ``padding`` is (top, bottom, left, right)."""
    top, bottom, left, right = options["padding"]
    return F.pad(x, (left, right, top, bottom))


def _select(x: Tensor, tensors: Tensors, options: Options) -> Tensor:
    """Output channel c is channel ``channels[c]``, or zero where that is -1; of every ``stride``-th
    row and column."""
    rows, columns = options["stride"]
    order = torch.as_tensor(options["channels"])
    taken = x[:, order.clamp(min=0)]
    taken = taken * _per_channel((order >= 0).to(x.dtype), taken)
    return taken[:, :, ::rows, ::columns] if x.ndim == 4 else taken


#: Each takes the values that a node takes, its tensors and its options.
OPERATORS: dict[str, Callable[[Sequence[Tensor], Tensors, Options], Tensor]] = {
    "Conv": lambda xs, t, o: _conv(xs[0], t, o),
    "Linear": lambda xs, t, o: F.linear(xs[0], t["weight"].to(xs[0].dtype),
                                        _optional(t, "bias", xs[0])),
    "BatchNorm": lambda xs, t, o: _norm(xs[0], t, o),
    "Affine": lambda xs, t, o: (xs[0] * _per_channel(t["scale"], xs[0])
                                + _per_channel(t["shift"], xs[0])),
    "Activation": lambda xs, t, o: _activation(xs[0], t, o),
    "Add": lambda xs, t, o: xs[0] + xs[1],
    "Mul": lambda xs, t, o: xs[0] * xs[1],
    "Concat": lambda xs, t, o: torch.cat(list(xs), 1),
    "MaxPool": lambda xs, t, o: F.max_pool2d(xs[0], **o),
    "AvgPool": lambda xs, t, o: F.avg_pool2d(xs[0], **o),
    "Mean": lambda xs, t, o: xs[0].mean(o["axes"], keepdim=True),
    "Reshape": lambda xs, t, o: xs[0].reshape(len(xs[0]), *o["shape"]),
    "Select": lambda xs, t, o: _select(xs[0], t, o),
    "Pad": lambda xs, t, o: _pad(xs[0], t, o),
}
