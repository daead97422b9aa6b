"""Integer networks: the representation that golden model, compiler and cost model share."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.config import AcceleratorConfig
from hwgate.errors import UserError

__all__ = ["Activations", "QuantizedLayer", "QuantizedNetwork", "check_images"]


@dataclass(frozen=True)
class QuantizedLayer:
    """One integer layer: convolution, gate, requantization and max pooling, in this order.

    Parameters
    ----------
    name : str
        Module path in the PyTorch model.
    weight : int8 (Co, Ci, K, K)
        K is 3 or 1.
    base : bool (Co, Ci)
        Input channels that belong to the base path of each output channel; all true if ungated.
    threshold : int64 (Co,) or None
        A gate opens iff the base psum is greater. None for an ungated layer.
    bias, mult : int64 (Co, 2)
        Requantization for closed (0) and open (1) pixels; an ungated layer uses ``open``.
    shift : int64 (Co,)
    in_shape : (Ci, H, W)
        Input of one image.
    padding, stride : int
    relu : bool
        Outputs clamp at zero.
    pool : int
        Edge and stride of the max pooling after the layer; 1 for none. Remainders are dropped.
    reduce : bool
        Sum all pixels' psums into one before requantization: average pooling folded into a
        linear layer, whose kernel is 1x1.
    in_scale, out_scale : float
        Real value of one step of the input and the output.
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
        """Multiply-accumulates of one image with every gate closed."""
        _, height, width = self.conv_shape
        return height * width * int(self.base.sum()) * self.kernel**2


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
    """

    output: NDArray[np.int8]
    psum: NDArray[np.int64]
    decision: NDArray[np.bool_]


@dataclass(frozen=True)
class QuantizedNetwork:
    """Integer golden model of a whole network for one accelerator configuration.

    Parameters
    ----------
    config : AcceleratorConfig
    layers : tuple of QuantizedLayer
        Each feeds the next one.
    image_mean, image_std : float or (C,) array
        Normalization of a float image before quantization with ``layers[0].in_scale``.
    """

    config: AcceleratorConfig
    layers: tuple[QuantizedLayer, ...]
    image_mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    image_std: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))

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
        shape = self.layers[0].in_shape
        low, high = self.config.formats.limits(self.config.formats.activation)
        values = check_images(images, shape)
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
        x = self.quantize_images(images)
        for layer in self.layers:
            results.append(run_layer(layer, x, self.config.formats))
            x = results[-1].output
        return tuple(results)

    def __call__(self, images: Any) -> NDArray[np.int8]:
        """Outputs of the last layer, flat: int8 logits (N, classes)."""
        output = self.run(images)[-1].output
        return output.reshape(len(output), -1)

    def force_open(self) -> "QuantizedNetwork":
        """The dense network: no gates, the same weights, the parameters of open pixels."""
        return replace(self, layers=tuple(
            replace(layer, threshold=None, base=np.ones_like(layer.base))
            for layer in self.layers))


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
