"""Quantization: folds a trained model into an integer network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwgate.data.typical import Normalization, normalized, typical_images
from hwgate.errors import CompileError, UserError, expect
from hwgate.machine.config import RESIDUAL_SHIFT, TAPS, AcceleratorConfig, FormatConfig
from hwgate.nn.gated import GatedConv2d
from hwgate.quant.golden import psum_bound, score_bound
from hwgate.quant.joined import stored_places
from hwgate.quant.layer import IMAGE, QuantizedLayer, reorder
from hwgate.quant.network import QuantizedNetwork
from hwgate.quant.requantize import SHIFTS

from .calibrate import activation_scale, range_scale, record
from .door import CHECKS, admit, check_finite, check_gates, check_lowering, check_reading, measure
from .graph import Graph
from .lowering.blocks import Block, Lowered
from .lowering.lower import lower
from .lowering.weights import fan_in, padding, square_weights
from .model import evaluating, reference, unwrap
from .passes import deviation, drop_softmax, gain_and_offset, simplify
from .readers.torch_reader import read_torch

__all__ = ["Calibrated", "calibrate", "fold", "fold_block", "multipliers", "quantize"]

#: Thresholds and biases are 32-bit fields of a job header.
_INT32 = (-(1 << 31), (1 << 31) - 1)

#: Requantization of a channel whose output is constant: outputs of 2^-8 steps are in its bias.
_CONSTANT_BITS = 8


def quantize(model: Any, calibration_images: Any, config: AcceleratorConfig, *,
             normalize: Normalization | None = None, check: str = "error") -> QuantizedNetwork:
    """Integer golden model of a trained model, compared with it on the calibration images.

    Weights are symmetric per output channel, activations per tensor. Batch norms and thresholds
    are folded exactly, an average over the map into the linear layer behind it, a channel shuffle
    into the order of the output channels of the layer before it: psums and decisions of that layer
    come in the shuffled order. An addition becomes the residual of the later of the two layers
    that are added. What no layer can take in becomes a layer that copies; ``docs/operators.md``
    lists what runs.

    Parameters
    ----------
    model : Module or ExportedProgram
        Of GatedConv2d and PyTorch's own operators, however they are written. Used in evaluation
        mode, and not changed.
    calibration_images : float or uint8 (N, C, H, W) or (N, C)
        Typical inputs: an array, a tensor, a list, or an iterable of batches such as a DataLoader;
        their shape is the network's input shape. uint8 images are divided by 255.
    config : AcceleratorConfig
    normalize : (mean, std), optional
        Numbers, or one of each channel, that an image is normalized with before the model takes
        it. The network does the same.
    check : str
        ``error``: a network that does not follow its model is refused (see
        ``hwgate.frontend.door``). ``warn``: it is returned, and remembers that it does not.

    Raises
    ------
    CompileError
        For a layer that the accelerator cannot run, or whose integers do not follow the model,
        named by its module path.
    UserError
        For arguments of a wrong type, calibration images of a wrong shape, or an empty batch.
    """
    expect("Configuration", config, AcceleratorConfig, hint="hwgate.preset makes one")
    expect("Check", check, str)
    if check not in CHECKS:
        raise UserError(f"A check must be {' or '.join(CHECKS)}, not {check!r}")
    with evaluating(unwrap(model)):
        found = calibrate(model, calibration_images, config, normalize)
        network = fold(found.lowered, found.scales, found.image_shape, config)
        network = replace(network, flat=len(found.graph.node(found.graph.output).shape) < 2)
        fidelity = measure(found.lowered, found.graph, network, found.images)
    if normalize is not None:
        network = normalized(network, *normalize)
    return admit(network, fidelity, check)


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A model as it was read, and what typical images say about it.

    Parameters
    ----------
    lowered : Lowered
        Its blocks, with the model's own tensors.
    scales : mapping
        Steps of the outputs by the index of a block, and of the image at ``IMAGE``.
    image_shape : (C, H, W)
    graph : Graph
        Simplified, without a softmax at the end.
    images : float (N, C, H, W)
        As the model takes them.
    """

    lowered: Lowered
    scales: dict[int, float]
    image_shape: tuple[int, int, int]
    graph: Graph
    images: NDArray[Any]


def calibrate(model: Any, calibration_images: Any, config: AcceleratorConfig,
              normalize: Normalization | None = None) -> Calibrated:
    """A model as it was read, and its steps; parameters and errors as of :func:`quantize`."""
    model = unwrap(model)
    images = typical_images(calibration_images, normalize)
    reference(model, images[:1])  # what does not run says so in its own words
    with evaluating(model):
        whole = simplify(read_torch(model, images.shape[1:]))
        graph = drop_softmax(whole)
        lowered, obstacles = lower(graph)
        if obstacles:
            raise CompileError(obstacles[0])
        check_finite(graph)
        check_reading(whole, model, images)
        check_gates(model, images)
        check_lowering(lowered, graph, images)
        names = {lowered.image, *(block.value for block in lowered.blocks)}
        values, largest = record(graph, names, images)
    low, high = config.formats.limits(config.formats.activation)
    scales = {IMAGE: activation_scale(values[lowered.image], low, high)}
    for index, block in enumerate(lowered.blocks):
        # The last outputs are ranked, not passed on: the largest must not be clipped. What a clamp
        # lets pass is never larger than its bound, so that the largest integer clamps likewise.
        scales[index] = (range_scale(largest[block.value], high) if block is lowered.blocks[-1]
                         else activation_scale(values[block.value], low, high))
        if block.bound is not None:
            scales[index] = min(scales[index], block.bound / high)
    # What is always zero takes the finest step: a coarse one would count beside other maps.
    finest = min(scales.values())
    scales |= {index: finest for index, block in enumerate(lowered.blocks)
               if not largest[block.value]}
    return Calibrated(lowered, scales, (*images.shape[1:], 1, 1)[:3], graph, images)


def fold(lowered: Lowered, scales: Mapping[int, float], image_shape: tuple[int, int, int],
         config: AcceleratorConfig) -> QuantizedNetwork:
    """Integer network of blocks with the steps of their outputs, as of :func:`calibrate`.

    Raises
    ------
    CompileError
        For a layer that the accelerator cannot run, named by its module path.
    """
    shapes: dict[int, tuple[int, int, int]] = {IMAGE: image_shape}
    layers: list[QuantizedLayer] = []
    for index, block in enumerate(lowered.blocks):
        layers.append(fold_block(index, block, [shapes[n] for n in block.sources], scales, config))
        shapes[index] = layers[-1].out_shape
    network = QuantizedNetwork(config, tuple(layers))
    scale, shift = lowered.scale.detach().cpu(), lowered.shift.detach().cpu()
    if bool((scale == 1).all() and (shift == 0).all()):
        return network
    return replace(network, image_mean=(-shift / scale).numpy(), image_std=(1 / scale).numpy())


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


def fold_block(index: int, block: Block, shapes: Sequence[tuple[int, int, int]],
               scales: Mapping[int, float], config: AcceleratorConfig) -> QuantizedLayer:
    """The integer layer of block ``index``, which takes maps of such shapes, with its channels in
    the order of its output.

    Raises
    ------
    CompileError
        If the accelerator cannot run it.
    """
    formats = config.formats
    steps, sizes = [scales[n] for n in block.sources], [channels for channels, _, _ in shapes]
    in_shape, in_scale, out_scale = (sum(sizes), *shapes[0][1:]), max(steps), scales[index]
    pixels = in_shape[1] * in_shape[2] if block.reduces else 1

    def square(values: torch.Tensor) -> NDArray[np.float64]:
        return square_weights(block, _array(block, values), sizes, steps)

    weight = square(block.op.tensors["weight"])
    gain, offset = (_array(block, values) for values in gain_and_offset(block.op, block.after))
    integers, weight_scale = _integers(
        weight, formats, np.abs(offset) * pixels / (in_scale * _INT32[1]), np.abs(gain))
    unit = in_scale * weight_scale  # real value of a psum of 1
    layer = QuantizedLayer(
        block.name, integers, **_gates(block, sizes, in_scale, unit, config, square),
        **_nothing(len(weight)), in_shape=in_shape, padding=padding(block),
        stride=block.op.options.get("stride", (1, 1))[0], relu=block.relu,
        pool=block.pool, reduce=block.reduces, in_scale=in_scale, out_scale=out_scale,
        source=_source(index, block), fan_in=fan_in(block, weight))
    if block.gate is not None and layer.gated:
        _, height, width = layer.conv_shape
        layer = replace(layer, limit=block.gate.limit(height * width))
    added = 0.0  # output steps in a step of the residual
    if block.residual is not None:
        added = scales[block.residual] / out_scale
        layer = replace(layer, residual=block.residual, residual_stride=block.shortcut.stride,
                        residual_offset=block.shortcut.offset, relu_first=block.relu_first)
    layer = _requantization(layer, gain * unit / (pixels * out_scale), offset / out_scale, added,
                            formats)
    return layer if block.order is None else reorder(layer, block.order.numpy())


def _source(index: int, block: Block) -> int | tuple[int, ...] | None:
    first, *rest = block.sources
    return block.sources if rest else None if first == index - 1 else first


def _nothing(channels: int) -> dict[str, Any]:
    """Fields ``bias``, ``mult`` and ``shift`` of a layer before they are known."""
    pairs = np.zeros((channels, 2), np.int64)
    return {"bias": pairs, "mult": pairs, "shift": np.zeros(channels, np.int64)}


def _integers(weight: NDArray[np.float64], formats: FormatConfig,
              reach: NDArray[np.float64] | float = 0.0, gain: NDArray[np.float64] | float = 1.0,
              ) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Weights (Co, Ci, K, K) in steps of their output channel, and the steps (Co,).

    A step is at least ``reach / gain``, where the bias, in steps of the psum, fits its field: a
    small gain with a normal offset (a slimmed network) takes coarser weights, which such a gain
    makes up for.
    """
    top = formats.limits(formats.weight)[1]
    largest = np.abs(weight).max(axis=(1, 2, 3))
    scale = np.where(largest > 0, largest, top) / top
    with np.errstate(divide="ignore", invalid="ignore"):
        coarser = np.nan_to_num(reach / (gain * scale), nan=1, posinf=1)
    scale = scale * np.clip(coarser * (1 + 2**-10), 1, 1 << top.bit_length() + 1)
    return np.rint(weight / scale[:, None, None, None]).astype(np.int8), scale


def _gates(block: Block, sizes: Sequence[int], in_scale: float, unit: NDArray[np.float64],
           config: AcceleratorConfig,
           square: Callable[[torch.Tensor], NDArray[np.float64]]) -> dict[str, Any]:
    """Fields ``base`` and ``threshold``, and ``score`` and ``gate`` where channels share gates; of
    maps side by side with so many channels each."""
    gate, weight = block.gate, square(block.op.tensors["weight"])
    if gate is None or gate.force_open:
        return {"base": np.ones(weight.shape[:2], bool), "threshold": None}
    base = gate.base.cpu().numpy()
    size = config.channels * (TAPS if gate.kernel_size == (1, 1) else 1)
    group = stored_places(sizes, config.channels) // size
    each = f" in each of its {len(sizes)} maps side by side" if len(sizes) > 1 else ""
    for number in range(group[-1] + 1):
        own = base[:, group == number]
        if (own != own[:, :1]).any():
            raise CompileError(
                f"Layer {block.name!r} has base paths of {int(base[0].sum())} input channels, "
                f"which must be a multiple of the {size} channels of a pass{each}; choose other "
                "channels, another gate_groups or a smaller group")
    if gate.share == 1:
        return {"base": base, "threshold": _thresholds(block, gate, unit)}
    score, scale = _integers(square(gate.score_weights()), config.formats)
    return {"base": base, "threshold": _thresholds(block, gate, in_scale * scale),
            "score": score, "gate": np.arange(len(base)) // gate.share}


def _thresholds(block: Block, gate: GatedConv2d, unit: NDArray[np.float64]) -> NDArray[np.int64]:
    """``floor((delta * sqrt(var + eps) + mean) / unit)`` of each gate."""
    norm = gate.gate_norm
    assert norm.running_mean is not None and norm.running_var is not None
    mean = _array(block, norm.running_mean)
    spread = _array(block, deviation(block.op, norm.running_var, norm.eps))
    threshold = np.floor((_array(block, gate.delta) * spread + mean) / unit)
    return np.clip(threshold, *_INT32).astype(np.int64)


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
