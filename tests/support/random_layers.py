"""Random small networks for hardware tests, with both outcomes of every gate by construction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from hwgate.machine.config import RESIDUAL_SHIFT, TAPS, AcceleratorConfig
from hwgate.plan.layer import stored_layer
from hwgate.quant.gate import decide
from hwgate.quant.golden import base_psum, psum_bound, run_layer
from hwgate.quant.joined import joined, side_by_side
from hwgate.quant.layer import IMAGE, MOST_PADDING, STRIDES, QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from hwgate.quant.requantize import SHIFTS

__all__ = ["DENSITIES", "Features", "Fits", "Limits", "fits", "random_images", "random_network"]

#: Whether a layer, with a residual of this shape (C, H, W) or none, can run on an accelerator.
Fits = Callable[[QuantizedLayer, tuple[int, int, int] | None, AcceleratorConfig], bool]

#: How the gates of a layer decide: all closed; all open; some of each in every channel, with
#: ties; thresholds at the limits of their 32 bits; one of these drawn for every channel.
DENSITIES = ("closed", "open", "mixed", "extremes", "any")

_INT32 = (-(1 << 31), (1 << 31) - 1)
_CALIBRATION = 4

#: Requantization of a layer with a residual shifts by no more, so that the residual counts.
_RESIDUAL_SHIFTS = 22


@dataclass(frozen=True, kw_only=True)
class Features:
    """What layers of a random network may have beyond 3x3 kernels of stride 1 in a chain.

    Parameters
    ----------
    stride : bool
        Every stride that a layer may have.
    pointwise : bool
        1x1 kernels that do not sum their pixels.
    kernels : tuple of int
        Larger kernels: 5, 7 or both.
    residual : bool
        Residuals: from any layer before or the image, strided, with an offset.
    relu_first : bool
        ReLU before a residual is added.
    branches : bool
        Layers whose input is not the layer before.
    asymmetric : bool
        Padding that differs among the four sides, up to one less than the kernel.
    grouped : bool
        Grouped and depthwise convolutions.
    zeros : bool
        Weights of whole channel groups that are zero, all of a channel or of a path among them.
    joined : bool
        Layers whose input are several maps side by side.
    tau : bool
        Gated layers that close channels of few open gates, some of them with as many as the limit.
    """

    stride: bool = False
    pointwise: bool = False
    kernels: tuple[int, ...] = ()
    residual: bool = False
    relu_first: bool = False
    branches: bool = False
    asymmetric: bool = False
    grouped: bool = False
    zeros: bool = False
    joined: bool = False
    tau: bool = False

    @classmethod
    def every(cls) -> "Features":
        """All of them."""
        return cls(stride=True, pointwise=True, kernels=(5, 7), residual=True, relu_first=True,
                   branches=True, asymmetric=True, grouped=True, zeros=True, joined=True, tau=True)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Extent of random networks.

    Parameters
    ----------
    layers, size, channels : int
        Most layers, rows or columns of the input, channels of any layer.
    smallest : int
        Fewest rows and columns of the input and of every output, but those of a layer that sums
        its pixels: what leaves room for many layers.
    step : int
        Rows and columns of the input are multiples of it; it divides ``size``.
    """

    layers: int = 3
    size: int = 10
    channels: int = 24
    smallest: int = 1
    step: int = 1


def fits(layer: QuantizedLayer, residual: tuple[int, int, int] | None,
         config: AcceleratorConfig) -> bool:
    """Whether one image of a layer fits the buffers of ``config`` without tiling.

    A residual takes the place of the outputs it is added to: whole channel groups of them.
    """
    channels, height, width = layer.in_shape
    out_channels, out_height, out_width = layer.conv_shape
    if residual is not None:
        added = ceil(residual[0] / config.channels) * config.channels
        out_channels = max(out_channels, layer.residual_offset + added)
    if min(layer.out_shape) < 1 or min(layer.conv_shape) < 1:
        return False
    buffers, groups = config.buffers, ceil(channels / config.channels)
    passes = ceil(groups / TAPS) if layer.kernel == 1 else groups
    if layer.kernel == 1:
        words = height * width * passes
    else:
        top, bottom, left, right = layer.pads
        rows, columns = height + top + bottom, width + left + right
        words = ceil(rows / 3) * ceil(columns / 3) * groups
    pixels = out_height * out_width
    out_words = ceil(out_channels / config.lanes) * ceil(pixels / config.beat_pixels)
    return (words <= buffers.window_words and pixels <= buffers.pixels
            and out_words <= buffers.output_words and passes <= buffers.passes)


def random_network(rng: np.random.Generator, config: AcceleratorConfig, *,
                   layers: int | None = None, gated: bool | None = None,
                   density: str | None = None, reduce: bool | None = None,
                   limits: Limits = Limits(), features: Features = Features(),
                   fits: Fits = fits) -> QuantizedNetwork:
    """A random network that the accelerator can run.

    Layers are 3x3 convolutions of random size, padding, pooling and ReLU, and what ``features``
    allow; base paths are whole channel groups, the first ones, a block diagonal, or any.
    Requantization uses the range of the outputs, with some factors negative, some channels at the
    limits of their fields.

    Parameters
    ----------
    rng : numpy Generator
    config : AcceleratorConfig
    layers : int, optional
        Number of layers; fewer where the maps become too small for another one.
    gated : bool, optional
        Whether layers are gated; one with a single channel group has no conditional path and
        never is.
    density : str, optional
        One of :data:`DENSITIES`, for all gated layers.
    reduce : bool, optional
        Whether the last layer is a 1x1 layer that sums its pixels.
    limits : Limits
    features : Features
    fits : callable
        Which layers may be drawn; those that fit the buffers whole by default.

    Notes
    -----
    What is not given is drawn, afresh for every layer.
    """
    count = int(rng.integers(1, limits.layers + 1)) if layers is None else layers
    last_reduces = bool(rng.random() < 0.4) if reduce is None else reduce
    channels = _size(rng, limits.channels)
    if gated and channels <= config.channels:
        channels = min(limits.channels, channels + config.channels)
    edges = (int(rng.integers(limits.smallest, limits.size + 1)) for _ in range(2))
    shape = (channels, *(-(-edge // limits.step) * limits.step for edge in edges))
    maps = [_images(rng, config, (_CALIBRATION, *shape))]  # the image, then each layer's output
    made: list[QuantizedLayer] = []
    for index in range(count):
        final = last_reduces and index == count - 1
        sources = (index - 1,)
        if features.joined and rng.random() < 0.3:
            sources = _beside(rng, maps, made)
        elif features.branches and rng.random() < 0.25:
            sources = (int(rng.integers(IMAGE, index)),)
        x = joined([maps[source + 1] for source in sources])
        parts = [maps[source + 1].shape[1] for source in sources]

        def run(layer: QuantizedLayer, residual: tuple[int, int, int] | None,
                config: AcceleratorConfig, parts: list[int] = parts) -> bool:
            return fits(stored_layer(layer, parts, config), residual, config)

        kinds = replace(features, grouped=False) if gated else features
        layer = _shape_layer(rng, config, f"layer{index}", x.shape[1:], final, limits, kinds, run)
        if layer is None:  # the maps have become too small for another layer
            break
        layer = replace(layer, source=None if sources == (index - 1,) else sources)
        if features.residual and not final and rng.random() < 0.8:
            layer = _add_residual(rng, config, layer, maps, features, run)
        gates = bool(rng.random() < 0.75) if gated is None else gated
        if gates and not layer.reduce and layer.fan_in is None:
            layer = _gate(rng, config, layer, x, density or str(rng.choice(DENSITIES)), parts)
            if layer.gated and features.tau and rng.random() < 0.5:
                limited = replace(layer, limit=_limit(rng, layer, x))
                operand = None if layer.residual is None else maps[layer.residual + 1].shape[1:]
                layer = limited if run(limited, operand, config) else layer
        layer = _scale(rng, config, layer, x)
        made.append(layer)
        residual = None if layer.residual is None else maps[layer.residual + 1]
        maps.append(run_layer(layer, x, config.formats, residual).output)
    if not made:
        return random_network(rng, config, layers=layers, gated=gated, density=density,
                              reduce=reduce, limits=limits, features=features, fits=fits)
    return QuantizedNetwork(config, tuple(made))


def _beside(rng: np.random.Generator, maps: Sequence[NDArray[np.int8]],
            made: Sequence[QuantizedLayer]) -> tuple[int, ...]:
    """Maps that the next layer can take side by side; the last one alone, if there are no others.
    """
    last = len(maps) - 2
    same = [n - 1 for n, values in enumerate(maps) if values.shape[2:] == maps[-1].shape[2:]]
    chosen = rng.permutation(same)[:int(rng.integers(2, 4))].tolist()
    runs = [(n - 1,) if layer.source is None else layer.source for n, layer in enumerate(made)]
    if len(chosen) > 1 and side_by_side([*runs, chosen])[1] is None:
        return tuple(chosen)
    return (last,)


def random_images(rng: np.random.Generator, network: QuantizedNetwork, n: int) -> NDArray[np.int8]:
    """``n`` random inputs of a random network: int8 over the whole range, a third zeros."""
    return _images(rng, network.config, (n, *network.layers[0].in_shape))


def _size(rng: np.random.Generator, largest: int) -> int:
    return int(rng.integers(1, largest + 1))


def _images(rng: np.random.Generator, config: AcceleratorConfig,
            shape: tuple[int, ...]) -> NDArray[np.int8]:
    low, high = config.formats.limits(config.formats.activation)
    values = rng.integers(low, high + 1, shape) * (rng.random(shape) < 2 / 3)
    return values.astype(np.int8)


def _shape_layer(rng: np.random.Generator, config: AcceleratorConfig, name: str,
                 in_shape: tuple[int, ...], reduce: bool, limits: Limits,
                 features: Features, fits: Fits) -> QuantizedLayer | None:
    """An ungated layer that fits, with random weights and trivial requantization, or None."""
    channels, height, width = in_shape
    kernels = [3, 3, *[1] * features.pointwise, *features.kernels]
    for _ in range(100):
        outputs = _size(rng, limits.channels)
        kernel = 1 if reduce else int(rng.choice(kernels))
        same = features.residual and rng.random() < 0.7  # for a residual to fit
        padding: int | tuple[int, ...] = kernel // 2 if same else int(rng.integers(kernel // 2 + 1))
        if features.asymmetric and not reduce and rng.random() < 0.25:
            padding = _uneven(rng, kernel, same)
        stride = int(rng.choice(STRIDES)) if features.stride and not reduce else 1
        pool = 1 if reduce else int(rng.choice([1, 1, 2, 3]))
        groups, fan_in = 1, None
        if features.grouped and not reduce and rng.random() < 0.2:
            groups = int(rng.choice([n for n in range(1, channels + 1) if channels % n == 0]))
            outputs = groups * max(1, outputs // groups)
            fan_in = channels // groups * kernel**2
        layer = QuantizedLayer(
            name, np.ones((outputs, channels, kernel, kernel), np.int8),
            np.ones((outputs, channels), bool), None,
            np.zeros((outputs, 2), np.int64), np.ones((outputs, 2), np.int64),
            np.ones(outputs, np.int64), (channels, height, width), padding=padding, stride=stride,
            relu=not reduce and bool(rng.random() < 0.7), pool=pool, reduce=reduce, fan_in=fan_in)
        small = min(layer.conv_shape) < 1 or min(layer.out_shape[1:]) < limits.smallest
        if (reduce or not small) and fits(layer, None, config):
            weight = _weights(rng, config, layer)
            own = np.arange(channels) * groups // channels
            weight[np.arange(outputs)[:, None] * groups // outputs != own] = 0
            if features.zeros and rng.random() < 0.3:
                weight = _thin(rng, config, weight)
            return replace(layer, weight=weight)
    return None


def _uneven(rng: np.random.Generator, kernel: int, same: bool) -> tuple[int, ...]:
    """Padding of the four sides; as much as keeps the map's size, if it is to stay the same."""
    sides = []
    for _ in range(2):
        before = int(rng.integers(min(kernel - 1, MOST_PADDING) + 1))
        sides += [before, kernel - 1 - before if same else int(rng.integers(kernel))]
    return tuple(sides)


def _thin(rng: np.random.Generator, config: AcceleratorConfig,
          weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weights of which whole channel groups are zero: some of each output, or nearly all of some.
    """
    outputs, channels, kernel, _ = weight.shape
    size = config.channels * (TAPS if kernel == 1 else 1)
    keeps = rng.choice([0.05, 0.5, 1.0], (outputs, 1))
    groups = rng.random((outputs, ceil(channels / size))) < keeps
    return weight * np.repeat(groups, size, axis=1)[:, :channels, None, None]


def _add_residual(rng: np.random.Generator, config: AcceleratorConfig, layer: QuantizedLayer,
                  maps: Sequence[NDArray[np.int8]], features: Features,
                  fits: Fits) -> QuantizedLayer:
    """The layer with a residual among ``maps``, the image and the outputs so far, if one fits."""
    outputs, *pixels = layer.decision_shape
    strides = STRIDES if features.stride else (1,)
    fitting = [(index, stride) for index, values in enumerate(maps) for stride in strides
               if values.shape[1] <= outputs
               and [ceil(edge / stride) for edge in values.shape[2:]] == pixels]
    if not fitting:
        return layer
    index, stride = fitting[int(rng.integers(len(fitting)))]
    shape = maps[index].shape[1:]
    room = (outputs - shape[0]) // config.channels
    added = replace(
        layer, residual=index + IMAGE, residual_stride=stride,
        residual_offset=int(rng.integers(room + 1)) * config.channels,
        mult_residual=np.full(outputs, 1 << RESIDUAL_SHIFT, np.int64),
        relu_first=features.relu_first and bool(rng.random() < 0.4))
    return added if fits(added, (shape[0], shape[1], shape[2]), config) else layer


def _weights(rng: np.random.Generator, config: AcceleratorConfig,
             layer: QuantizedLayer) -> NDArray[np.int8]:
    """Weights over the whole range, or over as much of it as the accumulator can take."""
    room = (1 << (config.formats.accumulator - 1)) - 1
    ones = int(psum_bound(layer, config.formats).max())
    largest = min(config.formats.limits(config.formats.weight)[1], room // ones)
    return rng.integers(-largest, largest + 1, layer.weight.shape).astype(np.int8)


def _gate(rng: np.random.Generator, config: AcceleratorConfig, layer: QuantizedLayer,
          x: NDArray[np.int8], density: str, parts: Sequence[int]) -> QuantizedLayer:
    """The layer with a base path and thresholds, if it has two channel groups or more; ``parts``
    are the channels of the maps that it takes."""
    outputs = len(layer.base)
    size = config.channels * (TAPS if layer.kernel == 1 else 1)  # what one pass consumes
    room = [ceil(part / config.channels) * config.channels for part in parts]
    starts = np.repeat(np.cumsum([0, *room[:-1]]), parts)
    group = (starts + np.concatenate([np.arange(part) for part in parts])) // size
    groups = int(group[-1]) + 1
    if groups < 2:
        return layer
    kind, parts = rng.choice(["first", "diagonal", "any"]), min(int(rng.choice([2, 4])), groups)
    slices = np.array_split(np.arange(groups), parts)
    base_groups = np.zeros((outputs, groups), bool)
    for output in range(outputs):
        if kind == "any":
            chosen = rng.permutation(groups)[:int(rng.integers(1, groups))]
        else:
            chosen = slices[0 if kind == "first" else output * parts // outputs]
        base_groups[output, chosen] = True
    base = base_groups[:, group]
    layer = replace(layer, base=base, threshold=np.zeros(outputs, np.int64))
    bound = psum_bound(replace(layer, weight=layer.weight * base[:, :, None, None]), config.formats)
    return replace(layer, threshold=_thresholds(rng, base_psum(layer, x), bound, density))


def _thresholds(rng: np.random.Generator, psums: NDArray[np.int64], bound: NDArray[np.int64],
                density: str) -> NDArray[np.int64]:
    """One threshold per channel of (N, Co, H, W) base psums, whose magnitude has a bound (Co,)."""
    out = np.zeros(psums.shape[1], np.int64)
    for channel in range(len(out)):
        values = np.sort(psums[:, channel].ravel())
        kind = str(rng.choice(DENSITIES[:-1])) if density == "any" else density
        out[channel] = {
            "closed": bound[channel] if rng.random() < 0.5 else _INT32[1],
            "open": -bound[channel] - 1 if rng.random() < 0.5 else _INT32[0],
            "mixed": values[int(rng.integers(len(values)))],
            "extremes": rng.choice([_INT32[0], _INT32[0] + 1, _INT32[1] - 1, _INT32[1], -1, 0]),
        }[kind]
    return out


def _limit(rng: np.random.Generator, layer: QuantizedLayer, x: NDArray[np.int8]) -> int:
    """As many gates as some channel opens on some image, if any opens a few of them; else one, if
    the map has more."""
    assert layer.threshold is not None
    counts = decide(base_psum(layer, x), layer.threshold[:, None, None]).sum(axis=(2, 3))
    pixels = int(np.prod(layer.conv_shape[1:]))
    some = counts[(counts > 0) & (counts < pixels)]
    return int(rng.choice(some)) if some.size else min(1, pixels - 1)


def _scale(rng: np.random.Generator, config: AcceleratorConfig, layer: QuantizedLayer,
           x: NDArray[np.int8]) -> QuantizedLayer:
    """The layer with requantization that spreads outputs over their range."""
    outputs = layer.weight.shape[0]
    psums = run_layer(replace(layer, residual=None), x, config.formats).psum
    spread = max(psums.std(), 1.0)
    low, high = config.formats.limits(config.formats.multiplier)
    mult = rng.integers(high // 2, high + 1, (outputs, 2)) * rng.choice([1, 1, 1, -1], (outputs, 2))
    steps = config.formats.limits(config.formats.activation)[1] / 2
    places = np.log2(spread * high / steps) + rng.uniform(-1, 1, outputs)
    shift = np.clip(np.rint(places), *SHIFTS).astype(np.int64)
    bias = np.rint(rng.normal(0, spread, (outputs, 2))).astype(np.int64)
    factor = layer.mult_residual
    if factor is not None:
        drop = np.maximum(shift - _RESIDUAL_SHIFTS, 0)
        mult, shift = mult >> drop[:, None], shift - drop
        factor = rng.integers(-(1 << 9), 1 << 9, outputs) << shift >> 8 + RESIDUAL_SHIFT
    extreme = np.flatnonzero(rng.random(outputs) < 0.1)
    mult[extreme] = rng.choice([low, -1, 0, 1, high], (len(extreme), 2))
    bias[extreme] = rng.choice([_INT32[0], -1, 0, 1, _INT32[1]], (len(extreme), 2))
    shift[extreme] = rng.choice([SHIFTS[0], 16, SHIFTS[1]], len(extreme))
    if factor is not None:
        factor[extreme] = rng.choice([low, -1, 0, 1, high], len(extreme))
        factor = np.clip(factor, low, high) << RESIDUAL_SHIFT
    return replace(layer, mult=mult.astype(np.int64), bias=bias, shift=shift, mult_residual=factor)
