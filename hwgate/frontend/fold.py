"""Quantization: folds a trained model into an integer network."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwgate.errors import CompileError, UserError
from hwgate.machine.config import RESIDUAL_SHIFT, TAPS, AcceleratorConfig, FormatConfig
from hwgate.nn.gated import GatedConv2d
from hwgate.quant.golden import psum_bound, score_bound
from hwgate.quant.layer import IMAGE, QuantizedLayer, reorder
from hwgate.quant.network import QuantizedNetwork, check_images
from hwgate.quant.requantize import SHIFTS

from .calibrate import Recorder, activation_scale, range_scale
from .trace import Block, trace_blocks

__all__ = ["calibrate", "fold", "multipliers", "quantize"]

#: Thresholds and biases are 32-bit fields of a job header.
_INT32 = (-(1 << 31), (1 << 31) - 1)

#: Requantization of a channel whose output is constant: outputs of 2^-8 steps are in its bias.
_CONSTANT_BITS = 8


def quantize(model: nn.Module, calibration_images: Any,
             config: AcceleratorConfig) -> QuantizedNetwork:
    """Integer golden model of a trained model.

    Weights are symmetric per output channel, activations per tensor. Batch norms and thresholds
    are folded exactly, average pooling into the linear layer behind it, a channel shuffle into
    the order of the output channels of the layer before it: psums and decisions of that layer
    come in the shuffled order. An addition becomes the residual of the later of the two layers
    that are added.

    Parameters
    ----------
    model : Module
        Conv2d or GatedConv2d [BatchNorm2d] [ReLU] [addition] [ReLU] [MaxPool2d], with
        ChannelShuffle and PaddingShortcut in between, and AdaptiveAvgPool2d(1), Flatten, Linear at
        the end. Used in evaluation mode.
    calibration_images : float (N, C, H, W)
        NumPy array or torch tensor, typical inputs; their shape is the network's input shape.
    config : AcceleratorConfig

    Raises
    ------
    CompileError
        For a layer that the accelerator cannot run, named by its module path.
    UserError
        For calibration images of a wrong shape or type, or an empty batch.
    """
    blocks, scales, shape = calibrate(model, calibration_images, config)
    return fold(blocks, scales, shape, config)


def calibrate(model: nn.Module, calibration_images: Any, config: AcceleratorConfig
              ) -> tuple[tuple[Block, ...], dict[int, float], tuple[int, int, int]]:
    """Blocks of a model, steps of their outputs and of the image, and the shape of an image.

    Parameters and errors are those of :func:`quantize`. Steps are by the index of a block, or
    ``IMAGE``; the blocks hold the model's own modules.
    """
    graph, blocks = trace_blocks(model)
    images = _calibration(calibration_images, blocks[0])
    recorder, training = Recorder(graph, blocks), model.training
    try:
        model.eval()
        values = recorder.record(images)
    finally:
        model.train(training)
    low, high = config.formats.limits(config.formats.activation)
    scales = {IMAGE: activation_scale(images, low, high)}
    for index, block in enumerate(blocks):
        name = block.node.name
        # The last outputs are ranked, not passed on: the largest must not be clipped.
        scales[index] = (range_scale(recorder.largest[name], high) if block is blocks[-1]
                         else activation_scale(values[name], low, high))
    return blocks, scales, images.shape[1:]


def fold(blocks: tuple[Block, ...], scales: Mapping[int, float],
         image_shape: tuple[int, int, int], config: AcceleratorConfig) -> QuantizedNetwork:
    """Integer network of blocks with the steps of their outputs, as of :func:`calibrate`.

    Raises
    ------
    CompileError
        For a layer that the accelerator cannot run, named by its module path.
    """
    shapes: dict[int, tuple[int, int, int]] = {IMAGE: image_shape}
    layers: list[QuantizedLayer] = []
    for index, block in enumerate(blocks):
        layers.append(_fold(index, block, shapes[block.source], scales, config))
        shapes[index] = layers[-1].out_shape
    return QuantizedNetwork(config, tuple(layers))


def multipliers(factor: NDArray[np.float64],
                formats: FormatConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Integers ``(mult, shift)`` with ``mult / 2^shift`` closest to real factors.

    ``mult`` uses the whole width of the multiplier; its sign is the factor's. Factors too large
    for the smallest shift saturate.
    """
    bits = formats.multiplier - 1
    fraction, exponent = np.frexp(factor)
    mult = np.rint(np.ldexp(fraction, bits)).astype(np.int64)
    shift = bits - exponent.astype(np.int64)
    full = np.abs(mult) == 1 << bits
    mult, shift = np.where(full, mult // 2, mult), np.where(full, shift - 1, shift)
    largest = formats.limits(formats.multiplier)[1]
    mult = np.where(shift < SHIFTS[0], np.sign(mult) * largest, mult)
    return mult, np.clip(shift, *SHIFTS)


def _calibration(images: Any, first: Block) -> NDArray[Any]:
    """Calibration images as an array, or an error in one sentence."""
    array = np.asarray(images.detach().cpu() if hasattr(images, "detach") else images)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"Calibration images must be float, not {array.dtype}")
    channels = (first.op.in_channels if isinstance(first.op, nn.Conv2d) else first.op.in_features)
    if array.ndim != 4 or array.shape[1] != channels:
        raise UserError(f"Calibration images must have the shape (N, {channels}, H, W), "
                        f"not {array.shape}")
    return check_images(array, array.shape[1:])


def _fold(index: int, block: Block, in_shape: tuple[int, int, int], scales: Mapping[int, float],
          config: AcceleratorConfig) -> QuantizedLayer:
    """The integer layer of block ``index``, with its channels in the order of its output."""
    formats, op = config.formats, block.op
    in_scale, out_scale = scales[block.source], scales[index]
    reduce = isinstance(op, nn.Linear)
    pixels = in_shape[1] * in_shape[2] if reduce else 1
    if pixels > 1 and not block.average:
        raise CompileError(f"Layer {block.name!r} is a linear layer on {in_shape[1]}x{in_shape[2]} "
                           "pixels; put AdaptiveAvgPool2d(1) before it")
    edge = block.average.edge if block.average else None
    if edge is not None and in_shape[1:] != (edge, edge):
        raise CompileError(f"Layer {block.name!r} takes averages of {edge}x{edge} out of "
                           f"{in_shape[1]}x{in_shape[2]} pixels; average over all of them")
    weight = _array(block, op.weight)
    weight = weight[:, :, None, None] if reduce else weight
    integers, weight_scale = _integers(weight, formats)
    unit = in_scale * weight_scale  # real value of a psum of 1
    gain, offset = _affine(block)
    layer = QuantizedLayer(
        block.name, integers, **_gates(block, in_scale, unit, config), **_nothing(len(weight)),
        in_shape=in_shape, padding=block.padding,
        stride=op.stride[0] if isinstance(op, nn.Conv2d) else 1, relu=block.relu,
        pool=block.pool, reduce=reduce, in_scale=in_scale, out_scale=out_scale,
        source=None if block.source == index - 1 else block.source)
    if isinstance(op, GatedConv2d) and layer.gated:
        _, height, width = layer.conv_shape
        layer = replace(layer, limit=op.limit(height * width))
    added = 0.0  # output steps in a step of the residual
    if block.residual is not None:
        added = scales[block.residual] / out_scale
        layer = replace(layer, residual=block.residual, residual_stride=block.shortcut.stride,
                        residual_offset=block.shortcut.offset, relu_first=block.relu_first)
    layer = _requantization(layer, gain * unit / (pixels * out_scale), offset / out_scale, added,
                            formats)
    return layer if block.order is None else reorder(layer, block.order.numpy())


def _nothing(channels: int) -> dict[str, Any]:
    """Fields ``bias``, ``mult`` and ``shift`` of a layer before they are known."""
    pairs = np.zeros((channels, 2), np.int64)
    return {"bias": pairs, "mult": pairs, "shift": np.zeros(channels, np.int64)}


def _integers(weight: NDArray[np.float64],
              formats: FormatConfig) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Weights (Co, Ci, K, K) in steps of their output channel, and the steps (Co,)."""
    top = formats.limits(formats.weight)[1]
    largest = np.abs(weight).max(axis=(1, 2, 3))
    scale = np.where(largest > 0, largest, top) / top
    return np.rint(weight / scale[:, None, None, None]).astype(np.int8), scale


def _gates(block: Block, in_scale: float, unit: NDArray[np.float64],
           config: AcceleratorConfig) -> dict[str, Any]:
    """Fields ``base`` and ``threshold``, and ``score`` and ``gate`` where channels share gates."""
    op = block.op
    if not isinstance(op, GatedConv2d) or op.force_open:
        return {"base": np.ones(op.weight.shape[:2], bool), "threshold": None}
    base = op.base.cpu().numpy()
    size = config.channels * (TAPS if op.kernel_size == (1, 1) else 1)
    for start in range(0, base.shape[1], size):
        group = base[:, start:start + size]
        if (group != group[:, :1]).any():
            raise CompileError(
                f"Layer {block.name!r} has base paths of {int(base[0].sum())} input channels, "
                f"which must be a multiple of the {size} channels of a pass; choose other "
                "channels, another gate_groups or a smaller group")
    if op.share == 1:
        return {"base": base, "threshold": _thresholds(block, op, unit)}
    score, scale = _integers(_array(block, op.score_weights()), config.formats)
    return {"base": base, "threshold": _thresholds(block, op, in_scale * scale),
            "score": score, "gate": np.arange(len(base)) // op.share}


def _thresholds(block: Block, op: GatedConv2d, unit: NDArray[np.float64]) -> NDArray[np.int64]:
    """``floor((delta * sqrt(var + eps) + mean) / unit)`` of each gate."""
    norm = op.gate_norm
    assert norm.running_mean is not None and norm.running_var is not None
    mean, deviation = _array(block, norm.running_mean), _deviation(block, norm)
    threshold = np.floor((_array(block, op.delta) * deviation + mean) / unit)
    return np.clip(threshold, *_INT32).astype(np.int64)


def _affine(block: Block) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gain and offset (Co,) from a layer's sum, without its bias, to its real output."""
    channels = len(block.op.weight)
    bias = np.zeros(channels) if block.op.bias is None else _array(block, block.op.bias)
    norm = block.norm
    if norm is None:
        return np.ones(channels), bias
    assert norm.running_mean is not None
    gain = 1 / _deviation(block, norm)
    shift = np.zeros(channels)
    if norm.affine:
        gain, shift = gain * _array(block, norm.weight), _array(block, norm.bias)
    return gain, (bias - _array(block, norm.running_mean)) * gain + shift


def _deviation(block: Block, norm: nn.BatchNorm2d) -> NDArray[np.float64]:
    assert norm.running_var is not None
    return np.sqrt(_array(block, norm.running_var) + norm.eps)


def _requantization(layer: QuantizedLayer, factor: NDArray[np.float64],
                    offset: NDArray[np.float64], added: float,
                    formats: FormatConfig) -> QuantizedLayer:
    """The layer with ``output = psum * factor + offset + residual * added``, in output steps.

    ``factor`` and ``offset`` are (Co,). A channel whose output its psum cannot move loses its
    weights and never opens.
    """
    bound = psum_bound(layer, formats)
    _check_room(layer, bound, formats)
    if layer.score is not None:
        _check_room(layer, score_bound(layer, formats), formats)
    mult, shift = multipliers(factor, formats)
    most = SHIFTS[1]
    if layer.residual is not None:  # the psum's factor gives up bits that the other one needs
        largest = formats.limits(formats.multiplier)[1] << RESIDUAL_SHIFT
        most = max(SHIFTS[0], int(np.floor(np.log2(largest / added))))
    drop = np.maximum(shift - most, 0)
    mult, shift = np.rint(np.ldexp(mult.astype(float), -drop)).astype(np.int64), shift - drop
    constant = (bound * np.abs(factor) < 0.25) | (mult == 0)
    fixed = min(formats.multiplier - 2 + _CONSTANT_BITS, most)
    shift = np.where(constant, fixed, shift)
    mult = np.where(constant, 1 << max(fixed - _CONSTANT_BITS, 0), mult)
    mult_residual = None
    if layer.residual is not None:
        steps = np.rint(np.ldexp(added, shift - RESIDUAL_SHIFT)).astype(np.int64)
        mult_residual = np.minimum(steps << RESIDUAL_SHIFT, largest)
    bias = np.clip(np.rint(offset / np.ldexp(mult.astype(float), -shift)), *_INT32)
    threshold = layer.threshold
    return replace(
        layer, weight=layer.weight * ~constant[:, None, None, None],
        threshold=(threshold if threshold is None or layer.gate is not None
                   else np.where(constant, 0, threshold)),
        bias=np.stack([bias, bias], axis=1).astype(np.int64),
        mult=np.stack([mult, mult], axis=1), shift=shift, mult_residual=mult_residual)


def _check_room(layer: QuantizedLayer, bound: NDArray[np.int64], formats: FormatConfig) -> None:
    """Raise unless the accumulator holds partial sums up to ``bound``."""
    room = formats.limits(formats.accumulator)[1]
    if bound.max() > room:
        raise CompileError(
            f"Layer {layer.name!r} can reach partial sums of {int(bound.max())}, and the "
            f"{formats.accumulator}-bit accumulator holds {room}; use a wider accumulator, "
            "narrower weights or fewer channels")


def _array(block: Block, tensor: torch.Tensor) -> NDArray[np.float64]:
    values = tensor.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise CompileError(f"Layer {block.name!r} has parameters that are not finite; "
                           "train it with a smaller learning rate")
    return values
