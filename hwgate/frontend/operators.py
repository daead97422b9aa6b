"""What a PyTorch operator means to the accelerator: modules, functions and their limits."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from hwgate.errors import CompileError
from hwgate.nn.gated import ChannelShuffle
from hwgate.quant.layer import KERNELS, STRIDES

__all__ = ["ADDITIONS", "OPERATORS", "SUPPORTED", "Average", "Shortcut", "check_conv", "module_of",
           "module_path", "pool_edge", "shape_query", "shuffled", "unsupported"]

#: What a convolution may be: attribute, supported values, and what to do about others.
SUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "kernel_size": (KERNELS, "use square kernels of one of these edges"),
    "stride": (STRIDES, "use stride 2 and shrink the map further with MaxPool2d"),
    "dilation": ((1,), "use a dilation of 1"),
    "groups": ((1,), "depthwise and grouped convolutions leave the array idle, so use groups=1, "
                     "or GatedConv2d(grouping=True) for grouped base paths"),
    "padding_mode": (("zeros",), "pad with zeros"),
}

OPERATORS = ("Conv2d or GatedConv2d, then BatchNorm2d, ReLU, the addition of an earlier output and "
             "MaxPool2d, ChannelShuffle between layers, and AdaptiveAvgPool2d(1), Flatten and "
             "Linear at the end")

ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")

_RELUS: tuple[Any, ...] = (torch.relu, F.relu, "relu", "relu_")


@dataclass(frozen=True)
class Average:
    """Average pooling over the whole map; ``edge`` by ``edge`` pixels, if that is written down."""

    edge: int | None = None


@dataclass(frozen=True)
class Shortcut:
    """A residual seen through a padding shortcut: sampled, then moved up by some channels."""

    stride: int = 1
    offset: int = 0


def unsupported(path: str, what: str, hint: str) -> CompileError:
    return CompileError(f"Layer {path!r} {what}; {hint}")


def module_path(node: fx.Node) -> str:
    """Path of the module that a node calls, or inside which it calls a function."""
    if node.op == "call_module":
        return str(node.target)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    owner = str(stack[-1][0]) if stack else ""
    return f"{owner}.{node.name}" if owner else node.name


def shape_query(node: fx.Node) -> bool:
    """Whether a node asks for a shape rather than computing with values."""
    if node.op == "call_method":
        return node.target == "size"
    if node.target is getattr:
        return node.args[1] == "shape"
    source = node.args[0] if node.args else None
    return node.target is operator.getitem and isinstance(source, fx.Node) and shape_query(source)


def module_of(node: fx.Node) -> Any:
    """The module, :class:`Average` or :class:`Shortcut` that a function or method call amounts to.

    Raises
    ------
    CompileError
        For a call of anything else.
    """
    arguments: dict[Any, Callable[..., Any]] = {
        torch.flatten: lambda x, start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
        torch.mean: lambda x, dim=None, keepdim=False: _mean(dim),
        F.adaptive_avg_pool2d: lambda x, output_size: nn.AdaptiveAvgPool2d(output_size),
        F.avg_pool2d: _average,
        F.max_pool2d: lambda x, *args, **kwargs: nn.MaxPool2d(*args, **kwargs),
        F.dropout: lambda x, *args, **kwargs: nn.Identity(),
        F.pad: _padding,
        operator.getitem: _sampling,
        "view": _view,
    }
    arguments |= {"flatten": arguments[torch.flatten], "mean": arguments[torch.mean],
                  "reshape": _view}
    arguments |= dict.fromkeys(_RELUS, lambda x, inplace=False: nn.ReLU())
    make = arguments.get(node.target)
    module = make(*node.args, **node.kwargs) if make else None
    if module is None:
        name = node.target if isinstance(node.target, str) else getattr(
            node.target, "__name__", str(node.target))
        raise unsupported(module_path(node), f"calls {name}()", f"supported are {OPERATORS}")
    return module


def _mean(dim: Any) -> Any:
    """An average over the pixels, if the dimensions are these."""
    pixels = isinstance(dim, (tuple, list)) and sorted(d % 4 for d in dim) == [2, 3]
    return nn.AdaptiveAvgPool2d(1) if pixels else None


def _average(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, *rest: Any,
             **more: Any) -> Any:
    """An average over the whole map, if it is square as written, or asks the map for its size."""
    if isinstance(kernel_size, fx.Node) and shape_query(kernel_size):
        return Average() if stride is None and not padding and not rest and not more else None
    edge = _single(kernel_size)
    if not isinstance(edge, int) or _single(stride) not in (None, edge) or padding or rest or more:
        return None
    return Average(edge)


def _view(x: Any, *shape: Any) -> Any:
    """Flattening of all but the batch."""
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    batch = len(sizes) == 2 and isinstance(sizes[0], fx.Node) and shape_query(sizes[0])
    return nn.Flatten() if batch and sizes[1] == -1 else None


def _sampling(x: Any, index: Any) -> Any:
    """``x[:, :, ::stride, ::stride]``."""
    whole = slice(None, None, None)
    if not isinstance(index, tuple) or len(index) != 4 or index[:2] != (whole, whole):
        return None
    rows, columns = index[2:]
    plain = isinstance(rows, slice) and rows == columns and rows.start is rows.stop is None
    return Shortcut(stride=rows.step or 1) if plain else None


def _padding(x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    """Zeros before and after the channels of a (N, C, H, W) tensor."""
    if mode != "constant" or value not in (None, 0) or len(pad) not in (6, 8):
        return None
    if any(pad[:4]) or any(pad[6:]) or min(pad) < 0:
        return None
    return Shortcut(offset=pad[4])


def _single(value: Any) -> Any:
    """One number for a pair of equal numbers."""
    return value[0] if isinstance(value, (tuple, list)) and len(set(value)) == 1 else value


def _show(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def check_conv(path: str, conv: nn.Conv2d) -> int:
    """Padding of a convolution, if every attribute is in :data:`SUPPORTED`; raises otherwise."""
    for name, (allowed, hint) in SUPPORTED.items():
        value = getattr(conv, name)
        if _single(value) not in allowed:
            raise unsupported(path, f"has {name.replace('_', ' ')} {_show(value)}, and supported "
                              f"is {' or '.join(map(str, allowed))}", hint)
    half = conv.kernel_size[0] // 2
    padding = {"same": half, "valid": 0}.get(_single(conv.padding), _single(conv.padding))
    if padding not in range(half + 1):
        raise unsupported(path, f"has padding {_show(conv.padding)}, and supported is 0 to {half}",
                          "pad by at most half the kernel")
    return int(padding)


def pool_edge(path: str, pool: nn.MaxPool2d) -> int:
    """Edge and stride of a max pooling of disjoint squares; raises for another one."""
    edge, stride = _single(pool.kernel_size), _single(pool.stride)
    plain = (pool.padding in (0, (0, 0)) and pool.dilation in (1, (1, 1))
             and not pool.ceil_mode and not pool.return_indices)
    if not isinstance(edge, int) or edge != stride or not plain:
        raise unsupported(path, f"is a max pooling of kernel {_show(pool.kernel_size)}, stride "
                          f"{_show(pool.stride)} and padding {_show(pool.padding)}",
                          "use MaxPool2d(k) with equal edges and stride, without padding, "
                          "dilation or ceil_mode")
    return edge


def shuffled(path: str, shuffle: ChannelShuffle, channels: int, order: Tensor | None) -> Tensor:
    """Order of ``channels`` channels, those of ``order`` at first, behind a shuffle."""
    if channels % shuffle.groups:
        raise unsupported(path, f"shuffles {channels} channels in {shuffle.groups} groups",
                          "use a group count that divides the channels")
    order = torch.arange(channels) if order is None else order
    return shuffle(order[None, :, None, None])[0, :, 0, 0]
