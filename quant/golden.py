"""Integer golden model of one layer, written from the numeric contract (architecture, section 2).

Pure functions of integers. What a whole network computes is :meth:`QuantizedNetwork.run`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.machine.config import FormatConfig

from .gate import close_idle, decide
from .layer import Activations, QuantizedLayer
from .requantize import requantize

__all__ = ["base_psum", "convolve", "max_pool", "output_limits", "psum_bound",
           "residual_operand", "run_layer", "score_bound", "score_psum"]

#: Integers of at most this magnitude, and their sums in any order that stays below it, are exact
#: in these types, whose matrix products are fast.
_EXACT: tuple[tuple[int, type[np.floating[Any]]], ...] = ((1 << 24, np.float32),
                                                          (1 << 53, np.float64))

#: Bytes of unfolded windows at a time, about a processor's cache.
_CHUNK = 1 << 22


def convolve(x: NDArray[np.int8], weight: NDArray[np.int8],
             padding: int | tuple[int, int, int, int] = 0, stride: int = 1) -> NDArray[np.int64]:
    """Exact cross-correlation with zero padding.

    Parameters
    ----------
    x : int8 (N, Ci, H, W)
    weight : int8 (Co, Ci, K, K)
    padding : int or (top, bottom, left, right)
    stride : int

    Returns
    -------
    int64 (N, Co, Ho, Wo)
        ``Ho = (H + top + bottom - K) // stride + 1``, likewise ``Wo``.
    """
    pads = padding if isinstance(padding, tuple) else (padding,) * 4
    outputs, channels, kernel, _ = weight.shape
    bound = int(np.abs(weight.astype(np.int64)).sum(axis=(1, 2, 3)).max()) << 7
    dtype = next(dtype for largest, dtype in _EXACT if bound <= largest)
    around = pads[:2], pads[2:]
    height, width = ((edge + sum(more) - kernel) // stride + 1
                     for edge, more in zip(x.shape[2:], around, strict=True))
    rows = weight.reshape(outputs, -1).astype(dtype)
    step = max(1, _CHUNK // max(1, rows[0].nbytes * height * width))
    sums = np.empty((len(x), outputs, height * width), np.int64)
    for start in range(0, len(x), step):
        part = x[start:start + step]
        padded = np.pad(part, ((0, 0), (0, 0), *around))
        columns = np.empty((len(part), channels, kernel, kernel, height, width), dtype)
        for i, j in np.ndindex(kernel, kernel):
            columns[:, :, i, j] = padded[:, :, i:i + (height - 1) * stride + 1:stride,
                                         j:j + (width - 1) * stride + 1:stride]
        sums[start:start + step] = rows @ columns.reshape(len(part), rows.shape[1], height * width)
    return sums.reshape(len(x), outputs, height, width)


def max_pool(x: NDArray[np.int8], edge: int) -> NDArray[np.int8]:
    """Maxima of disjoint ``edge`` x ``edge`` squares of (N, C, H, W); remainders are dropped."""
    count, channels, height, width = x.shape
    rows, columns = height // edge, width // edge
    squares = x[:, :, :rows * edge, :columns * edge]
    return squares.reshape(count, channels, rows, edge, columns, edge).max(axis=(3, 5))


def output_limits(layer: QuantizedLayer, formats: FormatConfig) -> tuple[int, int]:
    """Smallest and largest output of a layer: those of the format, from zero after a ReLU."""
    low, high = formats.limits(formats.activation)
    return (0 if layer.relu else low), high


def psum_bound(layer: QuantizedLayer, formats: FormatConfig) -> NDArray[np.int64]:
    """Magnitude (Co,) that no partial sum of a layer exceeds, whatever the input and the order."""
    _, height, width = layer.conv_shape
    return _bound(layer.weight, formats) * (height * width if layer.reduce else 1)


def score_bound(layer: QuantizedLayer, formats: FormatConfig) -> NDArray[np.int64]:
    """The same (gates,) of the scores of a layer whose channels share gates."""
    assert layer.score is not None
    return _bound(layer.score, formats)


def _bound(weight: NDArray[np.int8], formats: FormatConfig) -> NDArray[np.int64]:
    largest = -formats.limits(formats.activation)[0]
    return np.abs(weight.astype(np.int64)).sum(axis=(1, 2, 3)) * largest


def base_psum(layer: QuantizedLayer, x: NDArray[np.int8]) -> NDArray[np.int64]:
    """Partial sums (N, Co, H, W) of the base path: what the gate of a layer sees."""
    return _by_inputs(layer, x, layer.weight, layer.base)


def score_psum(layer: QuantizedLayer, x: NDArray[np.int8]) -> NDArray[np.int64]:
    """Partial sums (N, gates, H, W) of the scores that shared gates see."""
    assert layer.score is not None
    return _psum(layer, x, layer.score)


def residual_operand(layer: QuantizedLayer, residual: NDArray[np.int8]) -> NDArray[np.int8]:
    """What a layer adds to each of its outputs before pooling.

    Parameters
    ----------
    layer : QuantizedLayer
    residual : int8 (N, C, H, W)
        Output of layer ``layer.residual``.

    Returns
    -------
    int8 (N, Co, Ho, Wo)
        Every ``residual_stride``-th pixel, from channel ``residual_offset`` on; 0 elsewhere.
    """
    sampled = residual[:, :, ::layer.residual_stride, ::layer.residual_stride]
    operand = np.zeros((len(residual), *layer.decision_shape), np.int8)
    assert sampled.shape[2:] == operand.shape[2:], (sampled.shape, operand.shape)
    operand[:, layer.residual_offset:layer.residual_offset + sampled.shape[1]] = sampled
    return operand


def run_layer(layer: QuantizedLayer, x: NDArray[np.int8], formats: FormatConfig = FormatConfig(),
              residual: NDArray[np.int8] | None = None) -> Activations:
    """All that one layer computes: convolution, gate, requantization and max pooling.

    Parameters
    ----------
    layer : QuantizedLayer
    x : int8 (N, Ci, H, W)
        ``x.shape[1:]`` is ``layer.in_shape``.
    formats : FormatConfig
        Its activation width sets the clamp.
    residual : int8 (N, C, H, W) or None
        Output of layer ``layer.residual``, if there is one.

    Returns
    -------
    Activations
    """
    assert x.dtype == np.int8 and x.shape[1:] == layer.in_shape, (x.dtype, x.shape)
    psum, score = _whole_psum(layer, x), None
    decision = np.ones(psum.shape, bool)
    if layer.threshold is not None:
        base = compared = base_psum(layer, x)
        if layer.score is not None:
            compared = score = score_psum(layer, x)
        decision = close_idle(decide(compared, layer.threshold[:, None, None]), layer.limit)
        decision = decision if layer.gate is None else decision[:, layer.gate]
        psum = np.where(decision, psum, base)
    bias, mult = (np.where(decision, values[:, 1, None, None], values[:, 0, None, None])
                  for values in (layer.bias, layer.mult))
    low, high = output_limits(layer, formats)
    added, factor = np.zeros((), np.int8), np.zeros((), np.int64)
    if layer.residual is not None:
        assert residual is not None and layer.mult_residual is not None
        added, factor = residual_operand(layer, residual), layer.mult_residual[:, None, None]
    output = requantize(psum, bias, mult, layer.shift[:, None, None], low, high, added, factor,
                        layer.relu_first).astype(np.int8)
    return Activations(max_pool(output, layer.pool), psum, decision, score)


def _whole_psum(layer: QuantizedLayer, x: NDArray[np.int8]) -> NDArray[np.int64]:
    """Partial sums (N, Co, H, W) of all inputs; those of zero weights are left out where they are
    most, as in depthwise convolutions."""
    if layer.fan_in is None or 2 * layer.fan_in > layer.weight[0].size:
        return _psum(layer, x, layer.weight)
    return _by_inputs(layer, x, layer.weight, np.asarray(layer.weight.any(axis=(2, 3))))


def _by_inputs(layer: QuantizedLayer, x: NDArray[np.int8], weight: NDArray[np.int8],
               read: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Partial sums (N, Co, H, W) of the inputs (Co, Ci) that each output channel reads."""
    sums = np.zeros((len(x), *layer.decision_shape), np.int64)
    channels, pattern = np.unique(read, axis=0, return_inverse=True)
    for number, members in enumerate(channels):
        if members.any():
            outputs = pattern.ravel() == number
            sums[:, outputs] = _psum(layer, x[:, members], weight[outputs][:, members])
    return sums


def _psum(layer: QuantizedLayer, x: NDArray[np.int8],
          weight: NDArray[np.int8]) -> NDArray[np.int64]:
    """Convolution with ``weight`` in place of the layer's, summed over pixels if it reduces."""
    psum = convolve(x, weight, layer.padding, layer.stride)
    return psum.sum(axis=(2, 3), keepdims=True) if layer.reduce else psum
