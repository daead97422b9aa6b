"""Losses in cycles and bytes of an accelerator: its cost model made differentiable."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hwgate
from hwgate.compiler.balancing import balance
from hwgate.data.typical import typical_images
from hwgate.errors import UserError, expect
from hwgate.frontend.model import unwrap
from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.nn.gated import GatedConv2d
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.run import RunResult

from .qat import FakeQuantized

__all__ = ["BudgetLoss", "GateCost", "NetworkCost", "measure_costs"]

#: Thresholds that close and open every gate.
_CLOSED, _OPEN = (1 << 31) - 1, -(1 << 31)

#: Images that lanes are balanced on.
_SAMPLE = 8


@dataclass(frozen=True)
class GateCost:
    """What one gated layer costs an image: with every gate closed, and open."""

    closed: int
    opened: int


@dataclass(frozen=True)
class NetworkCost:
    """What a network costs an image, in cycles or in bytes.

    Parameters
    ----------
    fixed : int
        Of everything but the gated layers.
    layers : mapping
        Of each gated layer, by its name.
    dense : int
        Of the dense program on the same accelerator.
    """

    fixed: int
    layers: Mapping[str, GateCost]
    dense: int

    def at(self, share: float) -> float:
        """Cost where each layer does so much of its conditional work."""
        return self.fixed + sum(cost.closed + share * (cost.opened - cost.closed)
                                for cost in self.layers.values())


def measure_costs(model: nn.Module, images: Any, config: AcceleratorConfig,
                  timing: MemoryTiming | None = None) -> dict[str, NetworkCost]:
    """Costs of a network's gated layers by the cost model, as ``cycles`` and ``bytes``.

    They depend on shapes and on how the gates are grouped and shared, not on weights. Lanes are
    balanced, so that the channels of a gate lie on few of them.

    Parameters
    ----------
    model : Module
        As for :func:`hwgate.quantize`, which must accept it.
    images : float (N, C, H, W)
        Of the right shape.
    config, timing
        The accelerator and its memory.

    Raises
    ------
    UserError
        If the accelerator cannot run the model.
    """
    expect("Images", images, Tensor, np.ndarray)
    network = hwgate.quantize(model, images, config)
    network = balance(network, typical_images(images[:_SAMPLE]))
    batch = np.zeros((1, *network.image_shape), np.int8)

    def run(which: QuantizedNetwork, dense: bool = False) -> RunResult:
        return hwgate.estimate(hwgate.compile(which, config, dense=dense), batch, timing)

    closed, opened = (run(_with_threshold(network, value)) for value in (_CLOSED, _OPEN))
    dense = run(network, dense=True)
    costs = {}
    for what, name in (("cycles", "cycles"), ("bytes", "bytes_total")):
        layers = {low.name: GateCost(getattr(low, name), getattr(high, name))
                  for low, high in zip(closed.layers, opened.layers, strict=True) if low.gated}
        fixed = getattr(closed, name) - sum(cost.closed for cost in layers.values())
        costs[what] = NetworkCost(fixed, layers, getattr(dense, name))
    return costs


class _Mean(torch.autograd.Function):
    """Mean of all elements, whose gradient has their memory format: one of another is slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.mean(dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, = ctx.saved_tensors
        return torch.full_like(x, float(grads[0]) / x.numel())


class BudgetLoss:
    """A term of a loss: the excess over a budget, as a share of the dense program's cost.

    A layer's cycles are taken to grow linearly with its density, and its bytes with the share of
    channels that open any gate of an image: only these fetch their conditional weights.

    Parameters
    ----------
    kind : str
        ``cycles`` or ``bytes``.
    cost : NetworkCost
        Of that kind.
    share : float
        The budget, as a share of ``cost.dense``.
    weight : float
        Factor of the excess.
    """

    def __init__(self, kind: str, cost: NetworkCost, share: float, weight: float = 1.0) -> None:
        expect("Kind of a budget", kind, str)
        expect("Cost", cost, NetworkCost, hint="measure_costs makes one")
        expect("Share of a budget", share, Real)
        expect("Weight of a budget", weight, Real)
        if kind not in ("bytes", "cycles"):
            raise UserError(f"A budget must be of bytes or cycles, not {kind!r}")
        self.kind, self.cost, self.share, self.weight = kind, cost, share, weight

    def __call__(self, model: nn.Module) -> Tensor:
        """``weight * max(0, predicted / dense - share)`` of the last forward pass.

        The model is the one whose costs were measured, fake-quantized or wrapped or as it is; its
        gated layers must keep their decisions (:func:`hwgate.nn.losses.kept_gates`).

        Raises
        ------
        UserError
            If it has not the layers of the costs.
        """
        return self.weight * torch.relu(self.predicted(model) / self.cost.dense - self.share)

    def predicted(self, model: nn.Module) -> Tensor:
        """Cost of an image, mean over the last batch, with its gradient."""
        layers = _gated(model)
        total = torch.tensor(float(self.cost.fixed))
        for name, cost in self.cost.layers.items():
            if name not in layers:
                raise UserError(f"A budget has the cost of a layer {name!r}, but the gated layers "
                                f"of the model are {', '.join(layers) or 'none'}; measure the "
                                "costs of this model")
            gates = layers[name].gates
            if gates is None:
                continue
            busy = _Mean.apply(gates) if self.kind == "cycles" else gates.amax(dim=(2, 3)).mean()
            total = total.to(busy.device) + cost.closed + (cost.opened - cost.closed) * busy
        return total


def _gated(model: nn.Module) -> dict[str, GatedConv2d]:
    """Gated layers by all their names in the network itself, without what it is wrapped in."""
    expect("Model", model, nn.Module)
    network = unwrap(model)
    while isinstance(network, FakeQuantized):
        network = unwrap(network.model)
    assert isinstance(network, nn.Module)
    return {name: module for name, module in network.named_modules(remove_duplicate=False)
            if isinstance(module, GatedConv2d)}


def _with_threshold(network: QuantizedNetwork, value: int) -> QuantizedNetwork:
    """The network with one threshold for all gates."""
    return replace(network, layers=tuple(
        layer if layer.threshold is None
        else replace(layer, threshold=np.full_like(layer.threshold, value))
        for layer in network.layers))
