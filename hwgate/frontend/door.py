"""Checked at the door: the network that runs is the network that the user has."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from hwgate.errors import CompileError, FidelityWarning, UserError
from hwgate.machine.config import FormatConfig
from hwgate.nn.gated import GatedConv2d
from hwgate.nn.gates import force_open, gated_layers
from hwgate.nn.running import kind, outputs, rounding
from hwgate.quant.fidelity import Fidelity, LayerFidelity, limits
from hwgate.quant.golden import run_layer
from hwgate.quant.joined import joined
from hwgate.quant.layer import IMAGE
from hwgate.quant.network import QuantizedNetwork

from .graph import Graph
from .lowering.blocks import Block, Lowered
from .model import evaluating, reference
from .operators import OPERATORS

__all__ = ["CHECKS", "admit", "check_finite", "check_gates", "check_lowering", "check_reading",
           "measure"]

#: What happens below the limit: an error, or only a warning.
CHECKS = ("error", "warn")

#: Images that are compared, at most.
_IMAGES = 32

#: Share of equal answers below which there is a warning, whatever the ratios: outputs far apart in
#: every image alike are much signal, and their ranking may be lost in it.
_ANSWERS = 0.9


def check_finite(graph: Graph) -> None:
    """Raise if a parameter is infinite or no number.

    Raises
    ------
    CompileError
        Names the layer and the channel.
    """
    for node in graph.nodes:
        for values in node.tensors.values():
            wrong = (~values.detach().isfinite()).reshape(len(values), -1).any(dim=1)
            if bool(wrong.any()):
                raise CompileError(
                    f"Layer {node.origin!r} has parameters that are not finite, in channel "
                    f"{int(wrong.nonzero()[0])}; train it with a smaller learning rate")


def check_reading(graph: Graph, model: nn.Module | ExportedProgram, images: NDArray[Any]) -> None:
    """Raise unless a graph computes what the model itself does, with all gates open: a gate near
    its threshold may decide either way.

    Parameters
    ----------
    graph : Graph
    model : Module or ExportedProgram
        What it was read from.
    images : float (N, C, H, W)
        The first 32 of them are compared.

    Raises
    ------
    CompileError
        If they differ by more than rounding, or the model's results are not finite.
    """
    images = images[:_IMAGES]
    with evaluating(model):
        if isinstance(model, nn.Module):
            force_open(model)
        wanted = reference(model, images)
        found = graph(torch.from_numpy(np.ascontiguousarray(images))).double()
    if not bool(wanted.isfinite().all()):
        raise CompileError("The model's results on the calibration images are not finite; look at "
                           "the range and the normalization of these")
    dtype, _ = kind(model)
    same = found.shape == wanted.shape
    apart = float((found - wanted).abs().max()) if same else math.inf
    largest = float(wanted.abs().max())
    if not apart <= rounding(dtype) * max(largest, 1e-30):
        raise CompileError(
            f"The model computes something else than was read from it: outputs are up to "
            f"{apart:.3g} apart of {largest:.3g}; this is a bug of hwgate, or the model's results "
            "depend on more than an image")
def check_gates(model: nn.Module | ExportedProgram, images: NDArray[Any]) -> None:
    """Raise if a model's forward sets what its gates decide by.

    Parameters
    ----------
    model : Module or ExportedProgram
    images : float (N, C, H, W)
        The first one runs.

    Raises
    ------
    CompileError
        Names the layer.
    """
    if not isinstance(model, nn.Module):
        return
    layers, (dtype, device) = dict(gated_layers(model)), kind(model)
    pair = torch.from_numpy(np.repeat(images[:1], 2, axis=0)).to(device, dtype)
    with evaluating(model):
        kept = {name: _decides_by(layer) for name, layer in layers.items()}
        other: list[str] = []

        def look(name: str) -> None:
            if not all(map(torch.equal, kept[name], _decides_by(layers[name]))):
                other.append(name)

        handles = [layer.register_forward_pre_hook(lambda _, x, name=name: look(name))
                   for name, layer in layers.items()]
        try:
            outputs(model, pair)
        finally:
            for handle in handles:
                handle.remove()
        for name in layers:  # what was set for good, of a layer whose hooks do not run as well
            look(name)
    if other:
        raise CompileError(f"Layer {other[0]!r} runs with other thresholds or gates than it has "
                           "before the model runs; set them outside of its forward")


def _decides_by(layer: GatedConv2d) -> list[Tensor]:
    """What a gated layer's decisions depend on beside its weights."""
    norm = layer.gate_norm
    return [value.detach().clone() for value in (
        torch.tensor([layer.force_open, layer.tau, norm.eps]), layer.delta, layer.base,
        norm.running_mean, norm.running_var) if value is not None]


def check_lowering(lowered: Lowered, graph: Graph, images: NDArray[Any]) -> None:
    """Raise unless each block computes in float what the graph does, fed with the graph's values:
    of every channel and pixel, where a ratio over a whole layer would hide one.

    Parameters
    ----------
    lowered : Lowered
    graph : Graph
        What it was lowered from.
    images : float (N, C, H, W)
        The first 32 of them are compared.

    Raises
    ------
    CompileError
        If they differ by more than rounding; names the layer.
    """
    names = {lowered.image, *(block.value for block in lowered.blocks)}
    with torch.no_grad():
        batch = torch.from_numpy(np.ascontiguousarray(images[:_IMAGES]))
        values = {node.name: value for node, value in graph.values(batch, names)}
        image = values[lowered.image]
        maps = {IMAGE: image[:, :, None, None] if image.ndim == 2 else image}
        for index, block in enumerate(lowered.blocks):
            found, wanted = _in_float(block, maps), values[block.value]
            apart = math.inf
            if found.numel() == wanted.numel():
                maps[index] = wanted.reshape(found.shape)
                apart = float((found - maps[index]).abs().max())
            if not apart <= rounding(graph.dtype) * max(float(wanted.abs().max()), 1e-30):
                raise CompileError(f"Layer {block.name!r} would compute something else than the "
                                   f"model: outputs are up to {apart:.3g} apart; this is a bug of "
                                   "hwgate")


def _in_float(block: Block, maps: Mapping[int, Tensor]) -> Tensor:
    """Output (N, C, H, W) of a block for the outputs of those before it."""
    x = torch.cat([maps[n] for n in block.sources], 1)
    if block.channels is not None:
        x = OPERATORS["Select"]([x], {}, {"channels": block.channels, "stride": (1, 1)})
    x = x.mean((2, 3), keepdim=True) if block.average else x
    op = block.op
    y = OPERATORS[op.op]([x.flatten(1) if op.op == "Linear" else x], op.tensors, op.options)
    y = y[:, :, None, None] if y.ndim == 2 else y
    for node in block.after:
        y = OPERATORS[node.op]([y], node.tensors, node.options)
    y = y if block.order is None else y[:, block.order]
    if block.residual is not None:
        step, offset = block.shortcut.stride, block.shortcut.offset
        r = maps[block.residual][:, :, ::step, ::step]
        y = y.relu() if block.relu_first else y
        y = y + F.pad(r, (0, 0, 0, 0, offset, y.shape[1] - offset - r.shape[1]))
    y = y.relu() if block.relu else y
    y = y if block.bound is None else y.clamp(-block.bound, block.bound)
    return y if block.pool == 1 else F.max_pool2d(y, block.pool)


def measure(lowered: Lowered, graph: Graph, network: QuantizedNetwork,
            images: NDArray[Any]) -> Fidelity:
    """Integers against floats, layer by layer, on calibration images.

    Parameters
    ----------
    lowered, graph
        What ``network`` was folded from.
    network : QuantizedNetwork
    images : float (N, C, H, W)
        The first 32 of them are compared.
    """
    images = images[:_IMAGES]
    names = {block.value for block in lowered.blocks}
    with torch.no_grad():
        values = {node.name: value.double().numpy() for node, value in
                  graph.values(torch.from_numpy(np.ascontiguousarray(images)), names)}
    results, formats = network.run(images), network.config.formats

    def floats(index: int) -> NDArray[np.int8]:
        """What the float model hands on, in the integers of the network."""
        if index == IMAGE:
            return network.quantize_images(images)
        layer = network.layers[index]
        return _steps(values[lowered.blocks[index].value].reshape(-1, *layer.out_shape),
                      layer.out_scale, formats)

    layers = []
    for index, (block, layer) in enumerate(zip(lowered.blocks, network.layers, strict=True)):
        wanted = values[block.value].reshape(-1, *layer.out_shape)
        residual = None if layer.residual is None else floats(layer.residual)
        x = joined([floats(source) for source in network.inputs(index)])
        own = run_layer(layer, x, formats, residual).output
        through = results[index].output
        layers.append(LayerFidelity(layer.name, _ratio(wanted, own * layer.out_scale),
                                    _ratio(wanted, through * layer.out_scale)))
    same = through.argmax(1) == wanted.argmax(1)
    return Fidelity(len(images), float(same.mean()), tuple(layers))


def _steps(values: NDArray[Any], scale: float, formats: FormatConfig) -> NDArray[np.int8]:
    low, high = formats.limits(formats.activation)
    return np.clip(np.rint(values / scale), low, high).astype(np.int8)


def _ratio(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    """Signal-to-noise ratio in dB, at most 200."""
    signal, noise = float(np.var(wanted)), float(np.square(wanted - found).mean())
    if noise <= signal * 1e-20 or noise == 0:
        return 200.0
    # A constant output has no variance: what counts is how far off it is.
    signal = signal if signal > 0 else float(np.square(wanted).mean())
    return 10 * math.log10(signal / noise) if signal > 0 else -200.0


def admit(network: QuantizedNetwork, fidelity: Fidelity, check: str) -> QuantizedNetwork:
    """The network with what was measured, if it follows its model.

    Raises
    ------
    CompileError
        Below the limit, unless ``check`` is ``warn``: names the layer where it breaks.
    UserError
        For another ``check``.
    """
    if check not in CHECKS:
        raise UserError(f"A check must be {' or '.join(CHECKS)}, not {check!r}")
    formats = network.config.formats
    bits = min(formats.activation, formats.weight)
    refused, doubtful = limits(formats)
    broken = next((layer for layer in fidelity.layers if layer.own < refused), None)
    last = fidelity.layers[-1]
    if broken is not None:
        what = (f"Layer {broken.name!r} keeps {broken.own:.1f} dB of signal to noise in integers, "
                "fed with what the float layer takes")
    elif last.through < 0:
        first = next(layer for layer in fidelity.layers if layer.through < refused)
        what = (f"Rounding adds up to more than the signal at the end ({last.through:.1f} dB), "
                f"beginning at layer {first.name!r}")
    else:
        if min(last.through, fidelity.worst.own) < doubtful or fidelity.answers < _ANSWERS:
            warnings.warn(f"The integers follow the model loosely: {fidelity.describe()}",
                          FidelityWarning, stacklevel=3)
        return replace(network, fidelity=fidelity)
    text = (f"{what}, and a layer must keep {refused:.4g} dB at {bits} bits; look at its ranges "
            "and norms, train with the rounding (hwgate train --bits), or go on with check='warn'")
    if check == "error":
        raise CompileError(text)
    warnings.warn(text, FidelityWarning, stacklevel=3)
    return replace(network, fidelity=replace(fidelity, ignored=True))
