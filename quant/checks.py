"""What a layer of an integer network must be, apart from what it is connected with."""

import numpy as np

from hwgate.errors import CompileError
from hwgate.machine.config import AcceleratorConfig

from .fields import check_fields
from .layer import KERNELS, MOST_LIMIT, MOST_PADDING, STRIDES, QuantizedLayer, shape_of

__all__ = ["check_layer"]


def check_layer(layer: QuantizedLayer, config: AcceleratorConfig) -> None:
    """Raise unless a layer is one that :class:`QuantizedLayer` describes, of an accelerator's
    integers.

    Raises
    ------
    CompileError
        Names the layer, the rule and the value.
    """
    check_fields(layer, config)
    _check_kernel(layer)
    _check_fan_in(layer)
    _check_limit(layer)
    _check_gates(layer)


def _check_kernel(layer: QuantizedLayer) -> None:
    """Raise unless kernel, stride, padding and pooling are supported and leave an output."""
    kernel, name = layer.kernel, layer.name
    if kernel not in KERNELS or layer.weight.shape[1:] != (layer.in_shape[0], kernel, kernel):
        raise CompileError(f"Layer {name!r} has weights {shape_of(layer.weight.shape)} for "
                           f"{layer.in_shape[0]} input channels, but kernels must be square, of "
                           f"edge {', '.join(map(str, KERNELS))}, one per input channel")
    most = min(kernel - 1, MOST_PADDING)
    if (layer.stride not in STRIDES or min(layer.pads) < 0 or max(layer.pads) >= kernel
            or max(layer.pads[::2]) > most):
        raise CompileError(f"Layer {name!r} has stride {layer.stride} and padding {layer.padding}, "
                           f"but a {kernel}x{kernel} kernel takes a stride of 1 or 2 and a "
                           f"padding of 0..{most}, below and on the right of 0..{kernel - 1}")
    if layer.reduce and (kernel, layer.stride, layer.pool) != (1, 1, 1):
        raise CompileError(f"Layer {name!r} sums its pixels, so its kernel, stride and pooling "
                           f"must be 1, not {kernel}, {layer.stride} and {layer.pool}")
    if min(layer.conv_shape) < 1 or min(layer.out_shape) < 1:
        raise CompileError(f"Layer {name!r} makes a {shape_of(layer.conv_shape)} map of its "
                           f"{shape_of(layer.in_shape)} input and pools it by {layer.pool}, which "
                           "leaves nothing")


def _check_fan_in(layer: QuantizedLayer) -> None:
    if layer.fan_in is None:
        return
    most = int(np.count_nonzero(layer.weight, axis=(1, 2, 3)).max())
    if layer.gated or not max(1, most) <= layer.fan_in <= layer.weight[0].size:
        raise CompileError(f"Layer {layer.name!r} has up to {most} weights of an output channel "
                           f"that are not zero, and a fan-in of {layer.fan_in}, which must be at "
                           "least as many, in a layer without gates")


def _check_limit(layer: QuantizedLayer) -> None:
    if not 0 <= layer.limit <= MOST_LIMIT or layer.limit and not layer.gated:
        raise CompileError(f"Layer {layer.name!r} closes channels of at most {layer.limit} open "
                           f"gates, which must be in 0..{MOST_LIMIT}, and 0 without gates")


def _check_gates(layer: QuantizedLayer) -> None:
    if layer.score is None and layer.gate is None:
        return
    name, channels = layer.name, len(layer.weight)
    if layer.score is None or layer.gate is None or layer.threshold is None:
        raise CompileError(f"Layer {name!r} shares gates, so it must have scores, thresholds and "
                           "the gate of each channel")
    gates = len(layer.score)
    if (layer.gate.shape != (channels,) or set(layer.gate.tolist()) != set(range(gates))
            or len(layer.threshold) != gates or layer.score.shape[1:] != layer.weight.shape[1:]):
        raise CompileError(f"Layer {name!r} must have a threshold, weights as large as a channel's "
                           f"and at least one of {channels} channels for each of {gates} gates")
    if layer.reduce or layer.score[~layer.score_base].any():
        raise CompileError(f"Layer {name!r} shares gates, whose scores must read base inputs of "
                           "their channels only, in a layer that does not sum its pixels")
