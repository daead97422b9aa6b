"""Integer networks: the representation that golden model, compiler and cost model share."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.config import RESIDUAL_SHIFT, AcceleratorConfig
from hwgate.errors import CompileError, UserError

__all__ = ["IMAGE", "KERNELS", "MOST_LIMIT", "STRIDES", "Activations", "QuantizedLayer",
           "QuantizedNetwork", "check_images", "layer_macs", "reorder", "shape_of"]

#: Index of the image, where the index of a layer says whose output is meant.
IMAGE = -1

#: Edges of a kernel, and strides, that a layer may have. Its padding is at most half the kernel.
KERNELS = (1, 3, 5, 7)
STRIDES = (1, 2)

#: Largest limit of open gates: 16 bits of a layer descriptor.
MOST_LIMIT = (1 << 16) - 1

#: Images whose activations are held at a time where only logits are wanted.
_BATCH = 16


@dataclass(frozen=True)
class QuantizedLayer:
    """One integer layer: convolution, gate, requantization and max pooling, in this order.

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
    padding, stride : int
        At most K // 2; one of :data:`STRIDES`.
    relu : bool
        Outputs clamp at zero.
    pool : int
        Edge and stride of the max pooling after the layer; 1 for none. Remainders are dropped.
    reduce : bool
        Sum all pixels' psums into one before requantization: average pooling folded into a
        linear layer, whose kernel is 1x1.
    in_scale, out_scale : float
        Real value of one step of the input and the output.
    source : int or None
        Index of the layer whose output is the input, or :data:`IMAGE`; None for the layer before.
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
    """

    name: str
    weight: NDArray[np.int8]
    base: NDArray[np.bool_]
    threshold: NDArray[np.int64] | None
    bias: NDArray[np.int64]
    mult: NDArray[np.int64]
    shift: NDArray[np.int64]
    in_shape: tuple[int, int, int]
    padding: int = 0
    stride: int = 1
    relu: bool = True
    pool: int = 1
    reduce: bool = False
    in_scale: float = 1.0
    out_scale: float = 1.0
    source: int | None = None
    residual: int | None = None
    mult_residual: NDArray[np.int64] | None = None
    residual_stride: int = 1
    residual_offset: int = 0
    relu_first: bool = False
    limit: int = 0
    score: NDArray[np.int8] | None = None
    gate: NDArray[np.int64] | None = None

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
    def conv_shape(self) -> tuple[int, int, int]:
        """(Co, Ho, Wo) of the convolution, before summing or pooling pixels."""
        _, height, width = self.in_shape
        grow = 2 * self.padding - self.kernel
        return (self.weight.shape[0], (height + grow) // self.stride + 1,
                (width + grow) // self.stride + 1)

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
        return channels * height * width * self.weight[0].size

    @cached_property
    def base_macs(self) -> int:
        """Multiply-accumulates of one image with every gate closed, those of each score once."""
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


@dataclass(frozen=True)
class QuantizedNetwork:
    """Integer golden model of a whole network for one accelerator configuration.

    Parameters
    ----------
    config : AcceleratorConfig
    layers : tuple of QuantizedLayer
        In an order in which each takes its input and its residual from layers before it.
    image_mean, image_std : float or (C,) array
        Normalization of a float image before quantization with ``layers[0].in_scale``.

    Raises
    ------
    CompileError
        If a layer is none that :class:`QuantizedLayer` describes, or does not fit its input or its
        residual; names it.
    """

    config: AcceleratorConfig
    layers: tuple[QuantizedLayer, ...]
    image_mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    image_std: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))

    def __post_init__(self) -> None:
        from .checks import check_layer  # it builds on the types of this module

        for index, layer in enumerate(self.layers):
            check_layer(layer)
            self._check_source(index, layer)
            self._check_residual(index, layer)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.layers[0].in_shape

    def inputs(self, index: int) -> int:
        """Index of the layer whose output is the input of layer ``index``, or :data:`IMAGE`."""
        source = self.layers[index].source
        return index - 1 if source is None else source

    def shape(self, index: int) -> tuple[int, int, int]:
        """(C, H, W) of the output of layer ``index``, or of the image for :data:`IMAGE`."""
        return self.image_shape if index == IMAGE else self.layers[index].out_shape

    def _check_source(self, index: int, layer: QuantizedLayer) -> None:
        source = self.inputs(index)
        if not IMAGE <= source < index:
            raise CompileError(f"Layer {layer.name!r} is number {index} and takes its input from "
                               f"layer {source}, which must be before it")
        if self.shape(source) != layer.in_shape:
            raise CompileError(f"Layer {layer.name!r} takes {shape_of(layer.in_shape)} inputs, but "
                               f"its source has {shape_of(self.shape(source))} outputs")

    def _check_residual(self, index: int, layer: QuantizedLayer) -> None:
        name, source, factor = layer.name, layer.residual, layer.mult_residual
        if source is None:
            if factor is not None or layer.relu_first:
                raise CompileError(f"Layer {name!r} has parameters of a residual but adds none")
            return
        if not IMAGE <= source < index:
            raise CompileError(f"Layer {name!r} is number {index} and adds the output of layer "
                               f"{source}, which must be before it")
        channels, size = layer.weight.shape[0], self.config.channels
        if layer.reduce or layer.residual_stride not in STRIDES:
            raise CompileError(f"Layer {name!r} adds a residual of stride {layer.residual_stride}, "
                               f"but a convolution can add one of stride 1 or 2")
        added, *pixels = self.shape(source)
        reached = tuple(-(-edge // layer.residual_stride) for edge in pixels)
        if reached != layer.decision_shape[1:]:
            raise CompileError(f"Layer {name!r} adds a residual of {reached[0]}x{reached[1]} "
                               f"pixels to {layer.decision_shape[1]}x{layer.decision_shape[2]}")
        offset = layer.residual_offset
        if offset < 0 or offset % size or offset + added > channels:
            raise CompileError(
                f"Layer {name!r} adds {added} channels from channel {offset} on to its {channels}, "
                f"but they must fit and begin at a multiple of {size}")
        bits = self.config.formats.multiplier + RESIDUAL_SHIFT
        low, high = self.config.formats.limits(bits)
        if (factor is None or factor.shape != (channels,) or (factor % (1 << RESIDUAL_SHIFT)).any()
                or factor.min() < low or factor.max() > high):
            raise CompileError(f"Layer {name!r} must have {channels} residual factors of {bits} "
                               f"bits that are multiples of {1 << RESIDUAL_SHIFT}")

    def quantize_images(self, images: Any) -> NDArray[np.int8]:
        """Input integers of a batch of images.

        Parameters
        ----------
        images : float or int8 (N, C, H, W)
            NumPy array or torch tensor on the CPU. Floats are normalized, divided by the input
            scale, rounded half to even and clamped; int8 is taken as quantized already.

        Returns
        -------
        int8 (N, C, H, W)

        Raises
        ------
        UserError
            For a wrong type, an empty batch, a wrong shape or a value out of range.
        """
        low, high = self.config.formats.limits(self.config.formats.activation)
        values = check_images(images, self.image_shape)
        if values.dtype == np.int8:
            if values.min() < low or values.max() > high:
                raise UserError(f"Quantized images must be in {low}..{high}, "
                                f"not {values.min()}..{values.max()}")
            return np.ascontiguousarray(values)
        mean, std = (np.reshape(v, (-1, 1, 1)) for v in (self.image_mean, self.image_std))
        steps = np.rint((values.astype(np.float64) - mean) / std / self.layers[0].in_scale)
        return np.clip(steps, low, high).astype(np.int8)

    def run(self, images: Any) -> tuple[Activations, ...]:
        """What every layer computes for a batch (see :meth:`quantize_images`), in order."""
        from .golden import run_layer  # it builds on the types of this module

        results: list[Activations] = []
        image = self.quantize_images(images)

        def output(index: int) -> NDArray[np.int8]:
            return image if index == IMAGE else results[index].output

        for index, layer in enumerate(self.layers):
            residual = None if layer.residual is None else output(layer.residual)
            results.append(run_layer(layer, output(self.inputs(index)), self.config.formats,
                                     residual))
        return tuple(results)

    def __call__(self, images: Any) -> NDArray[np.int8]:
        """Outputs of the last layer, flat: int8 logits (N, classes), for a batch of any size."""
        steps = self.quantize_images(images)
        parts = [self.run(steps[at:at + _BATCH])[-1].output for at in range(0, len(steps), _BATCH)]
        return np.concatenate(parts).reshape(len(steps), -1)

    def force_open(self) -> "QuantizedNetwork":
        """The dense network: no gates, the same weights, the parameters of open pixels."""
        return replace(self, layers=tuple(
            replace(layer, threshold=None, base=np.ones_like(layer.base), limit=0,
                    score=None, gate=None)
            for layer in self.layers))


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


def check_images(images: Any, shape: tuple[int, int, int]) -> NDArray[Any]:
    """``images`` as a NumPy array of float or int8 (N, *shape), N >= 1.

    Raises
    ------
    UserError
        One sentence, for a wrong type, shape or value, or an empty batch.
    """
    values = np.asarray(images.detach() if hasattr(images, "detach") else images)
    if values.dtype != np.int8 and not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"Images must be float or int8, not {values.dtype}")
    if values.ndim != 4 or values.shape[1:] != tuple(shape):
        raise UserError(f"Images must have the shape (N, {', '.join(map(str, shape))}), "
                        f"not {values.shape}")
    if len(values) == 0:
        raise UserError("A batch must have at least one image, not 0")
    if not np.isfinite(values).all():
        raise UserError("Images must be finite, not NaN or infinite")
    return values
