"""What the accelerator has of an operator, and the sentences that refuse the rest."""

from typing import Any

from hwgate.errors import CompileError
from hwgate.quant.layer import KERNELS, STRIDES

from .graph import RUNS, Graph, Node

__all__ = ["a_text", "averages_part", "check_alone", "check_conv", "pool_edge", "unsupported"]


def check_conv(node: Node) -> None:
    """Raise unless the accelerator has the kernel, stride and padding of a convolution."""
    options, kernel = node.options, tuple(node.tensors["weight"].shape[2:])
    half = kernel[0] // 2
    for what, value, allowed, hint in (
            ("kernel size", kernel, [(k, k) for k in KERNELS], "use square kernels of one of these "
             "edges"),
            ("stride", options["stride"], [(s, s) for s in STRIDES], "use stride 2 and shrink the "
             "map further with MaxPool2d"),
            ("dilation", options["dilation"], [(1, 1)], "use a dilation of 1"),
            ("groups", (options["groups"],), [(1,)], "depthwise and grouped convolutions leave the "
             "array idle, so use groups=1, or GatedConv2d(grouping=True) for grouped base paths"),
            ("padding", options["padding"], [(p,) * 4 for p in range(half + 1)], "pad by at most "
             "half the kernel, and alike on all sides")):
        if tuple(value) not in allowed:
            names = (f"0 to {half}" if what == "padding" else
                     " or ".join(str(found[0]) for found in allowed))
            raise unsupported(node, f"has {what} {'x'.join(map(str, value))}, and supported is "
                               f"{names}", hint)


def check_alone(node: Node) -> None:
    """Raise for an activation or a pooling that no layer has, whatever it follows."""
    if node.op == "Activation" and node.options["kind"] != "relu":
        raise unsupported(node, f"is {a_text(node)}", f"supported are {RUNS}")
    if node.op == "MaxPool":
        pool_edge(node)


def pool_edge(node: Node) -> int:
    """Edge and stride of a max pooling of disjoint squares; raises for another one."""
    o = node.options
    edges = {*o["kernel_size"], *o["stride"]}
    if len(edges) > 1 or any(o["padding"]) or set(o["dilation"]) != {1} or o["ceil_mode"]:
        raise unsupported(
            node, f"is a max pooling of kernel {_show(o['kernel_size'])}, stride "
            f"{_show(o['stride'])} and padding {_show(o['padding'])}", "use MaxPool2d(k) with "
            "equal edges and stride, without padding, dilation or ceil_mode")
    return int(edges.pop())


def unsupported(node: Node, what: str, hint: str) -> CompileError:
    return CompileError(f"Layer {node.origin!r} {what}; {hint}")


def averages_part(node: Node, graph: Graph) -> CompileError:
    """An average over anything but the whole map."""
    _, height, width = graph.node(node.inputs[0]).shape
    part = (_show(node.options["kernel_size"]) if node.op == "AvgPool" else "lines")
    return unsupported(node, f"averages over {part} of {height}x{width} pixels",
                        "average over all of them, before a Linear layer")


def a_text(node: Node) -> str:
    kind = node.options.get("kind")
    names: dict[str, str] = {"Activation": f"a {'ReLU' if kind == 'relu' else kind}",
                             "MaxPool": "a max pooling", "BatchNorm": "a batch norm",
                             "Affine": "a scale", "Select": "a choice of channels"}
    return names.get(node.op, f"a {node.op}")


def _show(value: Any) -> str:
    numbers = [value] if isinstance(value, int) else list(value)
    return str(numbers[0]) if len(set(numbers)) == 1 else "x".join(map(str, numbers))
