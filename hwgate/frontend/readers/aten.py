"""What ATen operators are in a graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .moves import Moved

__all__ = ["ATEN", "COPIES", "MOVES", "Constant", "Obstacle", "shape_text", "size_of"]

#: Operators that only move values about.
MOVES = {"view", "reshape", "_unsafe_view", "permute", "transpose", "slice", "select", "split",
         "split_with_sizes", "expand", "unsqueeze", "squeeze", "constant_pad_nd", "index_select"}

#: Operators that change no value at all.
COPIES = {"clone", "alias", "detach", "detach_", "_to_copy", "contiguous", "lift_fresh_copy",
          "dropout", "native_dropout"}


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the image; ``key`` is its name, if it is the model's own."""

    tensor: Tensor
    key: str = ""
    transposed: bool = False

    @property
    def value(self) -> Tensor:
        return self.tensor.t() if self.transposed else self.tensor


class Obstacle(Exception):
    """What an operator does that no layer computes, and the way out."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


class Emitter(Protocol):
    """Makes nodes for the operator that is being read."""

    def emit(self, op: str, inputs: Sequence[Any], tensors: dict[str, Tensor] | None = None,
             keys: dict[str, str] | None = None, **options: Any) -> Moved: ...

    def settle(self, moved: Moved) -> Moved: ...

    def gate(self, weight: Constant) -> Any: ...


def _constants(**values: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a node and their names in the model."""
    tensors, keys = {}, {}
    for name, value in values.items():
        if value is None:
            continue
        if not isinstance(value, Constant):
            raise Obstacle("has parameters that depend on the image")
        tensors[name] = value.tensor
        if value.key:
            keys[name] = value.key
    return tensors, keys


def _per_channel(value: Any, channels: int, rank: int) -> Tensor:
    """A number or a constant as (C,) values."""
    if isinstance(value, Moved):
        raise Obstacle("combines values of different shapes")
    tensor = value.value if isinstance(value, Constant) else torch.tensor(float(value))
    tensor = tensor.detach().double()
    if tensor.numel() == 1 and tensor.ndim <= rank + 1:
        return tensor.reshape(1).expand(channels)
    shape = [1] * (rank + 1 - tensor.ndim) + list(tensor.shape)
    if shape != [1, channels] + [1] * (rank - 1):
        raise Obstacle(f"combines a value with a constant of the shape {shape_text(tensor.shape)}",
                       "use one number, or one of each channel")
    return tensor.reshape(channels)


def _times(value: Any, factor: float) -> Any:
    """A number or a constant times a number."""
    if factor == 1:
        return value
    if isinstance(value, Moved):
        raise Obstacle("has parameters that depend on the image")
    if isinstance(value, Constant):
        return Constant(value.value * factor)
    return value * factor


def _kept(moved: Moved) -> list[int] | None:
    """For a map or its mean along some axes: which axes of the source those behind the channels
    are, if nothing was moved but axes of one line left out."""
    shape, places = moved.shape, moved.places
    if not torch.equal(places.flatten(), torch.arange(size_of(shape))) or len(shape) != 3:
        return None
    if tuple(places.shape) == shape:
        return [0, 1]
    left = [axis for axis in (0, 1) if shape[1 + axis] > 1]
    return left if tuple(places.shape) == (shape[0], *(shape[1 + axis] for axis in left)) else None


def size_of(shape: Sequence[int]) -> int:
    return int(torch.tensor(list(shape)).prod()) if len(shape) else 1


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = value if isinstance(value, (list, tuple)) else (value, value)
    return (first, rest[0] if rest else first)


def shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "()"


def _map_of(x: Any, what: str) -> Moved:
    """Values, which must be a map of each image."""
    if not isinstance(x, Moved):
        raise Obstacle(f"is {what} of a constant", "take it of values of the image")
    if x.places.ndim != 3:
        raise Obstacle(f"is {what} in {max(x.places.ndim - 1, 0)} dimensions",
                       "use that in 2 dimensions, on maps (N, C, H, W)")
    return x


def _convolution(read: Emitter, x: Any, weight: Any, bias: Any, stride: list[int],
                 padding: list[int], dilation: list[int], transposed: bool,
                 output_padding: list[int], groups: int) -> Moved:
    if transposed:
        raise Obstacle("is a transposed convolution", "use a convolution")
    x = _map_of(x, "a convolution")
    tensors, keys = _constants(weight=weight, bias=bias)
    rows, columns = _pair(padding)
    return read.emit("Conv", [x], tensors, keys, stride=_pair(stride),
                     padding=(rows, rows, columns, columns), dilation=_pair(dilation),
                     groups=groups)


def _gated_conv2d(read: Emitter, x: Any, weight: Any, bias: Any, stride: list[int],
                  padding: list[int]) -> Moved:
    tensors, keys = _constants(weight=weight, bias=bias)
    x = _map_of(x, "a convolution")
    return read.emit("Conv", [x], tensors, keys, stride=tuple(stride), padding=tuple(padding),
                     dilation=(1, 1), groups=1, gate=read.gate(weight))


def _addmm(read: Emitter, bias: Any, x: Any, weight: Any, beta: float = 1,
           alpha: float = 1) -> Moved:
    return _linear_of(read, x, _times(weight, alpha), _times(bias, beta), True)


def _mm(read: Emitter, x: Any, weight: Any) -> Moved:
    return _linear_of(read, x, weight, None, True)


def _linear(read: Emitter, x: Any, weight: Any, bias: Any = None) -> Moved:
    return _linear_of(read, x, weight, bias, False)


def _linear_of(read: Emitter, x: Any, weight: Any, bias: Any, turned: bool) -> Moved:
    if not isinstance(weight, Constant) or not isinstance(x, Moved):
        raise Obstacle("multiplies two values that depend on the image")
    if x.places.ndim != 1:
        raise Obstacle(f"is a linear layer on values of the shape {shape_text(x.places.shape)}",
                       "flatten all but the batch")
    if weight.transposed == turned:
        weight = Constant(weight.tensor, weight.key)
    else:
        weight = Constant(weight.tensor.t())
    outputs = len(weight.tensor)
    if isinstance(bias, Constant) and bias.tensor.shape != (outputs,):
        bias = Constant(_per_channel(bias, outputs, 1))
    tensors, keys = _constants(weight=weight, bias=bias)
    return read.emit("Linear", [x], tensors, keys)


def _native_batch_norm_legit_no_training(
    read: Emitter, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float,
        eps: float) -> Moved:
    tensors, keys = _constants(weight=weight, bias=bias, mean=mean, variance=variance)
    return read.emit("BatchNorm", [x], tensors, keys, eps=eps)


def _native_batch_norm_legit(read: Emitter, *args: Any, **options: Any) -> Moved:
    raise Obstacle("has no running statistics", "train it with track_running_stats=True")


def _hardtanh(read: Emitter, x: Any, low: float = -1, high: float = 1) -> Moved:
    return _clamp(read, x, low, high)


def _clamp(read: Emitter, x: Any, min: Any = None, max: Any = None) -> Moved:
    if min == 0 and max is None:
        return read.emit("Activation", [x], kind="relu")
    if isinstance(min, (Constant, Moved)) or isinstance(max, (Constant, Moved)):
        raise Obstacle("clamps to tensors", "clamp to numbers")
    return read.emit("Activation", [x], kind="clamp", low=min, high=max)


def _clamp_min(read: Emitter, x: Any, low: float) -> Moved:
    return _clamp(read, x, low)


def _softmax(read: Emitter, x: Any, dim: int, *rest: Any) -> Moved:
    return _softmax_of(read, "softmax", x, dim)


def _log_softmax(read: Emitter, x: Any, dim: int, *rest: Any) -> Moved:
    return _softmax_of(read, "log_softmax", x, dim)


def _softmax_of(read: Emitter, kind: str, x: Any, dim: int) -> Moved:
    if dim % (x.places.ndim + 1) != 1:
        raise Obstacle(f"is a softmax over dimension {dim}", "take it over the classes")
    return read.emit("Activation", [x], kind=kind)


def _max_pool2d_with_indices(read: Emitter, x: Any, kernel: list[int], stride: Any = (),
                             padding: Any = 0, dilation: Any = 1,
                             ceil_mode: bool = False) -> Moved:
    x = _map_of(x, "a max pooling")
    return read.emit("MaxPool", [x], kernel_size=_pair(kernel), stride=_pair(stride or kernel),
                     padding=_pair(padding), dilation=_pair(dilation), ceil_mode=ceil_mode)


def _avg_pool2d(read: Emitter, x: Any, kernel: list[int], stride: Any = (), padding: Any = 0,
                ceil_mode: bool = False, count_include_pad: bool = True,
                divisor_override: int | None = None) -> Moved:
    x = _map_of(x, "an average pooling")
    return read.emit("AvgPool", [x], kernel_size=_pair(kernel), stride=_pair(stride or kernel),
                     padding=_pair(padding), ceil_mode=ceil_mode,
                     count_include_pad=count_include_pad, divisor_override=divisor_override)


def _adaptive_avg_pool2d(read: Emitter, x: Any, size: Sequence[int]) -> Moved:
    pixels = list(_map_of(x, "an average pooling").places.shape[1:])
    if any(have % want for have, want in zip(pixels, size, strict=True)):
        raise Obstacle(f"averages {shape_text(pixels)} pixels to {shape_text(size)}",
                       "average to 1 pixel, or to edges that divide those of the map")
    return _avg_pool2d(read, x, [have // want for have, want in zip(pixels, size, strict=True)])


def _index(read: Emitter, *args: Any) -> Moved:
    raise Obstacle("picks values by an index, as padding other than with zeros does",
                   "pad with zeros")


def _mean(read: Emitter, x: Any, dims: list[int] | None = None, keepdim: bool = False,
          dtype: Any = None) -> Moved:
    axes = x.places.ndim + 1
    chosen = sorted(d % axes for d in dims) if dims else []
    x = x if _kept(x) is not None else read.settle(x)
    plain = _kept(x)
    if plain is None or not chosen or min(chosen) < 2:
        raise Obstacle(f"is a mean over the dimensions {list(dims or [])}",
                       "take the mean over rows and columns")
    real = [2 + plain[at - 2] for at in chosen]
    full = Moved.of(x.source, x.shape)
    mean = read.emit("Mean", [full], axes=tuple(real))
    shape = [1 if at + 1 in chosen else size for at, size in enumerate(x.places.shape)]
    shape = [size for at, size in enumerate(shape) if keepdim or at + 1 not in chosen]
    return Moved(mean.source, mean.shape, mean.places.reshape(shape))


def _add(read: Emitter, x: Any, y: Any, alpha: float = 1) -> Moved:
    return _sum_of(read, x, y, alpha)


def _sub(read: Emitter, x: Any, y: Any, alpha: float = 1) -> Moved:
    return _sum_of(read, x, y, -alpha)


def _rsub(read: Emitter, x: Any, y: Any, alpha: float = 1) -> Moved:
    return _sum_of(read, y, x, -alpha)


def _neg(read: Emitter, x: Any) -> Moved:
    return _affine_of(read, x, -1, 0)


def _sum_of(read: Emitter, x: Any, y: Any, factor: float) -> Moved:
    """``x + factor * y``."""
    if isinstance(x, Moved) and isinstance(y, Moved):
        if x.places.shape != y.places.shape:
            raise Obstacle(f"adds tensors of the shapes {shape_text(x.places.shape)} and "
                           f"{shape_text(y.places.shape)}, which must be equal",
                           "give both the same channels and pixels")
        return read.emit("Add", [x, y if factor == 1 else _affine_of(read, y, factor, 0)])
    if isinstance(y, Moved):
        return _affine_of(read, y, factor, x)
    return _affine_of(read, x, 1, _times(y, factor))


def _mul(read: Emitter, x: Any, y: Any) -> Moved:
    if isinstance(x, Moved) and isinstance(y, Moved):
        if x.places.shape != y.places.shape:
            raise Obstacle(f"multiplies tensors of the shapes {shape_text(x.places.shape)} and "
                           f"{shape_text(y.places.shape)}")
        return read.emit("Mul", [x, y])
    value, factor = (x, y) if isinstance(x, Moved) else (y, x)
    return _affine_of(read, value, factor, 0)


def _div(read: Emitter, x: Any, y: Any, **options: Any) -> Moved:
    if not isinstance(x, Moved) or isinstance(y, Moved) or options.get("rounding_mode"):
        raise Obstacle("divides by a value that depends on the image")
    if not isinstance(y, Constant) and not y:
        raise Obstacle("divides by 0", "leave it out")
    return _affine_of(read, x, Constant(1 / y.value) if isinstance(y, Constant) else 1 / y, 0)


def _cat(read: Emitter, parts: Sequence[Any], dim: int = 0) -> Moved:
    if not all(isinstance(part, Moved) for part in parts):
        raise Obstacle("joins a value with constants")
    if dim % (parts[0].places.ndim + 1) != 1:
        raise Obstacle(f"joins values along dimension {dim}", "join them along the channels")
    return read.emit("Concat", list(parts)) if len(parts) > 1 else parts[0]


def _affine_of(read: Emitter, x: Any, scale: Any, shift: Any) -> Moved:
    """``x * scale + shift``, each a number or a constant of one value or one per channel."""
    if not isinstance(x, Moved) or not x.places.ndim:
        raise Obstacle("scales or moves values without channels", "keep the channels, or do so "
                       "before they are left out")
    channels, rank = x.places.shape[0], x.places.ndim
    values = {"scale": _per_channel(scale, channels, rank),
              "shift": _per_channel(shift, channels, rank)}
    return read.emit("Affine", [x], values)


def _activation(kind: str) -> Callable[..., Moved]:
    return lambda read, x, **options: read.emit("Activation", [x], kind=kind)


#: By the name of an operator, without its overload: what it is, given what reads it and its own
#: arguments, values of the image as :class:`Moved` and tensors as :class:`Constant`.
ATEN: dict[str, Callable[..., Moved]] = {
    "convolution": _convolution, "gated_conv2d": _gated_conv2d, "addmm": _addmm, "mm": _mm,
    "linear": _linear, "_native_batch_norm_legit_no_training": _native_batch_norm_legit_no_training,
    "_native_batch_norm_legit": _native_batch_norm_legit,
    "native_batch_norm": _native_batch_norm_legit, "hardtanh": _hardtanh, "clamp": _clamp,
    "clamp_min": _clamp_min, "_softmax": _softmax, "_log_softmax": _log_softmax,
    "max_pool2d_with_indices": _max_pool2d_with_indices, "avg_pool2d": _avg_pool2d,
    "_adaptive_avg_pool2d": _adaptive_avg_pool2d, "index": _index, "mean": _mean,
    "add": _add, "sub": _sub, "rsub": _rsub, "neg": _neg, "mul": _mul, "div": _div, "cat": _cat,
    **{kind: _activation(kind) for kind in ("relu", "sigmoid", "silu", "hardswish", "hardsigmoid",
                                            "gelu", "tanh")},
}
