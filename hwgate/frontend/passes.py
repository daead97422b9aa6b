"""Rewriting a graph until layers can be read off it.

Every pass computes the same as before, but :func:`drop_softmax`, which only ranks the same.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hwgate.errors import CompileError
from hwgate.quant.layer import STRIDES

from .graph import Graph, Node
from .lowering.limits import kernel_edge

__all__ = ["deviation", "drop_same", "drop_softmax", "fold_norms", "fold_padding",
           "gain_and_offset", "merge_affine", "merge_means", "merge_relu", "norm_as_affine",
           "pools_as_convolutions", "simplify", "whole_averages", "whole_windows"]


def simplify(graph: Graph) -> Graph:
    """All passes that compute the same, in their order."""
    for fold in (whole_averages, merge_means, pools_as_convolutions, whole_windows, fold_padding,
                 merge_relu, fold_norms, merge_affine):
        graph = fold(graph)
    return graph


def drop_softmax(graph: Graph) -> Graph:
    """Without a softmax at the end: what it ranks is ranked the same without it."""
    last = graph.node(graph.output)
    while last.op == "Activation" and last.options["kind"] in ("softmax", "log_softmax"):
        graph = Graph(graph.nodes, last.inputs[0]).live()
        last = graph.node(graph.output)
    return graph


def whole_averages(graph: Graph) -> Graph:
    """An average pooling of one window, the whole map, is a mean; one of single pixels nothing."""
    def fold(node: Node, graph: Graph) -> Node | None:
        if node.op != "AvgPool":
            return None
        o, (_, *pixels) = node.options, graph.node(node.inputs[0]).shape
        count = pixels[0] * pixels[1]
        if node.shape == graph.node(node.inputs[0]).shape and o["kernel_size"] == (1, 1) and (
                o.get("divisor_override") in (None, 1)):
            return replace(node, op="Reshape", options={"shape": node.shape})
        if (tuple(o["kernel_size"]) != tuple(pixels) or any(o["padding"])
                or o.get("divisor_override") not in (None, count)):
            return None
        return replace(node, op="Mean", options={"axes": (2, 3)})

    return drop_same(_each(graph, fold))


def pools_as_convolutions(graph: Graph) -> Graph:
    """An average pooling that divides by the same number everywhere is a depthwise convolution."""
    def fold(node: Node, graph: Graph) -> Node | None:
        if node.op != "AvgPool":
            return None
        o, channels = node.options, node.shape[0]
        rows, columns = o["kernel_size"]
        divisor = o.get("divisor_override")
        uneven = any(o["padding"]) and not o["count_include_pad"] and divisor is None
        if uneven or _windows(node, graph) != node.shape[1:]:
            return None
        if kernel_edge(rows, columns) is None or o["stride"] not in [(s, s) for s in STRIDES]:
            return None
        weight = torch.full((channels, 1, rows, columns), 1 / (divisor or rows * columns))
        down, across = o["padding"]
        return replace(node, op="Conv", tensors={"weight": weight}, options={
            "stride": o["stride"], "padding": (down, down, across, across), "dilation": (1, 1),
            "groups": channels, "constant": True})

    return _each(graph, fold)


def whole_windows(graph: Graph) -> Graph:
    """A max pooling that has no more windows with ``ceil_mode`` than without does not need it."""
    def fold(node: Node, graph: Graph) -> Node | None:
        if node.op != "MaxPool" or not node.options["ceil_mode"] or (
                _windows(node, graph) != node.shape[1:]):
            return None
        return replace(node, options={**node.options, "ceil_mode": False})

    return _each(graph, fold)


def _windows(node: Node, graph: Graph) -> tuple[int, ...]:
    """Rows and columns of a pooling without ``ceil_mode``."""
    o, (_, *pixels) = node.options, graph.node(node.inputs[0]).shape
    return tuple((edge + 2 * pad - apart * (size - 1) - 1) // step + 1
                 for edge, pad, size, apart, step in zip(
                     pixels, o["padding"], o["kernel_size"], o.get("dilation", (1, 1)),
                     o["stride"], strict=True))


def merge_means(graph: Graph) -> Graph:
    """The mean over rows of a mean over columns is one over both."""
    def fold(node: Node, graph: Graph) -> Node | None:
        source = graph.node(node.inputs[0]) if node.op == "Mean" else None
        if source is None or source.op != "Mean":
            return None
        axes = sorted({*node.options["axes"], *source.options["axes"]})
        return replace(node, inputs=source.inputs, options={"axes": tuple(axes)})

    return _each(graph, fold)


def fold_padding(graph: Graph) -> Graph:
    """Zeros around a map that a convolution reads are its padding."""
    def fold(node: Node, graph: Graph) -> Node | None:
        source = graph.node(node.inputs[0]) if node.op == "Conv" else None
        if source is None or source.op != "Pad" or "gate" in node.options:
            return None
        both = zip(node.options["padding"], source.options["padding"], strict=True)
        return replace(node, inputs=source.inputs, options={
            **node.options, "padding": tuple(own + more for own, more in both)})

    return _each(graph, fold)


def merge_relu(graph: Graph) -> Graph:
    """A ReLU of what is never negative is dropped."""
    def fold(node: Node, graph: Graph) -> Node | None:
        if node.op != "Activation" or node.options["kind"] != "relu":
            return None
        source = graph.node(node.inputs[0])
        while source.op in ("MaxPool", "Select", "Reshape", "Pad"):
            source = graph.node(source.inputs[0])
        if source.op == "Activation" and source.options["kind"] == "relu":
            return replace(node, op="Reshape", options={"shape": node.shape})
        return None

    return drop_same(_each(graph, fold))


def drop_same(graph: Graph) -> Graph:
    """Without reshapes that leave the shape as it is."""
    same = {node.name: node.inputs[0] for node in graph.nodes
            if node.op == "Reshape" and graph.node(node.inputs[0]).shape == node.shape}

    def end(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    nodes = tuple(replace(node, inputs=tuple(map(end, node.inputs))) for node in graph.nodes
                  if node.name not in same)
    return Graph(nodes, end(graph.output))


def fold_norms(graph: Graph) -> Graph:
    """A batch norm of the image, or of an affine map, is an affine map.

    The other ones stay, so that they can be trained.
    """
    def fold(node: Node, graph: Graph) -> Node | None:
        if node.op != "BatchNorm" or graph.node(node.inputs[0]).op not in ("Input", "Affine"):
            return None
        scale, shift = norm_as_affine(node)
        return replace(node, op="Affine", tensors={"scale": scale, "shift": shift}, keys={},
                       options={})

    return _each(graph, fold)


def merge_affine(graph: Graph) -> Graph:
    """An affine map of one that nobody else reads is a single one."""
    readers = graph.readers()

    def fold(node: Node, graph: Graph) -> Node | None:
        if node.op != "Affine" or readers[node.inputs[0]] > 1:
            return None
        source = graph.node(node.inputs[0])
        if source.op != "Affine":
            return None
        scale, shift = source.tensors["scale"], source.tensors["shift"]
        own = node.tensors["scale"]
        return replace(node, inputs=source.inputs, tensors={
            "scale": scale * own, "shift": shift * own + node.tensors["shift"]})

    return _each(graph, fold)


def _each(graph: Graph, fold: Callable[[Node, Graph], Node | None]) -> Graph:
    """Nodes as ``fold`` replaces them, in order; it sees those before a node as replaced."""
    for node in graph.nodes:
        found = fold(node, graph)
        if found is not None:
            graph = Graph(tuple(found if old.name == node.name else old for old in graph.nodes),
                          graph.output)
    return graph.live()


def deviation(node: Node, variance: Tensor, eps: float) -> Tensor:
    """Square root of a batch norm's variances and eps, in double precision.

    Raises
    ------
    CompileError
        If one is not positive, or infinite.
    """
    total = variance.double() + eps
    wrong = ~((total > 0) & total.isfinite())
    if bool(wrong.any()):
        channel = int(wrong.nonzero()[0])
        raise CompileError(f"Layer {node.origin!r} has a variance of {float(variance[channel]):g} "
                           f"in channel {channel}, which must be positive and finite")
    return total.sqrt()


def norm_as_affine(node: Node) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of a batch norm."""
    tensors = node.tensors
    scale = 1 / deviation(node, tensors["variance"], node.options["eps"])
    if "weight" in tensors:
        scale = scale * tensors["weight"].double()
    shift = -tensors["mean"].double() * scale
    return scale, shift + tensors["bias"].double() if "bias" in tensors else shift


def gain_and_offset(op: Node, after: tuple[Node, ...]) -> tuple[Tensor, Tensor]:
    """Gain and offset (Co,) from a convolution's sum, without its bias, to what norms and affine
    maps behind it make of it."""
    channels = op.shape[0]
    gain = torch.ones(channels, dtype=torch.float64)
    offset = (op.tensors["bias"].double() if "bias" in op.tensors
              else torch.zeros(channels, dtype=torch.float64))
    for node in after:
        if node.op == "BatchNorm":
            # In the order in which a norm computes: an offset near the mean keeps its digits.
            scale = 1 / deviation(node, node.tensors["variance"], node.options["eps"])
            shift = torch.zeros(channels, dtype=torch.float64)
            if "weight" in node.tensors:
                scale = scale * node.tensors["weight"].double()
                shift = node.tensors["bias"].double() if "bias" in node.tensors else shift
            offset = (offset - node.tensors["mean"].double()) * scale + shift
        else:
            scale = node.tensors["scale"].double()
            offset = offset * scale + node.tensors["shift"].double()
        gain = gain * scale
    return gain, offset
