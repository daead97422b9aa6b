"""Gates the convolutions of a user's own network, and says what it left ungated and why."""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from hwgate.data.typical import typical_images
from hwgate.errors import UserError, expect, reason, shown
from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.nn.gated import ChannelShuffle, GatedConv2d, PaddingShortcut
from hwgate.nn.gates import fitting_groups, force_open, gated_layers, set_density
from hwgate.nn.running import copied, evaluating, kind, outputs, rounding

__all__ = ["Conversion", "LeftLayer", "gate"]

_LEAVES = (ChannelShuffle, PaddingShortcut, nn.Conv2d)

_RELUS: tuple[Any, ...] = (torch.relu, F.relu, "relu", "relu_")


@dataclass(frozen=True)
class LeftLayer:
    """A convolution that was not gated."""

    name: str
    reason: str


@dataclass(frozen=True)
class Conversion:
    """What :func:`gate` made.

    Parameters
    ----------
    model : Module
        A copy of the user's, with gated convolutions in their places.
    gated : tuple of str
        Module paths of what is gated now, in the order of execution.
    left : tuple of LeftLayer
        All other convolutions.
    """

    model: nn.Module
    gated: tuple[str, ...]
    left: tuple[LeftLayer, ...]

    def describe(self) -> str:
        """One line per convolution that was left, under one that counts."""
        count = len(self.gated)
        lines = [f"{count} convolution{'' if count == 1 else 's'} gated, {len(self.left)} left"]
        return "\n".join(lines + [f"{layer.name}: {layer.reason}" for layer in self.left])


def gate(model: nn.Module, groups: int = 4, *, skip: Collection[str] = (),
         images: Any = None, density: float | None = None,
         config: AcceleratorConfig | None = None, grouping: bool = False, alpha: float = 2.0,
         sparse_bp: bool = True, share: int = 1, tau: float = 0.0,
         base_channels: int = 0) -> Conversion:
    """Gate every convolution of a model that goes straight to a batch norm and a ReLU.

    The model itself is not changed. The copy keeps all weights, and computes the same with
    ``hwgate.nn.gates.force_open``; with ``images``, that is checked. Its gates are new: without
    ``images`` they have thresholds and statistics of an untrained layer, so train it before its
    accuracy means anything. A convolution that is more than its weight and bias, such as a
    subclass or one with hooks, is left.

    Parameters
    ----------
    model : Module
        Its forward must be traceable: no control flow that depends on values.
    groups : int
        G. Convolutions whose input channels it does not divide are left.
    skip : collection of str
        Module paths to leave; a path stands for all that is below it.
    images : float or uint8 (N, C, H, W), optional
        Typical inputs, in any form that :func:`hwgate.quantize` takes, to which the statistics and
        thresholds of the gates are set.
    density : float, optional
        Share of gates that open on ``images``; a half by default.
    config : AcceleratorConfig, optional
        Leave what this accelerator cannot run gated.
    grouping, alpha, sparse_bp, share, tau
        As for :class:`hwgate.nn.gated.GatedConv2d`.
    base_channels : int
        Lowers G in narrow layers; see :func:`hwgate.nn.gates.fitting_groups`. Give
        the ``channels`` of the accelerator, which sums so many in a pass.

    Raises
    ------
    UserError
        If the model cannot be traced or copied or does not run on the images, a path to skip does
        not exist, a group count is less than 2, a density comes without images, or the copy does
        not compute what the model does.
    """
    expect("Model to gate", model, nn.Module)
    expect("Modules to skip", skip, list, tuple, set, frozenset)
    expect("Configuration", config, AcceleratorConfig, type(None), hint="hwgate.preset makes one")
    for what, value in (("Gate group count", groups), ("Share", share),
                        ("Base channel count", base_channels)):
        expect(what, value, Integral)
    for what, number in (("Density", density), ("Alpha", alpha), ("Tau", tau)):
        expect(what, number, Real, *([type(None)] if what == "Density" else []))
    for what, flag in (("Grouping", grouping), ("Sparse backpropagation", sparse_bp)):
        expect(what, flag, bool)
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    there = [name for each in names.values() for name in each if name]
    for path in skip:
        expect("Module to skip", path, str)
        if path not in there:
            raise UserError(f"There is no module {path!r} to skip; there are {', '.join(there)}")
    if groups < 2:
        raise UserError(f"Gate group count must be at least 2, not {groups!r}")
    if density is not None and images is None:
        raise UserError(f"A density of {density!r} needs images to choose thresholds on")
    options = {"grouping": grouping, "alpha": alpha, "sparse_bp": sparse_bp, "share": share,
               "tau": tau}
    batch = None if images is None else _inputs(model, images)
    calls = _trace(model)
    counts = Counter(node.target for node in calls)
    made: dict[nn.Module, nn.Module] = {}
    left: dict[str, str] = {}
    for node in calls:
        conv = _conv(model, node)
        count = fitting_groups(groups, conv.in_channels, base_channels)
        reason = _obstacle(model, node, count, config)
        if any(path == name or path.startswith(f"{name}.")
               for path in names[conv] for name in skip):
            reason = "skipped, as asked"
        elif reason is None and counts[node.target] > 1:
            reason = "runs more than once"
        if reason is None:
            try:
                made[conv] = _gated(conv, gate_groups=count, **options)
                continue
            except UserError as error:
                reason = str(error)
        left.setdefault(names[conv][0], reason)
    for module, paths in names.items():
        if isinstance(module, nn.Conv2d) and module not in made:
            left.setdefault(paths[0], "is not called by a forward that can be traced")
    result = copied(model, made)
    if not {_conv(result, node) for node in _trace(result)}.issuperset(made.values()):
        raise UserError(f"A copy of model {type(model).__name__} does not call its own layers; "
                        "put GatedConv2d in by hand")
    gated = tuple(names[conv][0] for conv in made)
    if batch is not None:
        _check(model, result, batch)
        _settle(result, set(gated), batch, 0.5 if density is None else density)
    return Conversion(result, gated, tuple(LeftLayer(*each) for each in left.items()))


def _inputs(model: nn.Module, images: Any) -> Tensor:
    """Images as the model takes them."""
    dtype, device = kind(model)
    return torch.from_numpy(np.ascontiguousarray(typical_images(images))).to(device, dtype)


def _trace(model: nn.Module) -> list[fx.Node]:
    """Calls of convolutions, in the order of execution."""
    try:
        with evaluating(model):
            graph = _Tracer().trace(model)
    except Exception as error:  # whatever the user's forward does with a proxy
        raise UserError(f"Model {type(model).__name__} cannot be traced ({reason(error)}); write "
                        "its forward without control flow, or put GatedConv2d in by hand"
                        ) from error
    return [node for node in graph.nodes if node.op == "call_module"
            and isinstance(model.get_submodule(str(node.target)), nn.Conv2d)]


def _conv(model: nn.Module, node: fx.Node) -> nn.Conv2d:
    """The convolution that a node calls."""
    conv = model.get_submodule(str(node.target))
    assert isinstance(conv, nn.Conv2d)
    return conv


class _Tracer(fx.Tracer):
    """Keeps hwgate's modules whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)


def _obstacle(model: nn.Module, node: fx.Node, groups: int | None,
              config: AcceleratorConfig | None) -> str | None:
    """Why a convolution cannot be gated; None if it can."""
    conv = _conv(model, node)
    if isinstance(conv, GatedConv2d):
        return "is gated already"
    if conv.groups > 1:
        return f"is a grouped convolution of {conv.groups} groups"
    if conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        return "has a dilation, or pads with something other than zeros"
    own = _own(model, conv)
    if own is not None:
        return own
    norm, after = _next(model, node)
    if not isinstance(after, nn.BatchNorm2d):
        return f"goes to {_name(after)}, not straight to a batch norm"
    assert norm is not None
    _, after = _next(model, norm)
    if not isinstance(after, nn.ReLU):
        return f"its batch norm goes to {_name(after)}, not straight to a ReLU"
    channels = conv.in_channels
    if groups is None:
        return f"has {channels} input channels, too few for two base paths of the least size"
    if channels % groups:
        return f"has {channels} input channels, which {groups} groups do not divide"
    if config is not None:
        size = config.channels * (TAPS if conv.kernel_size == (1, 1) else 1)
        if channels // groups % size:
            return (f"has a base path of {channels // groups} input channels, which must be a "
                    f"multiple of the {size} of a pass")
    return None


def _own(model: nn.Module, conv: nn.Conv2d) -> str | None:
    """Why a convolution is more than can move to another layer; None if it is not."""
    parameters = dict(conv.named_parameters(recurse=False))
    hooks = [values for name, values in vars(conv).items() if name.endswith("_hooks")]
    for parameter in parameters.values():
        hooks += [parameter._backward_hooks, parameter._post_accumulate_grad_hooks]
    if is_parametrized(conv) or "weight" not in parameters or any(hooks):
        return "has hooks, or computes its weights (pruning, weight or spectral norm)"
    if type(conv) is not nn.Conv2d:
        return f"is a {type(conv).__name__}, which may be more than a convolution"
    # Libraries mark modules with attributes that begin with an underscore.
    attributes = (name for name in vars(conv).keys() - vars(nn.Conv2d(1, 1, 1)).keys()
                  if hasattr(nn.Conv2d, name) or not name.startswith("_"))
    more = sorted({*attributes, *(parameters.keys() - {"weight", "bias"}),
                   *dict(conv.named_buffers()), *dict(conv.named_children())})
    if more:
        return f"has {', '.join(more)} of its own"
    if conv.weight.shape != (conv.out_channels, conv.in_channels, *conv.kernel_size):
        return f"has a weight of {tuple(conv.weight.shape)}, which its channels and kernel are not"
    owners = sum(parameter is own for module in model.modules()
                 for parameter in module._parameters.values() for own in parameters.values())
    return "shares its weights with another layer" if owners > len(parameters) else None


def _next(model: nn.Module, node: fx.Node) -> tuple[fx.Node | None, Any]:
    """The only node that uses a node's value, and the module that it is."""
    users = list(node.users)
    if len(users) != 1:
        return None, "several places"
    user = users[0]
    if user.op == "call_module" and isinstance(
            model.get_submodule(str(user.target)), (nn.Identity, nn.Dropout, nn.Dropout2d)):
        return _next(model, user)
    if user.op == "call_module":
        return user, model.get_submodule(str(user.target))
    if user.target in _RELUS:
        return user, nn.ReLU()
    return user, getattr(user.target, "__name__", str(user.target))


def _name(found: Any) -> str:
    return type(found).__name__ if isinstance(found, nn.Module) else str(found)


def _gated(conv: nn.Conv2d, **options: Any) -> GatedConv2d:
    """A gated layer with the parameters of a convolution."""
    made = GatedConv2d(conv.in_channels, conv.out_channels, _pair(conv.kernel_size),
                       _pair(conv.stride), _padding(conv.padding), conv.bias is not None,
                       **options)
    made = made.to(conv.weight.device, conv.weight.dtype).train(conv.training)
    for name, parameter in conv.named_parameters(recurse=False):
        own = made.get_parameter(name)
        own.data.copy_(parameter.detach())
        own.requires_grad_(parameter.requires_grad)
    return made


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def _padding(value: str | tuple[int, ...]) -> str | tuple[int, int]:
    return value if isinstance(value, str) else _pair(value)


def _check(model: nn.Module, result: nn.Module, images: Tensor) -> None:
    """Raise unless the copy computes what the model does, with all gates open: one near its
    threshold may decide either way."""
    wanted, found = (_run(force_open(copied(each)), images) for each in (model, result))
    apart, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
    share = max(rounding(images.dtype), rounding(wanted.dtype))
    if not apart <= share * max(largest, 1e-30):
        raise UserError(f"With all gates open the copy computes something else than the model: "
                        f"outputs are up to {apart:.3g} apart of {largest:.3g}; put GatedConv2d in "
                        "by hand")


def _run(model: nn.Module, images: Tensor) -> Tensor:
    """The tensor that a model computes in evaluation mode, in its own precision."""
    with torch.autocast(images.device.type, enabled=False):
        found = outputs(model, images)
    if not isinstance(found, Tensor):
        raise UserError(f"Model {type(model).__name__} must return one tensor, to be compared with "
                        f"that of its copy, not {shown(found)}")
    return found


def _settle(model: nn.Module, paths: set[str], images: Tensor, density: float) -> None:
    """Statistics and thresholds of new gates from what the open network computes."""
    layers = [layer for name, layer in gated_layers(model) if name in paths]
    old = {layer: layer.delta.detach().clone() for name, layer in gated_layers(model)
           if name not in paths}

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, GatedConv2d)
        values, norm = layer.scores(layer.base_sums(inputs[0])), layer.gate_norm
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(values.mean(dim=(0, 2, 3)))
        norm.running_var.copy_(values.var(dim=(0, 2, 3), correction=0))

    hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
    try:
        for layer in layers:
            layer.force_open = True
        outputs(model, images)
    finally:
        for layer, hook in zip(layers, hooks, strict=True):
            layer.force_open = False
            hook.remove()
    set_density(model, images, density)
    with torch.no_grad():
        for layer, delta in old.items():
            layer.delta.copy_(delta)
