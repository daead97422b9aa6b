"""Gated layers from states of ``CGConv2d``, the layer of Hua et al.'s own training code.

That code (cornell-zhang/dnn-gating) keeps, for each layer, ``weight`` (Co, Ci, K, K), ``mask`` of
the same shape with ones at the weights of the base path, ``threshold`` (1, Co, 1, 1), the
statistics ``bn.running_mean`` and ``bn.running_var`` (Co,) of the affine-free norm, and maybe a
``bias`` (Co,). Stride, padding, alpha and whether channels are shuffled are not in a state.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hwgate.errors import UserError, expect
from hwgate.nn.gated import ChannelShuffle, GatedConv2d
from hwgate.nn.running import copied

__all__ = ["load_cgconv", "read_cgconv"]

_WEIGHT, _MASK, _THRESHOLD, _MEAN, _VAR = _NEEDED = (
    "weight", "mask", "threshold", "bn.running_mean", "bn.running_var")
_BIAS, _COUNT = "bias", "bn.num_batches_tracked"

#: What ``DataParallel`` puts before every name.
_PARALLEL = "module."


def read_cgconv(state: Mapping[str, Tensor], prefix: str = "", *,
                stride: int | tuple[int, int] = 1,
                padding: int | str | tuple[int, int] | None = None, groups: int | None = None,
                alpha: float = 2.0, sparse_bp: bool = False) -> GatedConv2d:
    """The gated layer that computes what a ``CGConv2d`` of this state does.

    Its groups are read off the mask: the first of them for all outputs, or block-diagonal. A
    ``CGConv2d`` that shuffles its input channels is this layer behind a
    :class:`~hwgate.nn.gated.ChannelShuffle` of as many groups.

    Parameters
    ----------
    state : mapping
        As ``state_dict()`` gives it, of the layer or of a network.
    prefix : str
        What the names of the layer begin with, such as ``layer1.0.conv1.``.
    stride, padding
        Of the layer; by default, the padding that keeps the size at stride 1.
    groups : int, optional
        G, if it is known: another one in the state is an error.
    alpha, sparse_bp
        As for :class:`~hwgate.nn.gated.GatedConv2d`.

    Raises
    ------
    UserError
        For names that are missing, tensors of other shapes, a mask of another form, or another
        number of groups.
    """
    expect("Prefix of a layer", prefix, str)
    name = prefix.removesuffix(".") or "CGConv2d"
    found = _tensors(state, prefix, name)
    weight = found[_WEIGHT]
    outputs, inputs, *kernel = weight.shape
    made = _groups(found[_MASK], name)
    if groups not in (None, made[0]):
        raise UserError(f"Layer {name!r} of the state has {made[0]} groups, not {groups}")
    if padding is None:
        padding = (kernel[0] // 2, kernel[1] // 2)
    layer = GatedConv2d(inputs, outputs, (kernel[0], kernel[1]), stride, padding,
                        bias=_BIAS in found, gate_groups=made[0], grouping=made[1], alpha=alpha,
                        sparse_bp=sparse_bp).to(weight)
    mean, counted = found[_MEAN], found.get(_COUNT, torch.tensor(0))
    content = {"weight": weight, "delta": found[_THRESHOLD].flatten(),
               "gate_norm.running_mean": mean, "gate_norm.running_var": found[_VAR],
               "gate_norm.num_batches_tracked": counted}
    if _BIAS in found:
        # There, the gate sees the bias, too; here, it is added behind the gate.
        content |= {"bias": found[_BIAS], "gate_norm.running_mean": mean - found[_BIAS]}
    layer.load_state_dict(content)
    return layer


def load_cgconv(model: nn.Module, state: Mapping[str, Tensor], *, shuffle: bool = False,
                alpha: float = 2.0, sparse_bp: bool = False) -> nn.Module:
    """A copy of a model with the state of the same network made of ``CGConv2d``.

    Parameters
    ----------
    model : Module
        Has the names of the state, and a convolution, gated or not, at the place of each
        ``CGConv2d``; stride and padding are its own. Not changed.
    state : mapping
        Of the whole network; ``module.`` before every name is looked through.
    shuffle : bool
        The network was built with ``shuffle``: each layer shuffles its input channels first.
    alpha, sparse_bp
        As for :class:`~hwgate.nn.gated.GatedConv2d`.

    Raises
    ------
    UserError
        If the state holds no such layer, or does not fit the model; names the layer.
    """
    expect("Model", model, nn.Module)
    expect("State of a network", state, Mapping)
    if state and all(name.startswith(_PARALLEL) for name in state):
        state = {name.removeprefix(_PARALLEL): value for name, value in state.items()}
    paths = [name.removesuffix(f".{_THRESHOLD}") for name in state
             if name.endswith(f".{_THRESHOLD}")]
    if not paths:
        raise UserError("The state holds no CGConv2d below a module; such a layer has a "
                        f"{', '.join(_NEEDED[:-1])} and {_NEEDED[-1]}")
    result = copied(model)
    modules = dict(model.named_modules())
    for path in paths:
        conv = modules.get(path)
        if conv is None:
            raise UserError(f"The model has no layer {path!r}, which is a CGConv2d of the state")
        if not isinstance(conv, nn.Conv2d):
            raise UserError(f"Layer {path!r} of the model must be a convolution, as it is in the "
                            f"state, not {type(conv).__name__}")
        layer = _fitting(conv, state, path, alpha, sparse_bp)
        made = nn.Sequential(ChannelShuffle(layer.gate_groups), layer) if shuffle else layer
        result.set_submodule(path, made.train(conv.training))
    below = tuple(f"{path}." for path in paths)
    _load_others(result, {name: value for name, value in state.items()
                          if not name.startswith(below)}, below)
    return result


def _tensors(state: Mapping[str, Tensor], prefix: str, name: str) -> dict[str, Tensor]:
    """The tensors of a layer by their names, if they are those of a ``CGConv2d``."""
    expect("State of a layer", state, Mapping)
    found = {key: state[prefix + key] for key in (*_NEEDED, _BIAS, _COUNT) if prefix + key in state}
    for key, value in found.items():
        expect(f"Tensor {prefix + key!r} of the state", value, Tensor)
    missing = [key for key in _NEEDED if key not in found]
    if missing:
        raise UserError(f"Layer {name!r} of the state is no CGConv2d; it lacks "
                        f"{', '.join(missing)}")
    weight = tuple(found[_WEIGHT].shape)
    if len(weight) != 4:
        raise UserError(f"Layer {name!r} of the state must have a weight of 4 dimensions, not "
                        f"{len(weight)}")
    shapes = {_MASK: weight, _THRESHOLD: (1, weight[0], 1, 1), _MEAN: weight[:1],
              _VAR: weight[:1], _BIAS: weight[:1]}
    for key, shape in shapes.items():
        if key in found and tuple(found[key].shape) != shape:
            raise UserError(f"Layer {name!r} of the state must have a {key} of {shape}, like its "
                            f"weight of {weight}, not of {tuple(found[key].shape)}")
    return {key: value.detach() for key, value in found.items()}


def _groups(mask: Tensor, name: str) -> tuple[int, bool]:
    """G, and whether the mask of a base path is block-diagonal rather than the first group."""
    outputs, inputs = mask.shape[:2]
    others = mask[(mask != 0) & (mask != 1)]
    if len(others):
        raise UserError(f"Layer {name!r} of the state must have a mask of ones and zeros, not of "
                        f"{float(others[0]):g}")
    base = mask[:, :, 0, 0] != 0
    width = int(base[0].sum())
    if width == inputs and bool(base.all()):
        raise UserError(f"Layer {name!r} of the state has one group, so nothing is gated; load it "
                        "as an ordinary convolution")
    if width and inputs % width == 0 and torch.equal(mask != 0, base[:, :, None, None].expand_as(
            mask)):
        groups = inputs // width
        first = torch.arange(inputs, device=mask.device) // width
        for grouping in (False, True):
            if grouping and outputs % groups:
                continue
            own = torch.arange(outputs, device=mask.device) * groups // outputs
            if torch.equal(base, first == (own if grouping else 0 * own)[:, None]):
                return groups, grouping
    raise UserError(f"Layer {name!r} of the state must have the first of equal groups of its "
                    f"{inputs} input channels as base path, or one for each of as many groups of "
                    f"its {outputs} output channels, which its mask has not")


def _fitting(conv: nn.Conv2d, state: Mapping[str, Tensor], path: str, alpha: float,
             sparse_bp: bool) -> GatedConv2d:
    """The gated layer in the place of a convolution of the model."""
    if conv.padding_mode != "zeros" or conv.groups > 1 or conv.dilation != (1, 1):
        raise UserError(f"Layer {path!r} of the model must be a convolution without groups and "
                        f"dilation that pads with zeros, not {conv}")
    groups = conv.gate_groups if isinstance(conv, GatedConv2d) else None
    layer = read_cgconv(state, f"{path}.", stride=_pair(conv.stride),
                        padding=conv.padding if isinstance(conv.padding, str)
                        else _pair(conv.padding), groups=groups, alpha=alpha, sparse_bp=sparse_bp)
    if layer.weight.shape != conv.weight.shape:
        raise UserError(f"Layer {path!r} of the state has a weight of {tuple(layer.weight.shape)}, "
                        f"but that of the model is of {tuple(conv.weight.shape)}")
    return layer


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def _load_others(model: nn.Module, state: Mapping[str, Tensor], below: tuple[str, ...]) -> None:
    """Load all that is no ``CGConv2d``, by name."""
    wanted = {name: value.shape for name, value in model.state_dict().items()
              if not name.startswith(below)}
    lacking = [name for name in wanted
               if name not in state and not name.endswith(".num_batches_tracked")]
    strange = [name for name in state if name not in wanted]
    if lacking or strange:
        raise UserError("The state must be of the same network as the model, but it lacks "
                        f"{', '.join(lacking) or 'nothing'} and has "
                        f"{', '.join(strange) or 'nothing'} besides")
    for name, value in state.items():
        expect(f"Tensor {name!r} of the state", value, Tensor)
        if value.shape != wanted[name]:
            raise UserError(f"Tensor {name!r} of the state must be of {tuple(wanted[name])} as in "
                            f"the model, not of {tuple(value.shape)}")
    model.load_state_dict(state, strict=False)
