"""From a graph to the layers of the accelerator: which operators one layer takes in."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hwgate.errors import CompileError
from hwgate.nn.gated import GatedConv2d
from hwgate.quant.layer import IMAGE

from .graph import RUNS, UNSUPPORTED, Graph, Node, refusal
from .limits import a_text, averages_part, check_alone, check_conv, pool_edge, unsupported

__all__ = ["Block", "Lowered", "Shortcut", "lower", "rebind"]

#: Index of the block of a value that no layer computes.
_UNKNOWN = -2


@dataclass(frozen=True)
class Shortcut:
    """A residual seen through a padding shortcut: sampled, then moved up by some channels."""

    stride: int = 1
    offset: int = 0


@dataclass
class Block:
    """One layer of the accelerator, in terms of a graph.

    Parameters
    ----------
    name : str
        Origin of the convolution or linear layer; unique.
    value : str
        Name of the value that is the block's output (of any channel order).
    op : Node
        ``Conv`` or ``Linear``.
    source : int
        Index of the block whose output is the input, or ``IMAGE``.
    after : tuple of Node
        Batch norm and affine maps behind it, in order.
    relu : bool
    pool : int
        Edge and stride of the max pooling; 1 for none.
    average : bool
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
    value: str
    op: Node
    source: int
    after: tuple[Node, ...] = ()
    relu: bool = False
    pool: int = 1
    average: bool = False
    order: Tensor | None = None
    residual: int | None = None
    shortcut: Shortcut = field(default_factory=Shortcut)
    relu_first: bool = False

    @property
    def gate(self) -> GatedConv2d | None:
        """The layer that decides, if the convolution is gated."""
        return self.op.options.get("gate")

    @property
    def linear(self) -> bool:
        return self.op.op == "Linear"


@dataclass(frozen=True)
class Lowered:
    """The blocks of a graph.

    Parameters
    ----------
    blocks : tuple of Block
        Each fed by blocks before it or the image; the last one is the result.
    image : str
        Name of the value that is the image as the first layer takes it.
    scale, shift : float64 (C,)
        Of the normalization of the image inside of the model.
    """

    blocks: tuple[Block, ...]
    image: str
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class _Value:
    """What a node computes: the output of a block, possibly seen through something."""

    index: int
    average: bool = False
    shortcut: Shortcut | None = None
    origin: str = ""  # of the average or the shortcut


def lower(graph: Graph) -> tuple[Lowered, tuple[str, ...]]:
    """Blocks of a simplified graph, and a sentence for each obstacle that keeps it from running."""
    return _Lowering(graph).run()


def rebind(lowered: Lowered, model: nn.Module) -> Lowered:
    """The same blocks with the tensors that a model has now, such as on another device."""
    def bound(node: Node) -> Node:
        owners = {name: key.rpartition(".") for name, key in node.keys.items()}
        return replace(node, tensors={**node.tensors, **{
            name: getattr(model.get_submodule(path), last)
            for name, (path, _, last) in owners.items()}})

    blocks = tuple(replace(block, op=bound(block.op), after=tuple(map(bound, block.after)))
                   for block in lowered.blocks)
    return replace(lowered, blocks=blocks)


class _Lowering:
    """The blocks found so far, and the value of each node."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.readers = graph, graph.readers()
        self.blocks: list[Block] = []
        self.values: dict[str, _Value] = {}
        self.names: Counter[str] = Counter()
        channels = graph.image.shape[0]
        self.image = graph.image.name
        self.scale, self.shift = torch.ones(channels).double(), torch.zeros(channels).double()

    def run(self) -> tuple[Lowered, tuple[str, ...]]:
        obstacles = []
        for node in self.graph.nodes:
            try:
                self.values[node.name] = self._value(node)
            except CompileError as error:
                obstacles.append(str(error))
                # What follows a layer that does not run is looked at as well.
                own = bool(self.blocks) and self.blocks[-1].op is node
                self.values[node.name] = _Value(len(self.blocks) - 1 if own else _UNKNOWN)
        result = self.values[self.graph.output]
        if not obstacles:
            obstacles += self._result_obstacles(result)
        return Lowered(tuple(self.blocks), self.image, self.scale, self.shift), tuple(obstacles)

    def _result_obstacles(self, result: _Value) -> list[str]:
        if result.average:
            return [f"Layer {result.origin!r} averages without a linear layer behind it; put a "
                    "Linear layer there"]
        if not self.blocks:
            return [f"The model has no layer to run; supported are {RUNS}"]
        if result.shortcut is not None or result.index != len(self.blocks) - 1:
            return ["The model must return one tensor, the output of its last layer"]
        return []

    def _value(self, node: Node) -> _Value:
        if node.op == UNSUPPORTED:
            raise refusal(node)
        if node.op == "Input":
            return _Value(IMAGE)
        if node.op == "Add":
            return self._add(node)
        if len(node.inputs) > 1:
            raise unsupported(node, "takes more than one tensor",
                               "only an addition may combine tensors")
        value = self.values[node.inputs[0]]
        if node.op == "Reshape":
            return self._reshape(node, value)
        if node.op in ("Conv", "Linear"):
            return self._layer(node, value)
        read: dict[str, Callable[[Node, _Value], _Value]] = {
            "Affine": self._affine, "BatchNorm": self._affine, "Activation": self._activation,
            "MaxPool": self._pool, "Select": self._select, "Mean": self._mean}
        if node.op == "AvgPool":
            raise averages_part(node, self.graph)
        if node.op == "Pad":
            raise unsupported(node, "pads a map that no convolution takes",
                               "pad in front of convolutions")
        if node.op not in read:
            raise unsupported(node, f"is a {node.op}", f"supported are {RUNS}")
        if value.index == _UNKNOWN:
            check_alone(node)
            return value
        last = None if value.index == IMAGE else self.blocks[value.index]
        if last is not None and last.linear:
            raise unsupported(node, f"follows the linear layer {last.name!r}, which must be the "
                               "last", "move it out of the model")
        if value.average:
            raise unsupported(node, "follows an average pooling", "put a Linear layer there")
        return read[node.op](node, value)

    # Layers

    def _layer(self, node: Node, value: _Value) -> _Value:
        if value.index >= 0 and self.blocks[value.index].linear:
            raise unsupported(node, f"follows the linear layer {self.blocks[value.index].name!r}, "
                               "which must be the last", "move it out of the model")
        if value.average and node.op == "Conv":
            raise unsupported(node, "follows an average pooling", "put a Linear layer there")
        self._check_shortcut(node, value)
        self.names[node.origin] += 1
        count = self.names[node.origin]
        name = node.origin if count == 1 else f"{node.origin}:{count}"
        block = Block(name, node.name, node, value.index, average=value.average)
        self.blocks.append(block)
        if node.op == "Conv":
            check_conv(node)
        elif not value.average and value.index != _UNKNOWN:
            _, height, width = self._shape(value)
            if (height, width) != (1, 1):
                raise unsupported(node, f"is a linear layer on {height}x{width} pixels",
                                   "put AdaptiveAvgPool2d(1) before it")
        return _Value(len(self.blocks) - 1)

    def _shape(self, value: _Value) -> tuple[int, ...]:
        """Shape of a block's output, or of the image, as a map."""
        name = self.image if value.index == IMAGE else self.blocks[value.index].value
        shape = self.graph.node(name).shape
        return shape if len(shape) == 3 else (*shape, 1, 1)

    # What a layer takes in

    def _last(self, node: Node, value: _Value) -> Block:
        """The block that an operator behind it changes."""
        if value.index == IMAGE:
            raise unsupported(node, f"is {a_text(node)} before the first convolution",
                               "apply it to the images instead")
        self._check_shortcut(node, value)
        last = self.blocks[value.index]
        if self._shared(node.inputs[0]):
            raise unsupported(
                node, f"changes the output of {last.name!r}, which is also used elsewhere",
                "use the output behind it, or keep a second convolution")
        return last

    def _affine(self, node: Node, value: _Value) -> _Value:
        if value.index == IMAGE and node.op == "Affine" and not self.blocks and (
                self.readers[node.inputs[0]] == 1 and node.inputs[0] == self.graph.image.name):
            self.image, self.scale, self.shift = (node.name, node.tensors["scale"],
                                                  node.tensors["shift"])
            if bool((self.scale == 0).any()):
                raise unsupported(node, "multiplies the image by 0", "leave the channel out")
            return value
        last = self._last(node, value)
        if last.relu or last.pool > 1 or last.order is not None or last.residual is not None:
            raise unsupported(node, f"is not directly behind the convolution {last.name!r}",
                               "order a block as convolution, batch norm, ReLU, max pooling")
        last.after, last.value = (*last.after, node), node.name
        return value

    def _activation(self, node: Node, value: _Value) -> _Value:
        check_alone(node)
        last = self._last(node, value)
        last.relu, last.value = True, node.name
        return value

    def _pool(self, node: Node, value: _Value) -> _Value:
        last, edge = self._last(node, value), pool_edge(node)
        if last.pool > 1:
            raise unsupported(node, f"is a second max pooling behind {last.name!r}",
                               "use one larger pooling")
        last.pool, last.value = edge, node.name
        return value

    def _select(self, node: Node, value: _Value) -> _Value:
        """A shuffle, or a padding shortcut."""
        channels, stride = torch.tensor(node.options["channels"]), node.options["stride"]
        count = self.graph.node(node.inputs[0]).shape[0]
        if stride == (1, 1) and sorted(channels.tolist()) == list(range(count)):
            last = self._last(node, value)
            if last.residual is not None:
                raise unsupported(node, "shuffles a sum",
                                   "shuffle the convolution's output before the addition")
            last.order = channels if last.order is None else last.order[channels]
            last.value = node.name
            return value
        taken = (channels >= 0).nonzero().flatten()
        offset = int(taken[0])
        whole = channels[offset:offset + count]
        if stride[0] != stride[1] or len(taken) != count or not torch.equal(
                whole, torch.arange(count)):
            raise unsupported(node, "takes some of the channels, or more rows than columns",
                               "take whole maps")
        before = value.shortcut or Shortcut()
        return replace(value, shortcut=Shortcut(before.stride * stride[0], before.offset + offset),
                       origin=node.origin)

    def _mean(self, node: Node, value: _Value) -> _Value:
        self._check_shortcut(node, value)
        if set(node.options["axes"]) != {2, 3}:
            raise averages_part(node, self.graph)
        return replace(value, average=True, origin=node.origin)

    def _reshape(self, node: Node, value: _Value) -> _Value:
        before = self.graph.node(node.inputs[0]).shape
        if value.index == _UNKNOWN or len(node.shape) == 1 or node.shape == (*before, 1, 1):
            return value
        raise unsupported(node, "rearranges channels and pixels", "flatten all but the batch")

    def _add(self, node: Node) -> _Value:
        """The later of two blocks takes the other one's output in."""
        operands = node.inputs
        if operands[0] == operands[1]:
            raise unsupported(node, "adds a value to itself", "scale the weights instead")
        if any(self.values[name].index == _UNKNOWN for name in operands):
            return _Value(_UNKNOWN)
        pairs = [(operands[0], operands[1]), (operands[1], operands[0])]
        pairs.sort(key=lambda pair: -self.values[pair[0]].index)
        for main, other in pairs:
            value, added = self.values[main], self.values[other]
            if self._takes(main, value) and not added.average and added.index < value.index:
                last = self.blocks[value.index]
                last.residual, last.shortcut = added.index, added.shortcut or Shortcut()
                last.relu_first, last.relu, last.value = last.relu, False, node.name
                return value
        raise unsupported(node, "adds two values that no convolution can take in", "one must come "
                           "straight from a convolution, batch norm or ReLU that nothing else uses "
                           "and that comes after the other one")

    def _takes(self, name: str, value: _Value) -> bool:
        """Whether the block of a value can take a residual in."""
        if value.index < 0 or value.average or value.shortcut or self._shared(name):
            return False
        block = self.blocks[value.index]
        return not block.linear and block.pool == 1 and block.residual is None

    def _shared(self, name: str) -> bool:
        """Whether more than one operator takes a value, in this or in another shape."""
        while self.readers[name] == 1 and self.graph.node(name).op == "Reshape":
            name, = self.graph.node(name).inputs
        return self.readers[name] > 1

    def _check_shortcut(self, node: Node, value: _Value) -> None:
        if value.shortcut is not None:
            raise unsupported(node, f"follows the shortcut {value.origin!r}",
                               "add what the shortcut returns to another output")
