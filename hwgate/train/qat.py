"""Fine-tuning with the rounding of the integers: what is trained is what the hardware computes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hwgate.errors import UserError, expect
from hwgate.frontend.fold import calibrate, fold
from hwgate.frontend.lowering.blocks import Block, rebind
from hwgate.frontend.model import unwrap
from hwgate.frontend.operators import OPERATORS
from hwgate.machine.config import AcceleratorConfig
from hwgate.nn.gated import GatedConv2d
from hwgate.nn.gates import settle_norms
from hwgate.nn.running import kind
from hwgate.quant.layer import IMAGE, QuantizedLayer
from hwgate.quant.network import QuantizedNetwork

__all__ = ["Agreement", "FakeQuantized", "agreement"]

#: Activations of so many bits or more keep their calibrated steps; fewer learn them.
_LEARNED_BELOW = 8


class FakeQuantized(nn.Module):
    """A model that computes in floats what its integer network computes.

    Every value is the one of the integer network that :func:`hwgate.quantize` would fold from the
    parameters as they are: weights, image and activations on their grids, factors and offsets
    rounded to the width of the multiplier and to steps of the psum. Gradients pass straight
    through the rounding. Batch norms, those of the gates included, use their running statistics,
    as folding does. A normalization of the image inside of the model stays as it is. Partial sums
    are added in float32, so one beyond 2^24, or one that equals its threshold to the last digit,
    may decide otherwise.

    Below 8 bits, the statistics of the norms of gates are settled anew, and the steps of
    activations are learned (Esser et al., "Learned Step Size Quantization", ICLR 2020).

    Parameters
    ----------
    model : Module
        What :func:`hwgate.quantize` takes; its parameters are trained. Weights that it computes
        from others, such as those of a spectral norm, cannot be.
    images : float or uint8 (N, C, H, W)
        Calibration images, as for :func:`hwgate.quantize`.
    config : AcceleratorConfig
        Its formats give the widths.

    Raises
    ------
    CompileError, UserError
        As :func:`hwgate.quantize` raises them.
    """

    def __init__(self, model: nn.Module, images: Any, config: AcceleratorConfig) -> None:
        super().__init__()
        expect("Model to fine-tune", model, nn.Module)
        expect("Configuration", config, AcceleratorConfig, hint="hwgate.preset makes one")
        network = unwrap(model)
        assert isinstance(network, nn.Module)
        self.model, self.config = network, config
        found = calibrate(network, images, config)
        self._lowered, scales, self.image_shape = found.lowered, found.scales, found.image_shape
        fold(self._lowered, scales, self.image_shape, config)  # refuse what cannot be run
        for block in self.blocks:
            self._check(block)
        formats = config.formats
        learned = formats.activation < _LEARNED_BELOW
        #: Steps of the image and of each block's output.
        self.steps = nn.Parameter(torch.tensor([scales[n] for n in range(IMAGE, len(self.blocks))]),
                                  requires_grad=learned)
        self._limits = formats.limits(formats.activation)
        self._top = formats.limits(formats.weight)[1]
        if learned or formats.weight < _LEARNED_BELOW:
            settle_norms(self, torch.from_numpy(np.ascontiguousarray(found.images)).to(
                kind(network)[1]))
        self.eval()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The layers, with the parameters as they are."""
        return self._lowered.blocks

    def _check(self, block: Block) -> None:
        """Raise unless all that a layer computes with is the model's own."""
        if block.bound is not None and self.config.formats.activation < _LEARNED_BELOW:
            raise UserError(f"Layer {block.name!r} is clamped, as by ReLU6, which steps that are "
                            "learned could exceed; use ReLU, or 8 bits")
        gate = block.gate
        if gate is not None and (type(gate) is not GatedConv2d or gate._forward_hooks
                                 or gate._forward_pre_hooks):
            raise UserError(f"Layer {block.name!r} is a gated layer with hooks or a forward of its "
                            "own, which cannot be trained with the rounding")
        for node in (block.op, *block.after):
            if node.options.get("constant"):
                continue
            # Tied parameters have one name, which may be another module's.
            own = (set(node.tensors) == set(node.keys)
                   and all(name.rpartition(".")[0] == node.origin for name in node.keys.values()))
            if not own or not isinstance(self.model.get_submodule(node.origin),
                                         (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)):
                raise UserError(f"Layer {node.origin!r} computes with values that are no "
                                "parameters of its own convolution, linear layer or batch norm, "
                                "which cannot be trained with the rounding")

    def train(self, mode: bool = True) -> "FakeQuantized":
        """Training mode for all but batch norms."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to logits (N, classes), multiples of their step."""
        return self.outputs(x)[len(self.blocks) - 1].flatten(1)

    def outputs(self, x: Tensor) -> dict[int, Tensor]:
        """Output of each block by its index, and the image: real values on their grids."""
        network = self.network()
        values = {IMAGE: self._image(x, network)}
        for index, (block, layer) in enumerate(zip(self.blocks, network.layers, strict=True)):
            values[index] = self._run(index, block, values, layer)
        return values

    def network(self) -> QuantizedNetwork:
        """The integer network of the parameters as they are."""
        steps = self.steps.detach().cpu().double()
        scales = {n: float(steps[n + 1]) for n in range(IMAGE, len(self.blocks))}
        self._lowered = rebind(self._lowered, self.model)
        return fold(self._lowered, scales, self.image_shape, self.config)

    def _image(self, x: Tensor, network: QuantizedNetwork) -> Tensor:
        """An image on its grid, normalized as the model does it itself."""
        shape = self.image_shape
        fits = x.ndim in (2, 4) and (*x.shape[1:], 1, 1)[:3] == shape
        if not fits or not x.is_floating_point():
            raise UserError(f"Images must be float (N, {', '.join(map(str, shape))}), not "
                            f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}")
        mean, std = (torch.from_numpy(values).to(x.device).reshape(-1, 1, 1)
                     for values in (network.image_mean, network.image_std))
        normal = (x.double().reshape(-1, *shape) - mean) / std
        y = self._quantize(normal, IMAGE, self._limits[0])
        step = self._step(IMAGE)
        integers = torch.round(normal.detach() / step).clamp(*self._limits)
        return (y + (integers * step - y.detach())).to(kind(self.model)[0])

    def _run(self, index: int, block: Block, values: dict[int, Tensor],
             layer: QuantizedLayer) -> Tensor:
        """Output of a block: the value of the integers, with the gradient of rounded floats."""
        x, ratio, coarsest = self._input(block, values)
        pixels = x.shape[2] * x.shape[3] if block.average else 1
        x = x.mean(dim=(2, 3), keepdim=True) if block.average else x
        op = block.op
        weight, step = self._weight(op.tensors["weight"], ratio(op.tensors["weight"]))
        if block.gate is not None:
            scores = {}
            if block.gate.share > 1:
                score = block.gate.score_weights()
                scores["score_weights"] = self._weight(score, ratio(score))[0]
            y = functional_call(block.gate, {"weight": weight}, (x,), scores)
        else:
            x = x.flatten(1) if op.op == "Linear" else x
            y = OPERATORS[op.op]([x], {**op.tensors, "weight": weight}, op.options)
        y = y[:, :, None, None] if y.ndim == 2 else y
        sums = y.detach().double()
        bias = op.tensors.get("bias")
        sums = sums if bias is None else sums - bias.detach()[:, None, None]
        sums = torch.round(sums * pixels / (step.reshape(-1, 1, 1) * coarsest))
        for node in block.after:
            y = OPERATORS[node.op]([y], node.tensors, node.options)
        if block.order is not None:
            order = block.order.to(y.device)
            y, sums = y[:, order], sums[:, order]
        residual = None
        if block.residual is not None:
            residual = self._residual(block, values[block.residual], y)
            y = (F.relu(y) if block.relu_first else y) + residual
            residual = residual.detach().double() / self._step(block.residual)
        low = 0 if block.relu else self._limits[0]
        y = self._quantize(y, index, low)
        integers = _requantize(layer, sums, residual).clamp(low, self._limits[1])
        y = y + (integers * self._step(index) - y.detach()).to(y.dtype)
        return y if block.pool == 1 else F.max_pool2d(y, block.pool)

    def _input(self, block: Block, values: dict[int, Tensor]
               ) -> tuple[Tensor, Callable[[Tensor], Tensor], float]:
        """What a block's operator takes; for weights of it the share of the coarsest step that
        each one's input has; and that step."""
        maps = [values[n] for n in block.sources]
        steps = [self._step(n) for n in block.sources]
        x = torch.cat(maps, 1) if len(maps) > 1 else maps[0]
        share = torch.cat([torch.full((m.shape[1],), step / max(steps), dtype=torch.float64)
                           for m, step in zip(maps, steps, strict=True)]).to(x.device)
        if block.channels is not None:
            options = {"channels": block.channels, "stride": (1, 1)}
            x = OPERATORS["Select"]([x], {}, options)
            share = share[torch.tensor(block.channels, device=x.device).clamp(min=0)]

        def ratio(weight: Tensor) -> Tensor:
            height, width = block.window or (1, 1)
            own = weight.shape[1] // (height * width)
            groups = share.reshape(-1, own)
            each = groups[torch.arange(len(weight), device=x.device) * len(groups) // len(weight)]
            return each.repeat_interleave(height * width, 1).reshape(
                *weight.shape[:2], *[1] * (weight.ndim - 2))

        return x, ratio, max(steps)

    @staticmethod
    def _residual(block: Block, r: Tensor, y: Tensor) -> Tensor:
        """The operand of an addition, through its shortcut."""
        step, offset = block.shortcut.stride, block.shortcut.offset
        behind = y.shape[1] - offset - r.shape[1]
        return F.pad(r[:, :, ::step, ::step], (0, 0, 0, 0, offset, behind))

    def _weight(self, weight: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Weights on the grid of their output channel, and its step, for inputs whose steps have
        such a ratio to the layer's."""
        exact = weight.detach().double() * ratio
        largest = exact.flatten(1).abs().amax(dim=1)
        step = torch.where(largest > 0, largest, self._top) / self._top
        grid = step.reshape(-1, *[1] * (weight.ndim - 1))
        rounded = (torch.round(exact / grid) * grid / ratio).to(weight.dtype)
        return weight + (rounded - weight).detach(), step

    def _quantize(self, x: Tensor, index: int, low: int) -> Tensor:
        """Values on the grid of a block's output, rounded half to even as images are."""
        step, most = self.steps[index + 1], self._limits[1]
        if self.steps.requires_grad:  # as large as a weight's gradient, whatever the map's size
            scale = (x[0].numel() * most)**-0.5
            step = step * scale + (step - step * scale).detach()
        q = torch.clamp(x / step, low, most)
        return (q + (torch.round(q) - q).detach()) * step

    def _step(self, index: int) -> float:
        return float(self.steps[index + 1].detach())


def _requantize(layer: QuantizedLayer, sums: Tensor, residual: Tensor | None) -> Tensor:
    """Integers of a layer's psums before the clamp; exact, since float64 holds every term."""
    def of(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values.astype(np.float64)).to(sums.device)[:, None, None]

    # Folding takes the weights of constant channels.
    alive = np.any(layer.weight, axis=(1, 2, 3)).astype(np.int64)
    value = (sums * of(alive) + of(layer.bias[:, 1])) * of(layer.mult[:, 1])
    if residual is not None:
        assert layer.mult_residual is not None
        value = value.clamp(min=0) if layer.relu_first else value
        value = value + residual * of(layer.mult_residual)
    unit = of(np.ldexp(1.0, layer.shift))
    return torch.floor((value + unit / 2) / unit)


@dataclass(frozen=True)
class Agreement:
    """How far a fake-quantized model and its integer network are apart.

    Parameters
    ----------
    images : int
    classes : float
        Share of images that both put into the same class.
    logits, decisions : float
        Shares of logits and of gate decisions that are equal.
    largest : int
        Largest difference of a logit, in steps.
    """

    images: int
    classes: float
    logits: float
    decisions: float
    largest: int

    def describe(self) -> str:
        """One line for people."""
        return (f"{self.images} images: same class {self.classes:.2%}, equal logits "
                f"{self.logits:.2%}, at most {self.largest} steps apart, equal decisions "
                f"{self.decisions:.4%}")


def agreement(model: FakeQuantized, network: QuantizedNetwork,
              images: Tensor | NDArray[Any]) -> Agreement:
    """Compare a fake-quantized model with its integer network on normalized images."""
    expect("Model", model, FakeQuantized)
    expect("Network", network, QuantizedNetwork, hint="hwgate.quantize makes one")
    expect("Images", images, Tensor, np.ndarray)
    batch = torch.as_tensor(images)
    model.eval()
    with torch.no_grad():
        logits = model(batch)
    steps = np.rint(logits.double().numpy() / float(model.steps[-1].detach())).astype(np.int64)
    results = network.run(batch)
    found = results[-1].output.reshape(len(steps), -1).astype(np.int64)
    equal, total = 0, 0
    for block, layer, result in zip(model.blocks, network.layers, results, strict=True):
        if block.gate is not None and layer.gated:
            assert block.gate.decision is not None
            decision = block.gate.decision.numpy()
            decision = decision if block.order is None else decision[:, block.order.numpy()]
            equal += int((decision == result.decision).sum())
            total += decision.size
    return Agreement(len(steps), float((steps.argmax(1) == found.argmax(1)).mean()),
                     float((steps == found).mean()), equal / total if total else 1.0,
                     int(np.abs(steps - found).max()))
