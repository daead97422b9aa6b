"""Public definitions of networks, by name: the yardstick of the front end.

``public_networks.txt`` lists them. Their libraries are the extra ``networks``; what pytorchcv
defines needs that library only.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["Definition", "definitions", "random_images", "settle"]

_LIST = Path(__file__).with_suffix(".txt")

#: From this many rows on, images are large, and fewer are enough.
_LARGE = 64

#: Images of a batch that norms settle on, small and large ones.
_SETTLED = 16, 4


@dataclass(frozen=True)
class Definition:
    """A network that a library defines.

    Parameters
    ----------
    name : str
        Library and name; of pytorchcv, the module in between.
    shape : (C, H, W)
        Of an image.
    """

    name: str
    shape: tuple[int, int, int]

    @property
    def large(self) -> bool:
        return self.shape[1] >= _LARGE

    @property
    def missing(self) -> str:
        """The library, if it is not installed."""
        library = self.name.partition("/")[0]
        needs = (library, *(("torchvision",) if library == "timm" else ()))
        return next((need for need in needs if find_spec(need) is None), "")

    def build(self) -> nn.Module:
        """The network with random weights, always the same, and norms that know its values."""
        library, _, name = self.name.partition("/")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _LIBRARIES[library](name, self.shape)
            return settle(model, *(random_images(self.shape, _SETTLED[self.large], seed)
                                   for seed in (1, 2)))


def definitions() -> list[Definition]:
    """All that the list names, in its order."""
    found = []
    for line in _LIST.read_text(encoding="utf-8").splitlines():
        name, *shape = line.partition("#")[0].split()[:2] or [""]
        if name:
            channels, height, width = map(int, shape[0].split("x"))
            found.append(Definition(name, (channels, height, width)))
    return found


def random_images(shape: tuple[int, int, int], count: int, seed: int) -> Tensor:
    """Normal values (N, C, H, W), always the same."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def settle(model: nn.Module, *batches: Tensor) -> nn.Module:
    """A model in evaluation mode whose batch norms have the mean statistics of forward passes in
    training mode, one for each batch.

    Gains of zero, with which some definitions begin the last norm of a block, become ones: nothing
    else would be left of the block.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            if norm.weight is not None and not bool(norm.weight.any()):
                norm.weight.fill_(1)
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all passes, not a moving one
        model.train()
        for images in batches:
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def _torchvision(name: str, shape: tuple[int, int, int]) -> nn.Module:
    models = _import_torchvision().models
    # What two old definitions begin with takes a minute, or warns.
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, **more)


def _timm(name: str, shape: tuple[int, int, int]) -> nn.Module:
    _import_torchvision()
    model = importlib.import_module("timm").create_model(name, pretrained=False)
    if hasattr(model, "set_input_size"):  # of transformers, whose definition has one
        model.set_input_size(img_size=shape[1:])
    return model


def _pytorchcv(name: str, shape: tuple[int, int, int]) -> nn.Module:
    module, _, name = name.partition("/")
    return getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)()


def _import_torchvision() -> Any:
    """torchvision, also beside a CPU build of torch.

    Its wheel is compiled for a CUDA build; beside another one its own operators are not there, and
    importing it ends where it tells torch more about two of them. No classifier uses them: a
    declaration is enough. The library that holds it must live on.
    """
    global _declared
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        _declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision")


_declared: torch.library.Library | None = None

_LIBRARIES: dict[str, Callable[[str, tuple[int, int, int]], nn.Module]] = {
    "pytorchcv": _pytorchcv, "timm": _timm, "torchvision": _torchvision}
