"""The float reference networks of MLPerf Tiny as PyTorch modules, from files of the data folder."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwgate.data import cifar
from hwgate.files.tensors import read_safetensors

__all__ = ["FOLDER", "NETWORKS", "Reference", "calibration_images", "cifar_images", "image_shape",
           "network"]

#: Where the files lie; nowhere without the variable ``HWGATE_DATA``.
FOLDER = Path(os.environ.get("HWGATE_DATA", "nowhere"), "mlperf_tiny")

#: Image classification, visual wake words, keyword spotting, anomaly detection.
NETWORKS = ("ic", "vww", "kws", "ad")


class Reference(nn.Module):
    """A network whose modules have the names of its file: a convolution, its norm beside it.

    Padding that differs between the sides stands before the convolution, as in TensorFlow's
    ``same`` at stride 2: PyTorch's ``padding=1`` is another network there.

    Parameters
    ----------
    layers : list of dict
        As the JSON file has them, in order.
    """

    def __init__(self, layers: list[dict[str, Any]]) -> None:
        super().__init__()
        self.layers = layers
        for layer in layers:
            made = _module(layer)
            if made is not None:
                self.add_module(layer["name"], made)
            norm = layer.get("batch_norm")
            if norm:
                kind = nn.BatchNorm1d if layer["op"] == "linear" else nn.BatchNorm2d
                self.add_module(norm["name"], kind(layer["weight_shape"][0], eps=norm["eps"]))

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, *image_shape) to what the last layer computes, flat."""
        values = {"input": x}
        for layer in self.layers:
            inputs = [values[name] for name in layer["inputs"]]
            if layer["op"] == "add":
                y = inputs[0] + inputs[1]
            elif layer["op"] == "flatten":
                y = inputs[0].flatten(1)
            else:
                y = self.get_submodule(layer["name"])(F.pad(inputs[0], _uneven(layer)))
            if layer.get("batch_norm"):
                y = self.get_submodule(layer["batch_norm"]["name"])(y)
            values[layer["name"]] = y.relu() if layer.get("activation") else y
        return y


def _sides(layer: dict[str, Any]) -> tuple[int, int, int, int]:
    """Padding at the left, the right, the top and the bottom."""
    found = layer.get("padding", {})
    return tuple(found.get(side, 0) for side in ("left", "right", "top", "bottom"))


def _uneven(layer: dict[str, Any]) -> tuple[int, ...]:
    """Padding that the layer's own module cannot do."""
    left, right, top, bottom = sides = _sides(layer)
    return () if left == right and top == bottom else sides


def _module(layer: dict[str, Any]) -> nn.Module | None:
    operator, kernel, stride = (layer.get(name) for name in ("op", "kernel", "stride"))
    if operator in ("conv2d", "depthwise_conv2d"):
        outputs, inputs, *_ = layer["weight_shape"]
        left, _, top, _ = _sides(layer)
        return nn.Conv2d(inputs * layer["groups"], outputs, kernel, stride,
                         (0, 0) if _uneven(layer) else (top, left), groups=layer["groups"])
    if operator == "linear":
        return nn.Linear(layer["in_features"], layer["out_features"])
    if operator == "avg_pool2d":
        return nn.AvgPool2d(kernel, stride)
    if operator == "softmax":
        return nn.Softmax(dim=1)
    assert operator in ("add", "flatten"), operator
    return None


def _description(key: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"mlperf_tiny_{key}.json").read_text())


def image_shape(key: str) -> tuple[int, ...]:
    """(C, H, W) of what a network takes, or (C,) of a vector."""
    found = _description(key)["input"]
    return tuple(found.get("shape_chw") or found["shape"])


def network(key: str, *, softmax: bool = True) -> Reference:
    """One of the :data:`NETWORKS` with its trained weights, in evaluation mode.

    Without ``softmax``, it computes logits.
    """
    layers = [layer for layer in _description(key)["layers"]
              if softmax or layer["op"] != "softmax"]
    model = Reference(layers)
    weights, _ = read_safetensors(FOLDER / f"mlperf_tiny_{key}.safetensors")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return model.eval()


def calibration_images(count: int = 256) -> Tensor:
    """CIFAR-10 training images as ``ic`` takes them, raw 0..255."""
    images, _ = cifar.load_train(batches=(1,))
    return torch.from_numpy(images[:count].astype(np.float32))


def cifar_images(count: int) -> tuple[Tensor, np.ndarray]:
    """The first CIFAR-10 test images as ``ic`` takes them, raw 0..255, and their labels."""
    images, labels = cifar.load_test()
    return torch.from_numpy(images[:count].astype(np.float32)), labels[:count]
