"""Calibration images, in whatever form a user has them."""

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwgate.errors import FidelityWarning, UserError, shown
from hwgate.quant.network import QuantizedNetwork, check_images

__all__ = ["Normalization", "normalized", "typical_images"]

#: Mean and standard deviation of an image: numbers, or one of each channel.
Normalization = tuple[Any, Any]

#: Images that are taken of an iterable of batches, at most.
_MOST = 4096

#: Largest magnitude of a float image that looks normalized, or scaled to 0..1.
_LARGEST = 100.0

#: And the smallest one: of uint8 images, less than a step.
_SMALLEST = 1e-3


def typical_images(images: Any, normalize: Normalization | None = None) -> NDArray[Any]:
    """Float images (N, C, H, W), or vectors (N, C), as a model takes them; warns of ranges that
    look wrong.

    Parameters
    ----------
    images : array, tensor, sequence, or iterable of batches
        Batches may come with labels behind them, as those of a DataLoader do. float, or uint8,
        which is divided by 255.
    normalize : (mean, std), optional

    Raises
    ------
    UserError
        For another type or shape, an empty batch, values that are not finite, or a normalization
        that does not fit the channels.
    """
    array = _array(images)
    if array.ndim not in (2, 4):
        raise UserError("Calibration images must have the shape (N, C, H, W), or (N, C) of "
                        f"vectors, not {array.shape}")
    check_images(array, array.shape[1:] if array.ndim == 4 else (array.shape[1], 1, 1))
    if normalize is not None:
        if not isinstance(normalize, (tuple, list)) or len(normalize) != 2:
            raise UserError(f"A normalization must be a mean and a standard deviation, not "
                            f"{shown(normalize)}")
        mean, std = (_channels(values, array.shape[1]).reshape(-1, *[1] * (array.ndim - 2))
                     for values in normalize)
        if not std.all():
            raise UserError("A normalization must have standard deviations other than 0")
        with np.errstate(over="ignore"):
            array = ((array - mean) / std).astype(array.dtype)
        if not np.isfinite(array).all():
            raise UserError("A normalization must keep images finite, which these standard "
                            "deviations are too small for")
    _look(array)
    return array


def normalized(network: QuantizedNetwork, mean: Any, std: Any) -> QuantizedNetwork:
    """The network with another normalization before its own."""
    channels = network.image_shape[0]
    first = [_channels(values, channels).ravel() for values in (mean, std)]
    return replace(network, image_mean=first[0] + first[1] * network.image_mean,
                   image_std=first[1] * network.image_std)


def _array(images: Any) -> NDArray[Any]:
    """One array of all images."""
    if isinstance(images, Tensor):
        try:
            dense = images.to_dense()
            narrow = dense.is_floating_point() and dense.dtype != torch.float64
            return _floats((dense.float() if narrow else dense).numpy(force=True))
        except (RuntimeError, TypeError):  # quantized, or without values
            raise UserError("Calibration images must be a tensor that NumPy can hold, not one of "
                            f"{images.dtype} on the device {images.device}") from None
    if isinstance(images, np.ndarray):
        return _floats(images)
    if isinstance(images, (str, bytes)) or not isinstance(images, Iterable):
        raise UserError(f"Calibration images must be an array, a tensor or batches of them, not "
                        f"{shown(images)}")
    parts: list[NDArray[Any]] = []
    for part in images:
        part, *labels = part if isinstance(part, (list, tuple)) and part else [part]
        found = _array(part)
        if found.shape in [getattr(label, "shape", None) for label in labels]:
            raise UserError("A batch of calibration images must be one array or tensor, with "
                            f"labels behind it, not several of the shape {found.shape}; stack "
                            "them, or leave out what is no image")
        parts.append(found[None] if found.ndim in (0, 1, 3) else found)
        if sum(map(len, parts)) >= _MOST:
            break
    if not parts:
        raise UserError("A batch must have at least one image, not 0")
    shapes = list(dict.fromkeys(part.shape[1:] for part in parts))
    if len(shapes) > 1:
        raise UserError(f"Calibration images must have one shape, not {shapes[0]} and {shapes[1]}")
    return np.concatenate(parts)


def _floats(array: NDArray[Any]) -> NDArray[Any]:
    """Values in single precision, or double if they are; those of uint8 in 0..1."""
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / np.float32(255)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"Calibration images must be float or uint8, not {array.dtype}")
    return array.astype(np.float64 if array.itemsize == 8 else np.float32, copy=False)


def _channels(values: Any, channels: int) -> NDArray[np.float64]:
    """A number, or one of each channel, as (C, 1, 1)."""
    try:
        array = np.asarray(values, np.float64).ravel()
    except (TypeError, ValueError):
        raise UserError(f"A normalization must have numbers, not {shown(values)}") from None
    if not np.isfinite(array).all():
        raise UserError("A normalization must have finite numbers, not NaN or infinite")
    if len(array) not in (1, channels):
        raise UserError(f"A normalization must have one number, or one of each of {channels} "
                        f"channels, not {len(array)}")
    return np.broadcast_to(array, channels).reshape(-1, 1, 1)


def _look(images: NDArray[Any]) -> None:
    """Warn of what calibration images should not be."""
    largest = float(np.abs(images).max())
    if not largest:
        text = "are all zero"
    elif largest > _LARGEST:
        text = (f"reach {largest:.4g}, as if they were not normalized; give them as the model "
                "takes them, or as uint8")
    elif largest < _SMALLEST:
        text = f"reach {largest:.4g} only; give them as the model takes them"
    elif (images == images[:1]).all():
        text = "are a single image, or alike, whose ranges other images may exceed"
    elif (np.ptp(images.reshape(len(images), images.shape[1], -1), axis=2) == 0).all() and (
            images.ndim == 4 and images[0, 0].size > 1):
        text = "have no structure: all pixels of a channel are equal"
    else:
        return
    warnings.warn(f"Calibration images {text}", FidelityWarning, stacklevel=5)
