"""What the accelerator has of an operator, and the sentences that refuse the rest."""

from typing import Any

from hwgate.errors import CompileError
from hwgate.frontend.graph import RUNS, Graph, Node
from hwgate.quant.layer import KERNELS, MOST_PADDING, STRIDES

__all__ = ["a_text", "averages_part", "bound_of", "check_alone", "check_conv", "check_flattened",
           "kernel_edge", "pool_edge", "unsupported"]


def kernel_edge(rows: int, columns: int) -> int | None:
    """Edge of the smallest kernel that holds so many rows and columns of taps, if there is one."""
    return next((edge for edge in KERNELS if edge >= max(rows, columns)), None)


def check_conv(node: Node) -> None:
    """Raise unless the accelerator has the kernel, stride and padding of a convolution."""
    options, kernel = node.options, tuple(node.tensors["weight"].shape[2:])
    spread = tuple((edge - 1) * step + 1
                   for edge, step in zip(kernel, options["dilation"], strict=True))
    edge = kernel_edge(*spread)
    if edge is None:
        text = f"has kernel size {_show(kernel)}"
        if spread != kernel:
            text += f" and dilation {_show(options['dilation'])}"
        raise unsupported(node, f"{text}, and supported are windows of up to {KERNELS[-1]}x"
                           f"{KERNELS[-1]} pixels", "use a smaller kernel, or several in a row")
    if options["stride"] not in [(s, s) for s in STRIDES]:
        raise unsupported(node, f"has stride {_show(options['stride'])}, and supported is "
                           f"{' or '.join(map(str, STRIDES))}", "use stride 2 and shrink the "
                           "map further with MaxPool2d")
    top, bottom, left, right = options["padding"]
    most = min(edge - 1, MOST_PADDING)
    if max(top, left) > most or bottom >= spread[0] or right >= spread[1] or min(
            options["padding"]) < 0:
        raise unsupported(node, f"has padding {_show(options['padding'])}, and supported is up to "
                           f"{most} above and on the left, and less than the kernel elsewhere",
                           "pad by less than the kernel")


def check_flattened(node: Node, height: int, width: int) -> None:
    """Raise unless a linear layer on a flattened map can be a convolution as large as the map."""
    if kernel_edge(height, width) is None:
        raise unsupported(node, f"is a linear layer on {height}x{width} pixels, and supported are "
                           f"up to {KERNELS[-1]}x{KERNELS[-1]}", "put AdaptiveAvgPool2d(1) or "
                           "poolings before it")


def check_alone(node: Node) -> None:
    """Raise for an activation or a pooling that no layer has, whatever it follows."""
    if node.op == "Activation":
        bound_of(node)
    if node.op == "MaxPool":
        pool_edge(node)


def pool_edge(node: Node) -> int:
    """Edge and stride of a max pooling of disjoint squares; raises for another one."""
    o = node.options
    edges = {*o["kernel_size"], *o["stride"]}
    if len(edges) > 1 or any(o["padding"]) or set(o["dilation"]) != {1} or o["ceil_mode"]:
        beyond = " beyond the last whole window" if o["ceil_mode"] else ""
        raise unsupported(
            node, f"is a max pooling of kernel {_show(o['kernel_size'])}, stride "
            f"{_show(o['stride'])} and padding {_show(o['padding'])}{beyond}", "use MaxPool2d(k) "
            "with equal edges and stride, without padding, dilation or ceil_mode")
    return int(edges.pop())


def bound_of(node: Node) -> tuple[bool, float | None]:
    """Whether an activation is never negative, and the largest magnitude that it lets pass."""
    if node.options["kind"] == "relu":
        return True, None
    if node.options["kind"] != "clamp":
        raise unsupported(node, f"is {a_text(node)}", f"supported are {RUNS}")
    low, high = node.options["low"], node.options["high"]
    if (low == 0 or high is not None and low == -high) and (high is None or high > 0):
        return low == 0, None if high is None else float(high)
    raise unsupported(node, f"clamps to {low}..{high}", "clamp to 0..n, as ReLU6 does, or to -n..n")


def unsupported(node: Node, what: str, hint: str) -> CompileError:
    return CompileError(f"Layer {node.origin!r} {what}; {hint}")


def averages_part(node: Node, graph: Graph) -> CompileError:
    """An average that is neither one over the whole map nor the same sum at every pixel."""
    _, height, width = graph.node(node.inputs[0]).shape
    if node.op != "AvgPool":
        return unsupported(node, f"averages over lines of {height}x{width} pixels",
                            "average over all of them, or over squares")
    o = node.options
    return unsupported(
        node, f"averages over {_show(o['kernel_size'])} of {height}x{width} pixels with stride "
        f"{_show(o['stride'])} and padding {_show(o['padding'])}", "use AvgPool2d of edge 2 to "
        f"{KERNELS[-1]} and stride 1 or 2 that divides by the same number everywhere, or average "
        "over the whole map")


def a_text(node: Node) -> str:
    kind = node.options.get("kind")
    names: dict[str, str] = {"Activation": f"a {'ReLU' if kind == 'relu' else kind}",
                             "MaxPool": "a max pooling", "BatchNorm": "a batch norm",
                             "Affine": "a scale or norm", "Select": "a choice of channels",
                             "Concat": "a concatenation", "Mul": "a product of two values"}
    return names.get(node.op, f"a {node.op}")


def _show(value: Any) -> str:
    numbers = [value] if isinstance(value, int) else list(value)
    return str(numbers[0]) if len(set(numbers)) == 1 else "x".join(map(str, numbers))
