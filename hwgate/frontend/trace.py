"""From a PyTorch model to the blocks that the accelerator can run, and what feeds them."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, nn

from hwgate.errors import CompileError
from hwgate.nn.gated import ChannelShuffle, GatedConv2d, PaddingShortcut
from hwgate.quant.layer import IMAGE

from .operators import (
    ADDITIONS,
    OPERATORS,
    Average,
    Shortcut,
    check_conv,
    module_of,
    module_path,
    pool_edge,
    shape_query,
    shuffled,
    unsupported,
)

__all__ = ["Block", "trace_blocks"]

#: Modules that are one operator, and are not traced into.
_LEAVES = (ChannelShuffle, GatedConv2d, PaddingShortcut)


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
    source : int
        Index of the block whose output is the input, or ``IMAGE``.
    padding : int
    norm : BatchNorm2d or None
    relu : bool
    pool : int
        Edge and stride of the max pooling; 1 for none.
    average : Average or None
        The input is averaged over all its pixels first.
    order : int64 (Co,) or None
        Channel shuffle behind the convolution: output c is the convolution's output order[c].
    residual : int or None
        Index of the block whose output is added, or ``IMAGE``.
    shortcut : Shortcut
        How the residual is seen.
    relu_first : bool
        ReLU before the addition.
    """

    name: str
    node: fx.Node
    op: nn.Conv2d | nn.Linear
    source: int
    padding: int = 0
    norm: nn.BatchNorm2d | None = None
    relu: bool = False
    pool: int = 1
    average: Average | None = None
    order: Tensor | None = None
    residual: int | None = None
    shortcut: Shortcut = field(default_factory=Shortcut)
    relu_first: bool = False


@dataclass(frozen=True)
class _Value:
    """What a node of the model computes: the output of a block, possibly seen through something."""

    index: int
    average: Average | None = None
    shortcut: Shortcut | None = None
    path: str = ""  # of the average pooling or the shortcut


@dataclass
class _Model:
    """The blocks found so far, and the value of each node."""

    blocks: list[Block] = field(default_factory=list)
    values: dict[fx.Node, _Value] = field(default_factory=dict)

    def call(self, path: str, node: fx.Node, op: Any) -> _Value:
        """Value of an operator on one tensor, or an error."""
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or len(node.all_input_nodes) != 1 + sum(
                map(shape_query, node.all_input_nodes)):
            raise unsupported(path, "takes more than one tensor",
                              "only an addition may combine tensors")
        value = self.values[source]
        if isinstance(op, (nn.Identity, nn.Dropout, nn.Dropout2d)):
            return value
        if isinstance(op, nn.Flatten):
            if op.start_dim != 1 or op.end_dim != -1:
                raise unsupported(path, f"flattens dimensions {op.start_dim} to {op.end_dim}",
                                  "flatten all but the batch")
            return value
        last = self.blocks[value.index] if value.index != IMAGE else None
        if last is not None and isinstance(last.op, nn.Linear):
            raise unsupported(path, f"follows the linear layer {last.name!r}, which must be the "
                              "last", "move it out of the model")
        if value.average is not None and not isinstance(op, nn.Linear):
            raise unsupported(path, "follows an average pooling", "put a Linear layer there")
        if isinstance(op, (Shortcut, PaddingShortcut)):
            return self._see(path, value, op)
        if value.shortcut is not None:
            raise unsupported(path, f"follows the shortcut {value.path!r}",
                              "add what the shortcut returns to another output")
        if isinstance(op, nn.Linear):
            self.blocks.append(Block(path, node, op, value.index, average=value.average))
        elif isinstance(op, nn.Conv2d):
            padding = check_conv(path, op)
            self.blocks.append(Block(path, node, op, value.index, padding))
        elif isinstance(op, (nn.AdaptiveAvgPool2d, nn.AvgPool2d, Average)):
            return replace(value, average=_whole(path, op), path=path)
        elif last is None:
            raise unsupported(path, f"is a {type(op).__name__} before the first convolution",
                              "apply it to the images instead")
        else:
            return self._modify(path, node, op, value)
        return _Value(len(self.blocks) - 1)

    def _modify(self, path: str, node: fx.Node, op: Any, value: _Value) -> _Value:
        """Operators behind a convolution."""
        last = self.blocks[value.index]
        if isinstance(op, nn.ReLU) and last.relu:
            return value
        if _shared(node.all_input_nodes[0]):
            raise unsupported(path, f"changes the output of {last.name!r}, which is also used "
                              "elsewhere", "use the output behind it, or keep a second convolution")
        if isinstance(op, nn.BatchNorm2d):
            if (last.norm or last.relu or last.pool > 1 or last.order is not None
                    or last.residual is not None):
                raise unsupported(path, f"is not directly behind the convolution {last.name!r}",
                                  "order a block as convolution, batch norm, ReLU, max pooling")
            if op.running_mean is None:
                raise unsupported(path, "has no running statistics",
                                  "train it with track_running_stats=True")
            last.norm = op
        elif isinstance(op, nn.ReLU):
            last.relu = True
        elif isinstance(op, nn.MaxPool2d):
            if last.pool > 1:
                raise unsupported(path, f"is a second max pooling behind {last.name!r}",
                                  "use one larger pooling")
            last.pool = pool_edge(path, op)
        elif isinstance(op, ChannelShuffle):
            if last.residual is not None:
                raise unsupported(path, "shuffles a sum",
                                  "shuffle the convolution's output before the addition")
            last.order = shuffled(path, op, last.op.weight.shape[0], last.order)
        else:
            raise unsupported(path, f"is a {type(op).__name__}", f"supported are {OPERATORS}")
        last.node = node
        return value

    def _see(self, path: str, value: _Value, op: Shortcut | PaddingShortcut) -> _Value:
        """A value through a padding shortcut, or its half: sampling, or padding."""
        before = value.shortcut or Shortcut()
        shortcut = Shortcut(before.stride * op.stride, before.offset + op.offset)
        return replace(value, shortcut=shortcut, path=path)

    def add(self, path: str, node: fx.Node) -> _Value:
        """Value of an addition: the later of two blocks takes the other one's output in."""
        operands = [x for x in node.args if isinstance(x, fx.Node)]
        if len(operands) != 2 or len(node.args) != 2 or node.kwargs:
            raise unsupported(path, "adds something other than two tensors",
                              "move it into a bias or a batch norm")
        if operands[0] is operands[1]:
            raise unsupported(path, "adds a value to itself", "scale the weights instead")
        pairs = [(operands[0], operands[1]), (operands[1], operands[0])]
        pairs.sort(key=lambda pair: -self.values[pair[0]].index)
        for main, other in pairs:
            value, added = self.values[main], self.values[other]
            if self._takes(main, value) and added.average is None and added.index < value.index:
                last = self.blocks[value.index]
                last.residual, last.shortcut = added.index, added.shortcut or Shortcut()
                last.relu_first, last.relu, last.node = last.relu, False, node
                return value
        raise unsupported(path, "adds two values that no convolution can take in", "one must come "
                          "straight from a convolution, batch norm or ReLU that nothing else uses "
                          "and that comes after the other one")

    def _takes(self, node: fx.Node, value: _Value) -> bool:
        """Whether the block of a value can take a residual in."""
        if value.index == IMAGE or value.average or value.shortcut or _shared(node):
            return False
        block = self.blocks[value.index]
        return isinstance(block.op, nn.Conv2d) and block.pool == 1 and block.residual is None


def trace_blocks(model: nn.Module) -> tuple[fx.GraphModule, tuple[Block, ...]]:
    """Blocks of a model, each fed by blocks before it or the image; the last one is its result.

    Raises
    ------
    CompileError
        For anything the accelerator cannot run: module path, what is supported, and a hint.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever the user's forward does with a proxy
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompileError(f"Model {type(model).__name__} cannot be traced ({text}); write its "
                           "forward as modules and additions without control flow") from error
    module = fx.GraphModule(model, graph)
    module.graph.eliminate_dead_code()
    found, result = _Model(), None
    for node in module.graph.nodes:
        path = module_path(node)
        if node.op == "placeholder":
            if found.values:
                raise unsupported(path, "is a second input", "give the model one input")
            found.values[node] = _Value(IMAGE)
        elif node.op == "output":
            returned = node.args[0]
            result = found.values.get(returned) if isinstance(returned, fx.Node) else None
        elif node.op == "get_attr":
            raise unsupported(path, "is used as a value", f"supported are {OPERATORS}")
        elif shape_query(node):
            continue
        elif node.target in ADDITIONS:
            found.values[node] = found.add(path, node)
        else:
            op = model.get_submodule(path) if node.op == "call_module" else module_of(node)
            found.values[node] = found.call(path, node, op)
    blocks = tuple(found.blocks)
    if result is None or result.shortcut is not None:
        raise CompileError(f"Model {type(model).__name__} must return one tensor, the output of "
                           "its last layer")
    if not blocks:
        raise CompileError(f"Model {type(model).__name__} has no layer to run; "
                           f"supported are {OPERATORS}")
    if result.average is not None:
        raise unsupported(result.path, "averages without a linear layer behind it",
                          "put a Linear layer there")
    return module, blocks


class _Tracer(fx.Tracer):
    """Keeps gated layers, shuffles and shortcuts whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)


def _shared(node: fx.Node) -> bool:
    """Whether more than one operator computes with the value of a node."""
    return sum(not shape_query(user) for user in node.users) > 1


def _whole(path: str, op: Any) -> Average:
    """An average over the whole map."""
    if isinstance(op, Average):
        return op
    if isinstance(op, nn.AdaptiveAvgPool2d):
        if op.output_size not in (1, (1, 1)):
            raise unsupported(path, f"averages to {op.output_size} pixels",
                              "average to 1 pixel, before a Linear layer")
        return Average()
    edges = {*_pair(op.kernel_size), *_pair(op.stride)}
    if len(edges) > 1 or any(_pair(op.padding)) or op.ceil_mode:
        raise unsupported(path, "averages over parts of the map",
                          "average to 1 pixel, before a Linear layer")
    return Average(edges.pop())


def _pair(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
