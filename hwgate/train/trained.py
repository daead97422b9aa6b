"""Networks of recipes: built, and kept in files together with the recipe that made them."""

import fnmatch
import json
from collections.abc import Callable
from importlib.resources import files
from numbers import Integral
from os import PathLike
from os.path import isfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from hwgate.errors import UserError, expect
from hwgate.files.tensors import read_safetensors, write_safetensors
from hwgate.nn.digits import digits_network
from hwgate.nn.gated import ChannelShuffle
from hwgate.nn.gates import gated_layers
from hwgate.nn.models import Gating, lenet, load_reference_resnet20, resnet18, resnet20, vgg16
from hwgate.train.recipe import Recipe

__all__ = ["build", "load_model", "load_teacher", "save_model", "start_from"]

#: Name that stands for the dense ResNet-20 of the data folder.
REFERENCE = "reference"


def build(recipe: Recipe, classes: int = 10) -> nn.Module:
    """The untrained network of a recipe; the seed gives its weights.

    Raises
    ------
    UserError
        If the gates do not fit the network's channels, or a layer to skip is none.
    """
    expect("Recipe", recipe, Recipe, hint="load_recipe reads one")
    expect("Class count", classes, Integral)
    gate, name = recipe.gate, recipe.network.name
    options: dict[str, Any] = {
        "classes": classes, "width": recipe.network.width, "gate_groups": gate.groups or None,
        "grouping": gate.grouping, "alpha": gate.alpha, "sparse_bp": gate.sparse_bp,
        "share": gate.share, "tau": gate.tau, "shuffle": gate.shuffle,
        "base_channels": gate.base_channels}
    makers: dict[str, Callable[..., nn.Module]] = {
        "lenet": lenet, "resnet18": resnet18, "resnet20": resnet20, "vgg16": vgg16,
        "resnet18-postact": lambda **more: resnet18(post_activation=True, **more),
        "resnet20-postact": lambda **more: resnet20(post_activation=True, **more)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if name == "digits":
            if recipe.network.width != 1:
                raise UserError(f"Network 'digits' has a width of 1, not {recipe.network.width!r}")
            model: nn.Module = digits_network(Gating(
                groups=gate.groups or None, base_channels=gate.base_channels,
                grouping=gate.grouping, alpha=gate.alpha, sparse_bp=gate.sparse_bp,
                share=gate.share, tau=gate.tau, shuffle=gate.shuffle))
        else:
            model = makers[name](**options)
    if gate.groups:
        _leave_ungated(model, gate.skip)
    for _, layer in gated_layers(model):
        nn.init.constant_(layer.delta, gate.threshold)
    return model


def _leave_ungated(model: nn.Module, skip: str) -> None:
    """Replace gated layers by ordinary ones of the same weights, where a pattern says so."""
    for pattern in filter(None, (part.strip() for part in skip.split(","))):
        gated = dict(gated_layers(model))
        found = fnmatch.filter(gated, pattern)
        if not found:
            raise UserError(f"There is no gated layer {pattern!r} to skip; there are "
                            f"{', '.join(gated)}")
        for name in found:
            layer = gated[name]
            plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size[0],
                              layer.stride[0], cast(int, layer.padding[0]),
                              bias=layer.bias is not None)
            plain.load_state_dict(layer.state_dict(), strict=False)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, plain)


def save_model(path: str | Path, model: nn.Module, recipe: Recipe) -> None:
    """Write a float network with its recipe, for :func:`load_model`.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    expect("Path of a model file", path, str, PathLike)
    expect("Model to save", model, nn.Module)
    expect("Recipe", recipe, Recipe, hint="load_recipe reads one")
    write_safetensors(path, model.state_dict(), {"recipe": json.dumps(recipe.to_dict())})


def load_model(path: str | Path) -> tuple[nn.Module, Recipe]:
    """A network that :func:`save_model` wrote, in evaluation mode, and its recipe.

    Raises
    ------
    UserError
        If the file is missing or is no such network.
    """
    expect("Path of a model file", path, str, PathLike)
    tensors, metadata = read_safetensors(path)
    try:
        recipe = Recipe.from_dict(json.loads(metadata["recipe"]))
        model = build(recipe)
        model.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError):
        raise UserError(f"File {path} is no network that `hwgate train` wrote") from None
    return model.eval(), recipe


def load_teacher(source: str) -> nn.Module:
    """A trained network whose outputs another one imitates, all its gates as they are.

    Parameters
    ----------
    source : str
        A file of :func:`save_model`, a network of :mod:`hwgate.zoo` that comes with its float
        model, or ``reference`` for the dense ResNet-20 of the data folder.
    """
    expect("Network to take", source, str)
    if source == REFERENCE:
        model: nn.Module = load_reference_resnet20()
    else:
        shipped = Path(str(files("hwgate") / "zoo" / source / "model.safetensors"))
        model = load_model(shipped if isfile(shipped) else source)[0]
    return model.requires_grad_(False)


def start_from(model: nn.Module, source: str) -> None:
    """Give a network the weights of a trained one, and its gates where both have alike ones.

    Inputs are reordered where the two shuffle channels differently: with every gate open, both
    compute the same.

    Raises
    ------
    UserError
        If the networks differ in more than their gates.
    """
    expect("Model to start", model, nn.Module)
    teacher = load_teacher(source)
    given, wanted = (_without_gates(network) for network in (teacher, model))
    if [tensor.shape for tensor in given.values()] != [t.shape for t in wanted.values()]:
        raise UserError(f"Network {source} has other layers than the one to train; take one of "
                        "the same name and width, gated or not")
    # Names may count the shuffles between layers, so it is the order that tells which is which.
    names = dict(zip(given, wanted, strict=True))
    state = {names[name]: tensor for name, tensor in given.items()}
    for behind, shuffle in _shuffles(teacher).items():
        weight = names[f"{behind}.weight"]
        state[weight] = state[weight][:, _order(shuffle, state[weight]).argsort()]
    for behind, shuffle in _shuffles(model).items():
        weight = f"{behind}.weight"
        state[weight] = state[weight][:, _order(shuffle, state[weight])]
    layers = {names[f"{path}.weight"].removesuffix(".weight"): layer
              for path, layer in gated_layers(teacher)}
    for path, layer in gated_layers(model):
        if path in layers and layers[path].share == layer.share:
            state |= {f"{path}.{name}": tensor for name, tensor in _gate(layers[path]).items()}
    model.load_state_dict(state, strict=False)


def _gate(layer: nn.Module) -> dict[str, torch.Tensor]:
    """State of the gate of a gated layer: what an ordinary convolution lacks."""
    return {name: tensor for name, tensor in layer.state_dict().items()
            if name not in ("weight", "bias")}


def _without_gates(model: nn.Module) -> dict[str, torch.Tensor]:
    """State of a network, but for that of its gates."""
    gates = {f"{path}.{name}" for path, layer in gated_layers(model) for name in _gate(layer)}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in gates}


def _order(shuffle: ChannelShuffle, weight: torch.Tensor) -> torch.Tensor:
    """Where the input channels of a weight come from, behind a shuffle."""
    return shuffle(torch.arange(weight.shape[1])[None, :, None, None]).flatten()


def _shuffles(model: nn.Module) -> dict[str, ChannelShuffle]:
    """Shuffles of channels, by the name of the layer that follows."""
    found, last = {}, None
    for name, module in model.named_modules():
        if isinstance(module, ChannelShuffle):
            last = module
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and last is not None:
            found[name], last = last, None
    return found
