"""A whole integer network: layers, what each takes its input from, and running a batch."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.errors import CompileError, UserError, expect, shown
from hwgate.machine.config import RESIDUAL_SHIFT, AcceleratorConfig

from .checks import check_layer
from .fidelity import Fidelity
from .golden import run_layer
from .joined import joined, side_by_side
from .layer import IMAGE, STRIDES, Activations, QuantizedLayer, shape_of

__all__ = ["QuantizedNetwork", "check_images"]

#: Images whose activations are held at a time where only logits are wanted.
_BATCH = 16


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
    fidelity : Fidelity or None
        How closely it follows the model that it was quantized from, if that was measured.
    flat : bool
        A result is one vector; otherwise a map, as of a model without pooling at its end.

    Raises
    ------
    CompileError
        If a layer is none that :class:`QuantizedLayer` describes, or does not fit its input or its
        residual; names it.
    UserError
        If another field is of a wrong type, or the normalization is not finite.
    """

    config: AcceleratorConfig
    layers: tuple[QuantizedLayer, ...]
    image_mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    image_std: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    fidelity: Fidelity | None = None
    flat: bool = True

    def __post_init__(self) -> None:
        expect("Configuration of a network", self.config, AcceleratorConfig)
        expect("Fidelity of a network", self.fidelity, Fidelity, type(None))
        expect("Layers of a network", self.layers, tuple)
        if not self.layers:
            raise CompileError("A network must have at least one layer, not 0")
        names: set[str] = set()
        for index, layer in enumerate(self.layers):
            expect(f"Layer {index} of a network", layer, QuantizedLayer)
            check_layer(layer, self.config)
            if layer.name in names:
                raise CompileError(f"Layer {layer.name!r} must have a name of its own, but layer "
                                   f"{index} has it too")
            names.add(layer.name)
            self._check_source(index, layer)
            self._check_residual(index, layer)
        _, conflict = side_by_side(map(self.inputs, range(len(self.layers))))
        if conflict is not None:
            raise CompileError(f"Layer {self.layers[conflict].name!r} takes several outputs, each "
                               "of which must lie beside the same one for all layers; copy one")
        self._check_normalization()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.layers[0].in_shape

    def inputs(self, index: int) -> tuple[int, ...]:
        """Indices of the layers whose outputs, side by side, are the input of layer ``index``;
        :data:`IMAGE` is the image."""
        source = self.layers[index].source
        if source is None:
            return (index - 1,)
        return source if isinstance(source, tuple) else (source,)

    @cached_property
    def chains(self) -> dict[int, tuple[int, ...]]:
        """Of the image and each layer: the maps that lie side by side with its output in memory,
        in order, itself among them."""
        count = len(self.layers)
        return side_by_side([*map(self.inputs, range(count)), *zip(range(count))])[0]

    def shape(self, index: int) -> tuple[int, int, int]:
        """(C, H, W) of the output of layer ``index``, or of the image for :data:`IMAGE`."""
        return self.image_shape if index == IMAGE else self.layers[index].out_shape

    def _check_source(self, index: int, layer: QuantizedLayer) -> None:
        sources = self.inputs(index)
        for source in sources:
            if not IMAGE <= source < index:
                raise CompileError(f"Layer {layer.name!r} is number {index} and takes its input "
                                   f"from layer {source}, which must be before it")
        shapes = [self.shape(source) for source in sources]
        joined = sum(channels for channels, _, _ in shapes)
        if any((joined, *pixels) != layer.in_shape for _, *pixels in shapes):
            raise CompileError(f"Layer {layer.name!r} takes {shape_of(layer.in_shape)} inputs, but "
                               f"its source has {' and '.join(map(shape_of, shapes))} outputs")

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

    def _check_normalization(self) -> None:
        channels = self.image_shape[0]
        for name in ("image_mean", "image_std"):
            try:
                values = np.asarray(getattr(self, name), np.float64)
                fits = values.size in (1, channels) and bool(np.isfinite(values).all())
            except (TypeError, ValueError):
                fits = False
            if not fits or name == "image_std" and not values.all():
                raise UserError(f"Field {name!r} of a network must be one finite number, or one of "
                                f"each of {channels} channels"
                                + (", and not 0" if name == "image_std" else ""))

    def quantize_images(self, images: Any) -> NDArray[np.int8]:
        """Input integers of a batch of images.

        Parameters
        ----------
        images : float or int8 (N, C, H, W), or (N, C) of one pixel
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
        results: list[Activations] = []
        image = self.quantize_images(images)

        def output(index: int) -> NDArray[np.int8]:
            return image if index == IMAGE else results[index].output

        for index, layer in enumerate(self.layers):
            residual = None if layer.residual is None else output(layer.residual)
            x = joined([output(source) for source in self.inputs(index)])
            results.append(run_layer(layer, x, self.config.formats, residual))
        return tuple(results)

    def __call__(self, images: Any) -> NDArray[np.int8]:
        """Outputs of the last layer: int8 logits (N, classes), or maps (N, C, H, W) if they are not
        :attr:`flat`, for a batch of any size."""
        steps = self.quantize_images(images)
        parts = [self.run(steps[at:at + _BATCH])[-1].output for at in range(0, len(steps), _BATCH)]
        found = np.concatenate(parts)
        return found.reshape(len(steps), -1) if self.flat else found

    def force_open(self) -> "QuantizedNetwork":
        """The dense network: no gates, the same weights, the parameters of open pixels."""
        return replace(self, layers=tuple(
            replace(layer, threshold=None, base=np.ones_like(layer.base), limit=0,
                    score=None, gate=None)
            for layer in self.layers))


def check_images(images: Any, shape: tuple[int, int, int]) -> NDArray[Any]:
    """``images`` as a NumPy array of float or int8 (N, *shape), N >= 1; vectors (N, C) stand for
    maps of one pixel.

    Raises
    ------
    UserError
        One sentence, for a wrong type, shape or value, or an empty batch.
    """
    tensor = hasattr(images, "detach") and not isinstance(images, type)
    try:
        values = np.asarray(images.detach() if tensor else images)
    except (TypeError, ValueError, RuntimeError):  # a ragged list; a tensor of another device
        raise UserError("Images must be an array, or a tensor on the CPU of a type that NumPy has, "
                        f"not {shown(images)}") from None
    if values.dtype.kind not in "biufc":
        raise UserError(f"Images must be an array or a tensor, not {shown(images)}")
    if values.dtype != np.int8 and not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"Images must be float or int8, not {values.dtype}")
    if values.ndim == 2 and shape[1:] == (1, 1):
        values = values[:, :, None, None]
    if values.ndim != 4 or values.shape[1:] != tuple(shape):
        raise UserError(f"Images must have the shape (N, {', '.join(map(str, shape))}), "
                        f"not {values.shape}")
    if len(values) == 0:
        raise UserError("A batch must have at least one image, not 0")
    if not np.isfinite(values).all():
        raise UserError("Images must be finite, not NaN or infinite")
    return values
