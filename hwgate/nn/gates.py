"""The gates of a whole model: found, opened, set to a density, kept from weight decay."""

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

from torch import Tensor, nn

from hwgate.errors import UserError, expect
from hwgate.nn.gated import GatedConv2d
from hwgate.nn.running import outputs

__all__ = ["fitting_groups", "force_open", "gated_layers", "parameter_groups", "set_density",
           "settle_norms"]


def fitting_groups(groups: int, channels: int, base_channels: int) -> int | None:
    """Most groups, up to ``groups``, whose base path has ``base_channels`` of the input channels.

    A narrow layer then has fewer groups than a wide one. A base path of the R input channels that
    an accelerator sums in a pass is the least that it runs.

    Returns
    -------
    int or None
        ``groups`` if ``base_channels`` is 0; None where there is no room for two groups.
    """
    for what, value in (("Gate group count", groups), ("Channel count", channels),
                        ("Base channel count", base_channels)):
        expect(what, value, Integral)
    room = channels // base_channels if base_channels else groups
    if groups <= room:
        return groups
    return room if room > 1 else None


def gated_layers(model: nn.Module) -> Iterator[tuple[str, GatedConv2d]]:
    """Module path and layer of each gated convolution of a model."""
    expect("Model", model, nn.Module)
    for name, module in model.named_modules():
        if isinstance(module, GatedConv2d):
            yield name, module


def force_open(model: nn.Module, opened: bool = True) -> nn.Module:
    """Set ``force_open`` of all gated layers of a model, and return the model."""
    for _, layer in gated_layers(model):
        layer.force_open = opened
    return model


def set_density(model: nn.Module, images: Tensor, density: float) -> nn.Module:
    """Choose every threshold so that each channel opens a share of its gates, and return the model.

    The share holds over ``images`` in evaluation mode, but for ties and rounding. For speed over
    density without training; accuracy is not looked at.

    Parameters
    ----------
    model : Module
    images : float (N, C, H, W)
    density : float
        In 0..1; at 0 and 1 no or every gate opens, for any input.

    Raises
    ------
    UserError
        For another density.
    """
    expect("Density", density, Real)
    if not 0 <= density <= 1:
        raise UserError(f"Density must be in 0..1, not {density!r}")

    def choose(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, GatedConv2d)
        if density in (0, 1):
            layer.delta.fill_(1e9 if density == 0 else -1e9)
            return
        sums = layer.gate_norm(layer.scores(layer.base_sums(inputs[0])))
        ranked = sums.transpose(0, 1).flatten(1).sort(dim=1).values
        closed = round((1 - density) * ranked.shape[1])
        layer.delta.copy_(ranked[:, max(closed - 1, 0)])

    _run_with(model, images, GatedConv2d, choose)
    return model


def settle_norms(model: nn.Module, images: Tensor) -> nn.Module:
    """Set the statistics of all batch norms to those of ``images``, and return the model in
    evaluation mode.

    Layer by layer, so that a model of random weights computes what its evaluation mode promises.
    """
    def settle(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        values = inputs[0].detach()
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(values.mean(dim=(0, 2, 3)))
            norm.running_var.copy_(values.var(dim=(0, 2, 3), correction=0))

    _run_with(model, images, nn.BatchNorm2d, settle)
    return model.eval()


def _run_with(model: nn.Module, images: Tensor, kind: type[nn.Module], hook: Any) -> None:
    """Run a model once, in evaluation mode, with a hook before each module of a kind."""
    expect("Model", model, nn.Module)
    hooks = [m.register_forward_pre_hook(hook) for m in model.modules() if isinstance(m, kind)]
    try:
        outputs(model, images)
    finally:
        for handle in hooks:
            handle.remove()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer: weights with decay, thresholds and 1-D parameters without."""
    expect("Model", model, nn.Module)
    expect("Weight decay", weight_decay, Real)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
