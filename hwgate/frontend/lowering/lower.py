"""From a graph to the layers of the accelerator: which operators one layer takes in.

A layer is a convolution or linear layer with what follows it. What has no convolution to go with,
such as a norm of a value that others take as well, goes with one that copies the value.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import torch

from hwgate.errors import CompileError
from hwgate.frontend.graph import BEHIND, RUNS, UNSUPPORTED, Graph, Node, refusal
from hwgate.frontend.passes import deviation
from hwgate.quant.joined import side_by_side
from hwgate.quant.layer import IMAGE

from .blocks import Block, Lowered, Shortcut, averaging, copying
from .limits import (
    a_text,
    averages_part,
    bound_of,
    check_alone,
    check_conv,
    check_flattened,
    pool_edge,
    unsupported,
)
from .views import UNKNOWN, View, joined_view

__all__ = ["lower"]

#: Up to so many maps side by side, all orders are tried.
_ORDERED = 5


def lower(graph: Graph) -> tuple[Lowered, tuple[str, ...]]:
    """Blocks of a simplified graph, and a sentence for each obstacle that keeps it from running."""
    return _Lowering(graph).run()


class _Lowering:
    """The blocks found so far, and the view of each node's value."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.readers = graph, graph.readers()
        self.blocks: list[Block] = []
        self.views: dict[str, View] = {}
        self.names: Counter[str] = Counter()
        self.runs: list[tuple[int, ...]] = []  # maps side by side, of each block
        channels = graph.image.shape[0]
        self.image = graph.image.name
        self.scale, self.shift = torch.ones(channels).double(), torch.zeros(channels).double()

    def run(self) -> tuple[Lowered, tuple[str, ...]]:
        obstacles = []
        for node in self.graph.nodes:
            try:
                self.views[node.name] = self._view(node)
            except CompileError as error:
                obstacles.append(str(error))
                # What follows a layer that does not run is looked at as well.
                own = bool(self.blocks) and self.blocks[-1].op.name == node.name
                self.views[node.name] = (View.of(len(self.blocks) - 1, node.shape[0]) if own
                                         else View.of(UNKNOWN, 1))
        if not obstacles:
            obstacles += self._finish()
        return Lowered(tuple(self.blocks), self.image, self.scale, self.shift), tuple(obstacles)

    def _finish(self) -> list[str]:
        """Make the result the last block's output; obstacles."""
        if not self.blocks:
            return [f"The model has no layer to run; supported are {RUNS}"]
        name = self.graph.output
        if self._whole(self.views[name]) != len(self.blocks) - 1:
            self._copy(self.views[name], name, self.graph.node(name).origin)
        return []

    def _view(self, node: Node) -> View:
        if node.op == UNSUPPORTED:
            raise refusal(node)
        if node.op == "Input":
            return View.of(IMAGE, node.shape[0])
        makes: dict[str, Callable[[Node], View]] = {
            "Add": self._add, "Concat": self._concat, "Reshape": self._reshape,
            "Conv": self._conv, "Linear": self._linear, "Affine": self._affine,
            "BatchNorm": self._affine, "Activation": self._activation, "MaxPool": self._pool,
            "Select": self._select, "Mean": self._mean}
        if node.op == "AvgPool":
            raise averages_part(node, self.graph)
        if node.op == "Pad":
            raise unsupported(node, "pads a map that no convolution takes",
                               "pad in front of convolutions")
        if node.op == BEHIND:
            return View.of(UNKNOWN, 1)
        if node.op not in makes:
            raise unsupported(node, f"is {a_text(node)}", f"supported are {RUNS}")
        if node.op not in ("Conv", "Linear") and any(
                self.views[name].unknown for name in node.inputs):
            check_alone(node)
            return View.of(UNKNOWN, 1)
        if node.op in ("Affine", "BatchNorm", "Select", "Concat") and any(
                len(self.views[name].channels) != self.graph.node(name).shape[0]
                for name in node.inputs):
            raise unsupported(node, f"is {a_text(node)} of a flattened map",
                               "put it before the flattening")
        return makes[node.op](node)

    # Values

    def _shape(self, index: int) -> tuple[int, ...]:
        """(C, H, W) of a block's output, or of the image."""
        shape = self.graph.node(self._name(index)).shape
        if len(shape) == 3:
            return shape
        return (*shape, 1, 1) if index == IMAGE else self.blocks[index].shape

    def _name(self, index: int) -> str:
        """Name of the value that a block's output is."""
        return self.image if index == IMAGE else self.blocks[index].value

    def _whole(self, view: View) -> int | None:
        """The block that a view is the output of, if it is nothing but that."""
        maps = view.maps
        return view.whole(self._shape(maps[0])[0]) if len(maps) == 1 else None

    def _free(self, name: str, index: int) -> bool:
        """Whether a value is a block's output as it is, and one operator alone takes it, in this or
        in another shape; so that the block may compute that operator as well."""
        while self.readers[name] == 1:
            if index < 0 or name == self.blocks[index].value:
                return index >= 0
            node = self.graph.node(name)
            if node.op != "Reshape":
                break
            name, = node.inputs
        return False

    # Blocks

    def _append(self, op: Node, view: View, value: str) -> Block:
        """A further block, which reads a plain view, or the average of one."""
        maps, channels = view.maps, None
        if not view.unknown:
            if op.options.get("gate") is None:
                maps = self._ordered(maps)
            channels = view.placed(maps, [self._shape(n)[0] for n in maps])
            maps = self._beside(maps, op.origin)
            self.runs.append(maps)
        self.names[op.origin] += 1
        count = self.names[op.origin]
        block = Block(op.origin if count == 1 else f"{op.origin}:{count}", value, op, maps,
                      channels, average=view.average)
        self.blocks.append(block)
        return block

    def _ordered(self, maps: tuple[int, ...]) -> tuple[int, ...]:
        """Maps in the first order in which they can lie side by side, if there is one."""
        orders = permutations(maps) if len(maps) <= _ORDERED else [maps, tuple(sorted(maps))]
        return next((order for order in orders
                     if side_by_side([*self.runs, order])[1] is None), maps)

    def _beside(self, maps: tuple[int, ...], origin: str) -> tuple[int, ...]:
        """Maps that can lie side by side: these, or copies of those that have other neighbours."""
        found = list(maps)
        for n in reversed(range(len(maps))):
            if side_by_side([*self.runs, tuple(found)])[1] is None:
                break
            view = View.of(maps[n], self._shape(maps[n])[0])
            self._copy(view, self._name(maps[n]), origin)
            found[n] = len(self.blocks) - 1
        return tuple(found)

    def _copy(self, view: View, value: str, origin: str) -> Block:
        """A new block that only hands on what it reads, which is a value of the graph."""
        channels, (_, height, width) = len(view.channels), self._shape(view.maps[0])
        if view.average:
            return self._append(averaging(value, channels, origin), view, value)
        op = copying(value, (channels, height, width), origin, view.stride)
        return self._append(op, replace(view, stride=1), value)

    def _map(self, name: str, origin: str) -> View:
        """The value of a node as a block's output: as it is, or copied."""
        view = self.views[name]
        if self._whole(view) is None:
            self._copy(view, name, origin)
            view = self.views[name] = View.of(len(self.blocks) - 1, len(view.channels))
        return view

    def _conv(self, node: Node) -> View:
        name, view = node.inputs[0], self.views[node.inputs[0]]
        options = node.options
        pointwise = (node.tensors["weight"].shape[2:] == options["stride"] == (1, 1)
                     and not any(options["padding"]) and options["groups"] == 1
                     and options.get("gate") is None)
        if not view.unknown and (not view.plain or node.options.get("gate") is not None):
            if not (view.average and pointwise) and (not view.plain or self._mixed(view)):
                view = self._map(name, node.origin)
        elif not view.unknown and self._wasteful(view):
            view = self._map(name, node.origin)
        self._append(node, view, node.name)
        if node.op == "Conv":
            check_conv(node)
        return View.of(len(self.blocks) - 1, node.shape[0])

    def _mixed(self, view: View) -> bool:
        """Whether a view has its maps' channels in another order, or not all of them."""
        return view.placed(view.maps, [self._shape(n)[0] for n in view.maps]) is not None

    def _wasteful(self, view: View) -> bool:
        """Whether most of what a layer would load to read a view is not in it."""
        return sum(self._shape(n)[0] for n in view.maps) > 2 * len(view.channels)

    def _linear(self, node: Node) -> View:
        name, view = node.inputs[0], self.views[node.inputs[0]]
        if not view.unknown and view.stride > 1:
            view = self._map(name, node.origin)
        _, height, width = (0, 1, 1) if view.unknown else self._shape(view.maps[0])
        flattened = not view.average and (height, width) != (1, 1)
        if flattened:
            check_flattened(node, height, width)
        block = self._append(node, view, node.name)
        block.window = (height, width) if flattened else None
        return View.of(len(self.blocks) - 1, node.shape[0])

    # What a layer takes in

    def _last(self, node: Node, fits: Callable[[Block], bool]) -> tuple[Block, View]:
        """The block that an operator goes with: the one before it, or one that copies its output.
        """
        name, view = node.inputs[0], self.views[node.inputs[0]]
        index = self._whole(view)
        if index is not None and self._free(name, index) and fits(self.blocks[index]):
            block = self.blocks[index]
        else:
            block = self._copy(view, name, node.origin)
            index = len(self.blocks) - 1
        block.value = node.name
        return block, View.of(index, len(view.channels))

    def _affine(self, node: Node) -> View:
        if self._normalizes(node):
            self.image, self.scale, self.shift = (node.name, node.tensors["scale"],
                                                  node.tensors["shift"])
            if bool((self.scale == 0).any()):
                raise unsupported(node, "multiplies the image by 0", "leave the channel out")
            return self.views[node.inputs[0]]
        if node.op == "BatchNorm":
            deviation(node, node.tensors["variance"], node.options["eps"])
        block, view = self._last(node, lambda block: not block.relu and block.bound is None and (
            block.pool == 1 and block.order is None and block.residual is None))
        block.after = (*block.after, node)
        return view

    def _normalizes(self, node: Node) -> bool:
        """Whether a node maps the image before anything else takes it."""
        name = node.inputs[0]
        return (node.op == "Affine" and not self.blocks and self.readers[name] == 1
                and name == self.graph.image.name)

    def _activation(self, node: Node) -> View:
        positive, bound = bound_of(node)
        block, view = self._last(node, lambda block: bound is None or block.bound is None)
        block.relu = block.relu or positive
        block.bound = bound if block.bound is None else block.bound
        return view

    def _pool(self, node: Node) -> View:
        edge = pool_edge(node)
        block, view = self._last(node, lambda block: True)
        block.pool *= edge
        return view

    def _select(self, node: Node) -> View:
        """A shuffle, some channels, or a padding shortcut."""
        name, view = node.inputs[0], self.views[node.inputs[0]]
        channels, (rows, columns) = node.options["channels"], node.options["stride"]
        if rows != columns or view.stride * rows > 2:
            raise unsupported(node, "takes rows and columns at other distances than 1 and 2",
                               "take whole maps")
        index, count = self._whole(view), len(view.channels)
        if not any(channel >= 0 and view.channels[channel] for channel in channels):
            raise unsupported(node, "takes nothing but zeros", "leave it out")
        if rows == 1 and sorted(channels) == list(range(count)) and index is not None and (
                self._free(name, index) and self.blocks[index].residual is None):
            block, order = self.blocks[index], torch.tensor(channels)
            block.order = order if block.order is None else block.order[order]
            block.value = node.name
            return view
        return replace(view.taking(channels), stride=view.stride * rows)

    def _mean(self, node: Node) -> View:
        if set(node.options["axes"]) != {2, 3}:
            raise averages_part(node, self.graph)
        view = self.views[node.inputs[0]]
        if not view.plain:
            view = self._map(node.inputs[0], node.origin)
        return replace(view, average=True)

    def _reshape(self, node: Node) -> View:
        before, name = self.graph.node(node.inputs[0]).shape, node.inputs[0]
        if len(node.shape) < 2 or node.shape == (*before, 1, 1):
            return self.views[name]
        raise unsupported(node, "rearranges channels and pixels", "flatten all but the batch")

    def _concat(self, node: Node) -> View:
        shapes = {self.graph.node(name).shape[1:] for name in node.inputs}
        if len(shapes) > 1:
            raise unsupported(node, "joins maps of different sizes", "join maps of the same pixels")
        views = []
        for name in node.inputs:
            if not self.views[name].plain:
                self._map(name, node.origin)
            views.append(self.views[name])
        return joined_view(views)

    def _add(self, node: Node) -> View:
        """The later of two blocks takes the other one's output in, or a copy does."""
        one, two = node.inputs
        if len(self.views[one].channels) != len(self.views[two].channels):
            raise unsupported(node, "adds a flattened map to a vector",
                               "add maps before the flattening")
        for main, other in sorted([(one, two), (two, one)], key=lambda pair: -max(
                self.views[pair[0]].maps, default=IMAGE)):
            index, seen = self._whole(self.views[main]), self._residual(self.views[other])
            if index is not None and seen is not None and self._takes(main, index) and (
                    seen[0] < index):
                return self._adding(node, index, *seen)
        main, other = (one, two) if self._residual(self.views[two]) is not None else (two, one)
        if self._residual(self.views[other]) is None:
            self._map(other, node.origin)
        seen = self._residual(self.views[other])
        assert seen is not None
        if self.views[main].average:
            self._map(main, node.origin)
        self._copy(self.views[main], main, node.origin)
        return self._adding(node, len(self.blocks) - 1, *seen)

    def _adding(self, node: Node, index: int, residual: int, shortcut: Shortcut) -> View:
        block = self.blocks[index]
        block.residual, block.shortcut = residual, shortcut
        block.relu_first, block.relu, block.value = block.relu, False, node.name
        return View.of(index, len(self.views[node.inputs[0]].channels))

    def _residual(self, view: View) -> tuple[int, Shortcut] | None:
        """A view as what a layer can add: a whole map, maybe sampled, from some channel on."""
        maps, channels = view.maps, view.channels
        if view.average or len(maps) != 1:
            return None
        offset = next(n for n, pair in enumerate(channels) if pair is not None)
        count = self._shape(maps[0])[0]
        padded = (*[None] * offset, *View.of(maps[0], count).channels,
                  *[None] * (len(channels) - offset - count))
        return (maps[0], Shortcut(view.stride, offset)) if padded == channels else None

    def _takes(self, name: str, index: int) -> bool:
        """Whether a block can take a residual in."""
        if not self._free(name, index):
            return False
        block = self.blocks[index]
        return (not block.reduces and block.pool == 1 and block.residual is None
                and block.bound is None)

