"""The integer layer, as data that golden model, compiler and cost model share."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["IMAGE", "KERNELS", "MOST_LIMIT", "MOST_PADDING", "STRIDES", "Activations",
           "QuantizedLayer", "layer_macs", "reorder", "shape_of"]

#: Index of the image, where the index of a layer says whose output is meant.
IMAGE = -1

#: Edges of a kernel, and strides, that a layer may have; padding above and on the left, at most.
KERNELS = (1, 3, 5, 7)
STRIDES = (1, 2)
MOST_PADDING = 3

#: Largest limit of open gates: 16 bits of a layer descriptor.
MOST_LIMIT = (1 << 16) - 1


@dataclass(frozen=True)
class QuantizedLayer:
    """One integer layer: convolution, gate, requantization and max pooling, in this order.

    Grouped and depthwise convolutions, average poolings and copies are convolutions whose other
    weights are zero; ``fan_in`` tells what they compute.

    A requantized value is ``clamp((v + r * mult_residual + 2^(shift-1)) >> shift)``, where
    ``v = (psum + bias) * mult``, at least 0 if ``relu_first``, and ``r`` is the residual operand:
    output channel ``residual_offset + c`` at (y, x) takes channel c of the residual at
    ``(y * residual_stride, x * residual_stride)``; channels without one take 0.

    Parameters
    ----------
    name : str
        Module path in the PyTorch model.
    weight : int8 (Co, Ci, K, K)
        K is one of :data:`KERNELS`.
    base : bool (Co, Ci)
        Input channels that belong to the base path of each output channel; all true if ungated.
    threshold : int64 (Co,) or None
        A gate opens iff the base psum is greater. None for an ungated layer. If channels share
        gates: int64 (gates,), compared with the psum of the gate's score.
    bias, mult : int64 (Co, 2)
        Requantization for closed (0) and open (1) pixels; an ungated layer uses ``open``.
    shift : int64 (Co,)
    in_shape : (Ci, H, W)
        Input of one image.
    padding : int or (top, bottom, left, right)
        Zeros around the input; less than K, and at most :data:`MOST_PADDING` above and on the
        left.
    stride : int
        One of :data:`STRIDES`.
    relu : bool
        Outputs clamp at zero.
    pool : int
        Edge and stride of the max pooling after the layer; 1 for none. Remainders are dropped.
    reduce : bool
        Sum all pixels' psums into one before requantization: average pooling folded into a
        linear layer, whose kernel is 1x1.
    in_scale, out_scale : float
        Real value of one step of the input and the output.
    source : int, tuple of int or None
        Index of the layer whose output is the input, or :data:`IMAGE`; None for the layer before;
        several for their outputs side by side, one's channels after the other's.
    residual : int or None
        Index of the layer whose output is added, or :data:`IMAGE`; None to add nothing.
    mult_residual : int64 (Co,) or None
        Factor of the residual operand: a multiple of ``2^RESIDUAL_SHIFT``, whose quotient has the
        width of the multiplier. None exactly if ``residual`` is.
    residual_stride : int
        One of :data:`STRIDES`.
    residual_offset : int
        Output channel that takes channel 0 of the residual; a multiple of R.
    relu_first : bool
        ReLU before the residual is added.
    limit : int
        At most so many open gates of a channel close again for an image in which there are no
        more (tau): its map keeps the base psums, and needs no conditional weights. 0 for none.
    score : int8 (gates, Ci, K, K) or None
        Where channels share gates: weights of a score per gate, which a gate compares with its
        threshold instead of a base psum. Zero outside :attr:`score_base`. ``threshold`` is then
        (gates,), and ``limit`` counts the gates of a map once.
    gate : int64 (Co,) or None
        Index of the gate of each channel; given exactly if ``score`` is.
    fan_in : int or None
        Weights that an output channel of the model has, where that is fewer than there are here:
        the others are zero. Counts as multiply-accumulates of an output.
    """

    name: str
    weight: NDArray[np.int8]
    base: NDArray[np.bool_]
    threshold: NDArray[np.int64] | None
    bias: NDArray[np.int64]
    mult: NDArray[np.int64]
    shift: NDArray[np.int64]
    in_shape: tuple[int, int, int]
    padding: int | tuple[int, int, int, int] = 0
    stride: int = 1
    relu: bool = True
    pool: int = 1
    reduce: bool = False
    in_scale: float = 1.0
    out_scale: float = 1.0
    source: int | tuple[int, ...] | None = None
    residual: int | None = None
    mult_residual: NDArray[np.int64] | None = None
    residual_stride: int = 1
    residual_offset: int = 0
    relu_first: bool = False
    limit: int = 0
    score: NDArray[np.int8] | None = None
    gate: NDArray[np.int64] | None = None
    fan_in: int | None = None

    @cached_property
    def score_base(self) -> NDArray[np.bool_]:
        """Inputs (gates, Ci) that each score reads: those of the base paths of its channels."""
        assert self.score is not None and self.gate is not None
        return np.stack([self.base[self.gate == g].any(axis=0) for g in range(len(self.score))])

    @property
    def gated(self) -> bool:
        return self.threshold is not None

    @property
    def kernel(self) -> int:
        return self.weight.shape[2]

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Rows and columns of padding: (top, bottom, left, right)."""
        return self.padding if isinstance(self.padding, tuple) else (self.padding,) * 4

    @property
    def conv_shape(self) -> tuple[int, int, int]:
        """(Co, Ho, Wo) of the convolution, before summing or pooling pixels."""
        _, height, width = self.in_shape
        top, bottom, left, right = self.pads
        return (self.weight.shape[0], (height + top + bottom - self.kernel) // self.stride + 1,
                (width + left + right - self.kernel) // self.stride + 1)

    @property
    def decision_shape(self) -> tuple[int, int, int]:
        """(Co, H, W) of psums, decisions and requantized values, before max pooling."""
        channels, height, width = self.conv_shape
        return (channels, 1, 1) if self.reduce else (channels, height, width)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(Co, H, W) of the layer's output."""
        channels, height, width = self.decision_shape
        return channels, height // self.pool, width // self.pool

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image with every gate open."""
        channels, height, width = self.conv_shape
        return channels * height * width * (self.fan_in or self.weight[0].size)

    @cached_property
    def base_macs(self) -> int:
        """Multiply-accumulates of one image with every gate closed, those of each score once."""
        if not self.gated:
            return self.macs
        _, height, width = self.conv_shape
        scores = 0 if self.score is None else int(self.score_base.sum())
        return height * width * (int(self.base.sum()) + scores) * self.kernel**2


@dataclass(frozen=True)
class Activations:
    """What one layer computes for a batch of N images.

    Parameters
    ----------
    output : int8 (N, Co, H, W)
        After max pooling.
    psum : int64 (N, Co, H, W)
        Final partial sums, before requantization and pooling.
    decision : bool (N, Co, H, W)
        True where the gate opened; all true for an ungated layer.
    score : int64 (N, gates, H, W) or None
        Partial sums of the scores, where channels share gates.
    """

    output: NDArray[np.int8]
    psum: NDArray[np.int64]
    decision: NDArray[np.bool_]
    score: NDArray[np.int64] | None = None


def layer_macs(layer: QuantizedLayer, decision: NDArray[np.bool_]) -> int:
    """Multiply-accumulates of a batch as decided (N, Co, H, W), without any padding of channels."""
    _, height, width = layer.conv_shape
    windows = height * width // (decision.shape[2] * decision.shape[3])
    opened = decision.sum(axis=(0, 2, 3)) * windows
    conditional = (~layer.base).sum(axis=1) * layer.kernel**2
    return len(decision) * layer.base_macs + int(opened @ conditional)


def reorder(layer: QuantizedLayer, order: NDArray[np.int64]) -> QuantizedLayer:
    """The layer with output channel c taken from channel ``order[c]``; its residual stays."""
    names = ["weight", "base", "bias", "mult", "shift"]
    if layer.threshold is not None:
        names.append("threshold" if layer.gate is None else "gate")
    return replace(layer, **{name: getattr(layer, name)[order] for name in names})


def shape_of(shape: tuple[int, ...]) -> str:
    """A shape as people read it, such as 3x32x32."""
    return "x".join(map(str, shape))
