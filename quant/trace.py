"""From a PyTorch model to the chain of blocks that the accelerator can run."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from hwgate.errors import CompileError
from hwgate.nn import ChannelShuffle, GatedConv2d

__all__ = ["Block", "SUPPORTED", "trace_blocks"]

#: What a convolution may be: attribute, supported values, and what to do about others.
SUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "kernel_size": ((3,), "use 3x3 convolutions, or a Linear layer after global average pooling"),
    "stride": ((1,), "use stride 1 and shrink the map with MaxPool2d"),
    "padding": ((0, 1), "pad a 3x3 convolution by 0 or 1"),
    "dilation": ((1,), "use a dilation of 1"),
    "groups": ((1,), "use groups=1, or GatedConv2d(grouping=True) for grouped base paths"),
    "padding_mode": (("zeros",), "pad with zeros"),
}

_OPERATORS = ("Conv2d or GatedConv2d, then BatchNorm2d, ReLU and MaxPool2d, ChannelShuffle between "
              "layers, and AdaptiveAvgPool2d(1), Flatten and Linear at the end")


@dataclass
class Block:
    """One layer of the accelerator, in terms of the model's modules.

    Parameters
    ----------
    name : str
        Module path of the convolution or linear layer.
    node : fx node
        Whose value is the block's output (of any channel order).
    op : Module
        The Conv2d, GatedConv2d or Linear.
    norm : BatchNorm2d or None
    relu : bool
    pool : int
        Edge and stride of the max pooling; 1 for none.
    average : bool
        The input is averaged over its pixels first.
    order : int64 (Co,) or None
        Channel shuffle behind the layer: the next layer's input c is this one's output order[c].
    """

    name: str
    node: fx.Node
    op: nn.Conv2d | nn.Linear
    norm: nn.BatchNorm2d | None = None
    relu: bool = False
    pool: int = 1
    average: bool = False
    order: Tensor | None = None


@dataclass
class _Chain:
    """The blocks found so far."""

    blocks: list[Block] = field(default_factory=list)
    average: str | None = None  # path of an average pooling that waits for its linear layer

    def add(self, path: str, node: fx.Node, op: Any) -> None:
        """Take in the next operator of the model, or raise."""
        last = self.blocks[-1] if self.blocks else None
        if isinstance(op, (nn.Identity, nn.Dropout, nn.Dropout2d)):
            return
        if isinstance(op, nn.Flatten):
            if op.start_dim != 1 or op.end_dim != -1:
                raise _unsupported(path, f"flattens dimensions {op.start_dim} to {op.end_dim}",
                                   "flatten all but the batch")
            return
        if last is not None and isinstance(last.op, nn.Linear):
            raise _unsupported(path, f"follows the linear layer {last.name!r}, which must be the "
                               "last", "move it out of the model")
        if self.average and not isinstance(op, nn.Linear):
            raise _unsupported(path, "follows an average pooling", "put a Linear layer there")
        if isinstance(op, nn.Linear):
            self.blocks.append(Block(path, node, op, average=self.average is not None))
            self.average = None
        elif isinstance(op, nn.Conv2d):
            _check_conv(path, op)
            self.blocks.append(Block(path, node, op))
        elif isinstance(op, nn.AdaptiveAvgPool2d):
            if op.output_size not in (1, (1, 1)):
                raise _unsupported(path, f"averages to {op.output_size} pixels",
                                   "average to 1 pixel, before a Linear layer")
            self.average = path
        elif last is None:
            raise _unsupported(path, f"is a {type(op).__name__} before the first convolution",
                               "apply it to the images instead")
        else:
            self._modify(path, op, last)
            last.node = node

    def _modify(self, path: str, op: Any, last: Block) -> None:
        """Operators behind a convolution."""
        if isinstance(op, nn.BatchNorm2d):
            if last.norm or last.relu or last.pool > 1 or last.order is not None:
                raise _unsupported(path, f"is not directly behind the convolution {last.name!r}",
                                   "order a block as convolution, batch norm, ReLU, max pooling")
            if op.running_mean is None:
                raise _unsupported(path, "has no running statistics",
                                   "train it with track_running_stats=True")
            last.norm = op
        elif isinstance(op, nn.ReLU):
            last.relu = True
        elif isinstance(op, nn.MaxPool2d):
            if last.pool > 1:
                raise _unsupported(path, f"is a second max pooling behind {last.name!r}",
                                   "use one larger pooling")
            last.pool = _pool_edge(path, op)
        elif isinstance(op, ChannelShuffle):
            last.order = _shuffle(path, op, last)
        else:
            raise _unsupported(path, f"is a {type(op).__name__}", f"supported are {_OPERATORS}")


def trace_blocks(model: nn.Module) -> tuple[fx.GraphModule, tuple[Block, ...]]:
    """Blocks of a model that is a chain of supported operators.

    Raises
    ------
    CompileError
        For anything the accelerator cannot run: module path, what is supported, and a hint.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the user's forward does with a proxy
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompileError(f"Model {type(model).__name__} cannot be traced ({text}); write its "
                           "forward as a chain of modules without control flow") from error
    chain, value = _Chain(), None
    for node in graph.nodes:
        path = _path(node)
        if node.op == "output":
            if node.args[0] is not value:
                raise _unsupported(path, "returns more than its last value",
                                   "return one tensor")
            continue
        inputs = node.all_input_nodes
        if node.op == "placeholder" and value is None:
            value = node
            continue
        if node.op not in ("call_module", "call_function", "call_method") or inputs != [value]:
            kind = "adds a residual" if node.target in _ADDITIONS else "branches"
            raise _unsupported(path, kind, "make the model a chain of modules without "
                               "residuals or branches")
        op = model.get_submodule(node.target) if node.op == "call_module" else _functional(node)
        chain.add(path, node, op)
        value = node
    if chain.average:
        raise _unsupported(chain.average, "averages without a linear layer behind it",
                           "put a Linear layer there")
    if not chain.blocks:
        raise CompileError(f"Model {type(model).__name__} has no layer to run; "
                           f"supported are {_OPERATORS}")
    return fx.GraphModule(model, graph), tuple(chain.blocks)


class _Tracer(fx.Tracer):
    """Keeps gated layers and shuffles whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (isinstance(m, (GatedConv2d, ChannelShuffle))
                or super().is_leaf_module(m, module_qualified_name))


_ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_RELUS: tuple[Any, ...] = (torch.relu, F.relu, "relu", "relu_")


def _functional(node: fx.Node) -> Any:
    """The module that a function or method call amounts to, or the name of an unknown one."""
    arguments: dict[Any, Callable[..., Any]] = {
        torch.flatten: lambda x, start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
        torch.mean: lambda x, dim=None, keepdim=False: _mean(dim),
        F.adaptive_avg_pool2d: lambda x, output_size: nn.AdaptiveAvgPool2d(output_size),
    }
    arguments |= {"flatten": arguments[torch.flatten], "mean": arguments[torch.mean]}
    arguments |= dict.fromkeys(_RELUS, lambda x, inplace=False: nn.ReLU())
    make = arguments.get(node.target)
    module = make(*node.args, **node.kwargs) if make else None
    if module is None:
        name = node.target if isinstance(node.target, str) else node.target.__name__
        raise _unsupported(_path(node), f"calls {name}()", f"supported are {_OPERATORS}")
    return module


def _mean(dim: Any) -> nn.Module | None:
    """An average over the pixels, if the dimensions are these."""
    pixels = isinstance(dim, (tuple, list)) and sorted(d % 4 for d in dim) == [2, 3]
    return nn.AdaptiveAvgPool2d(1) if pixels else None


def _path(node: fx.Node) -> str:
    """Path of the module that a node calls, or inside which it calls a function."""
    if node.op == "call_module":
        return str(node.target)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    owner = str(stack[-1][0]) if stack else ""
    return f"{owner}.{node.name}" if owner else node.name


def _unsupported(path: str, what: str, hint: str) -> CompileError:
    return CompileError(f"Layer {path!r} {what}; {hint}")


def _check_conv(path: str, conv: nn.Conv2d) -> None:
    """Raise unless every attribute of a convolution is in :data:`SUPPORTED`."""
    for name, (allowed, hint) in SUPPORTED.items():
        value = getattr(conv, name)
        same = value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value
        if same not in allowed:
            what = name.replace("_", " ")
            raise _unsupported(path, f"has {what} {_show(value)}, and supported is "
                               f"{' or '.join(map(str, allowed))}", hint)


def _show(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _pool_edge(path: str, pool: nn.MaxPool2d) -> int:
    edge, stride = ((v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v)
                    for v in (pool.kernel_size, pool.stride))
    plain = (pool.padding in (0, (0, 0)) and pool.dilation in (1, (1, 1))
             and not pool.ceil_mode and not pool.return_indices)
    if not isinstance(edge, int) or edge != stride or not plain:
        raise _unsupported(path, f"is a max pooling of kernel {_show(pool.kernel_size)}, stride "
                           f"{_show(pool.stride)} and padding {_show(pool.padding)}",
                           "use MaxPool2d(k) with equal edges and stride, without padding, "
                           "dilation or ceil_mode")
    return edge


def _shuffle(path: str, shuffle: ChannelShuffle, last: Block) -> Tensor:
    assert isinstance(last.op, nn.Conv2d)
    channels = last.op.out_channels
    if channels % shuffle.groups:
        raise _unsupported(path, f"shuffles {channels} channels in {shuffle.groups} groups",
                           "use a group count that divides the channels")
    order = torch.arange(channels) if last.order is None else last.order
    return shuffle(order[None, :, None, None])[0, :, 0, 0]
