"""Networks, gated or not: ResNet-20, ResNet-18 and VGG-16 for CIFAR, a small one for MNIST."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hwgate.errors import UserError
from hwgate.files.tensors import read_safetensors
from hwgate.nn.gated import ChannelShuffle, GatedConv2d, PaddingShortcut
from hwgate.nn.gates import fitting_groups

__all__ = ["BasicBlock", "Gating", "ResNet", "VGG", "lenet", "load_reference_resnet20", "resnet18",
           "resnet20", "vgg16"]

#: Where :func:`load_reference_resnet20` looks, below the data folder.
REFERENCE = Path("weights", "resnet20_cifar10.safetensors")

#: Output channels of VGG-16's convolutions; "M" is a 2x2 max pooling.
_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


#: The same of the network for MNIST.
_LENET = (32, "M", 32, "M", 64, 64)


@dataclass(frozen=True, kw_only=True)
class Gating:
    """How the gated convolutions of a network are gated; see :class:`hwgate.nn.gated.GatedConv2d`.

    Parameters
    ----------
    groups : int, optional
        G; without it, nothing is gated.
    base_channels : int
        Lowers G in narrow layers; see :func:`hwgate.nn.gates.fitting_groups`.
    grouping, alpha, sparse_bp, share, tau
        As for the layer.
    shuffle : bool
        With grouping, a channel shuffle stands between two gated convolutions.
    """

    groups: int | None = None
    base_channels: int = 0
    grouping: bool = False
    alpha: float = 2.0
    sparse_bp: bool = False
    share: int = 1
    tau: float = 0.0
    shuffle: bool = True

    def conv3x3(self, inputs: int, outputs: int, stride: int = 1, gate: bool = True) -> nn.Conv2d:
        """A 3x3 convolution, gated if ``gate`` and there are groups."""
        groups = self._groups(inputs) if gate else None
        if groups is None:
            return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return GatedConv2d(inputs, outputs, 3, stride, 1, gate_groups=groups,
                           grouping=self.grouping, alpha=self.alpha, sparse_bp=self.sparse_bp,
                           share=self.share, tau=self.tau)

    def shuffler(self, channels: int) -> nn.Module:
        """What goes between two gated convolutions, so that information crosses groups."""
        groups = self._groups(channels)
        if groups is None or not self.grouping or not self.shuffle:
            return nn.Identity()
        return ChannelShuffle(groups)

    def _groups(self, channels: int) -> int | None:
        """G of a layer of so many input channels; None where it is not gated."""
        return None if self.groups is None else fitting_groups(self.groups, channels,
                                                               self.base_channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norms and a shortcut.

    The original block applies its second ReLU after the addition, and only its first convolution
    can be gated; the post-activation block before it, and both can be (Hua et al., NeurIPS 2019).

    Parameters
    ----------
    inputs, outputs, stride : int
        Of the first convolution and the shortcut.
    shortcut : Module
    post_activation : bool
    gating : Gating
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: nn.Module,
                 post_activation: bool, gating: Gating) -> None:
        super().__init__()
        self.conv1 = gating.conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.shuffle = gating.shuffler(outputs) if post_activation else nn.Identity()
        self.conv2 = gating.conv3x3(outputs, outputs, gate=post_activation)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut
        self.post_activation = post_activation

    def forward(self, x: Tensor) -> Tensor:
        """(N, Ci, H, W) to (N, Co, ceil(H / stride), ceil(W / stride))."""
        out = self.shuffle(torch.relu(self.bn1(self.conv1(x))))
        out = self.bn2(self.conv2(out))
        if self.post_activation:
            return torch.relu(out) + self.shortcut(x)
        return torch.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network for small images: a 3x3 stem, stages of basic blocks, a linear layer.

    The first block of every stage but the first has stride 2.

    Parameters
    ----------
    channels : sequence of int
        Of each stage; the stem has those of the first one.
    blocks : sequence of int
        Of each stage.
    projection : bool
        Shortcuts that change the shape are 1x1 convolutions rather than padding.
    classes : int
    post_activation : bool
    gating : Gating
    """

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], *, projection: bool,
                 classes: int, post_activation: bool, gating: Gating) -> None:
        super().__init__()
        width = channels[0]
        self.conv1 = gating.conv3x3(3, width, gate=False)
        self.bn1 = nn.BatchNorm2d(width)
        shortcut: Callable[[int, int, int], nn.Module] = _project if projection else PaddingShortcut
        self.stages: list[str] = []
        for number, (outputs, count) in enumerate(zip(channels, blocks, strict=True), 1):
            stage = []
            for block in range(count):
                stride = 2 if number > 1 and block == 0 else 1
                changes = stride > 1 or width != outputs
                way = shortcut(width, outputs, stride) if changes else nn.Identity()
                stage.append(BasicBlock(width, outputs, stride, way, post_activation, gating))
                width = outputs
            self.stages.append(f"layer{number}")
            self.add_module(self.stages[-1], nn.Sequential(*stage))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, classes)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.linear(torch.flatten(self.pool(x), 1))


class VGG(nn.Module):
    """3x3 convolutions with batch norms and ReLUs, 2x2 max poolings, and a linear layer.

    Parameters
    ----------
    layers : sequence of int or "M"
        Output channels of a convolution, or a pooling.
    classes : int
    gating : Gating
        Of all convolutions but the first.
    inputs : int
        Channels of an image.
    """

    def __init__(self, layers: Sequence[int | str], *, classes: int, gating: Gating,
                 inputs: int = 3) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        width = inputs
        for outputs in layers:
            if isinstance(outputs, str):
                parts.append(nn.MaxPool2d(2))
                continue
            parts += [gating.conv3x3(width, outputs, gate=bool(parts)), nn.BatchNorm2d(outputs),
                      nn.ReLU()]
            shuffle = gating.shuffler(outputs)
            if not isinstance(shuffle, nn.Identity):
                parts.append(shuffle)
            width = outputs
        self.features = nn.Sequential(*parts)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to logits (N, classes)."""
        return self.linear(torch.flatten(self.pool(self.features(x)), 1))


def resnet20(*, classes: int = 10, width: float = 1.0, post_activation: bool = False,
             gate_groups: int | None = None, grouping: bool = False, alpha: float = 2.0,
             sparse_bp: bool = False, share: int = 1, tau: float = 0.0,
             shuffle: bool = True, base_channels: int = 0) -> ResNet:
    """ResNet-20 for CIFAR with padding shortcuts (He et al., CVPR 2016): 16, 32, 64 channels.

    Parameters
    ----------
    classes : int
    width : float
        Factor of all channel counts.
    post_activation : bool
        ReLUs before the additions.
    gate_groups : int, optional
        G. Gates the first convolution of each block, 9 in all, and in post-activation blocks the
        second one too, 18 in all. Nothing is gated by default.
    grouping, alpha, sparse_bp, share, tau
        As for ``GatedConv2d``.
    shuffle, base_channels
        As for :class:`Gating`.

    Raises
    ------
    UserError
        If there are no channels left, or G does not divide them.
    """
    gating = Gating(groups=gate_groups, grouping=grouping, alpha=alpha, sparse_bp=sparse_bp,
                    share=share, tau=tau, shuffle=shuffle, base_channels=base_channels)
    return ResNet(_scaled((16, 32, 64), width), (3, 3, 3), projection=False, classes=classes,
                  post_activation=post_activation, gating=gating)


def resnet18(*, classes: int = 10, width: float = 1.0, post_activation: bool = False,
             gate_groups: int | None = None, grouping: bool = False, alpha: float = 2.0,
             sparse_bp: bool = False, share: int = 1, tau: float = 0.0,
             shuffle: bool = True, base_channels: int = 0) -> ResNet:
    """ResNet-18 for CIFAR: a 3x3 stem, 64 to 512 channels, 1x1 shortcuts; see :func:`resnet20`.

    Gates 8 convolutions, 16 in post-activation blocks.
    """
    gating = Gating(groups=gate_groups, grouping=grouping, alpha=alpha, sparse_bp=sparse_bp,
                    share=share, tau=tau, shuffle=shuffle, base_channels=base_channels)
    return ResNet(_scaled((64, 128, 256, 512), width), (2, 2, 2, 2), projection=True,
                  classes=classes, post_activation=post_activation, gating=gating)


def vgg16(*, classes: int = 10, width: float = 1.0, gate_groups: int | None = None,
          grouping: bool = False, alpha: float = 2.0, sparse_bp: bool = False, share: int = 1,
          tau: float = 0.0, shuffle: bool = True, base_channels: int = 0) -> VGG:
    """VGG-16 for CIFAR with batch norms and one linear layer; see :func:`resnet20`.

    Gates all convolutions but the first, 12 in all.
    """
    gating = Gating(groups=gate_groups, grouping=grouping, alpha=alpha, sparse_bp=sparse_bp,
                    share=share, tau=tau, shuffle=shuffle, base_channels=base_channels)
    layers = [x if isinstance(x, str) else _scaled((x,), width)[0] for x in _VGG16]
    return VGG(layers, classes=classes, gating=gating)


def lenet(*, classes: int = 10, width: float = 1.0, gate_groups: int | None = None,
          grouping: bool = False, alpha: float = 2.0, sparse_bp: bool = False, share: int = 1,
          tau: float = 0.0, shuffle: bool = True, base_channels: int = 0) -> VGG:
    """A network of LeNet's size for 28x28 grey images, of 3x3 convolutions; see :func:`resnet20`.

    Gates all convolutions but the first, 3 in all.
    """
    gating = Gating(groups=gate_groups, grouping=grouping, alpha=alpha, sparse_bp=sparse_bp,
                    share=share, tau=tau, shuffle=shuffle, base_channels=base_channels)
    layers = [x if isinstance(x, str) else _scaled((x,), width)[0] for x in _LENET]
    return VGG(layers, classes=classes, gating=gating, inputs=1)


def load_reference_resnet20(data_folder: str | Path | None = None) -> ResNet:
    """A trained dense ResNet-20, in evaluation mode (Idelbayev, BSD-2-Clause).

    Its inputs are normalized by :func:`hwgate.data.cifar.normalize`.

    Parameters
    ----------
    data_folder : path, optional
        Folder of :data:`REFERENCE`; by default the variable ``HWGATE_DATA``.

    Raises
    ------
    UserError
        If there is no such file, or it holds other weights.
    """
    folder = data_folder or os.environ.get("HWGATE_DATA")
    if not folder:
        raise UserError(f"The reference network needs the variable HWGATE_DATA, the folder that "
                        f"holds {REFERENCE}")
    path = Path(folder) / REFERENCE
    weights, _ = read_safetensors(path)
    model = resnet20()
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    if {k: v.shape for k, v in wanted.items()} != {k: v.shape for k, v in weights.items()}:
        raise UserError(f"File {path} does not hold the weights of a ResNet-20")
    model.load_state_dict(weights, strict=False)
    return model.eval()


def _project(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A 1x1 convolution with a batch norm, as a shortcut."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                         nn.BatchNorm2d(outputs))


def _scaled(channels: Sequence[int], width: float) -> tuple[int, ...]:
    """Channel counts times ``width``, rounded."""
    scaled = tuple(round(count * width) for count in channels)
    if min(scaled) < 1:
        raise UserError(f"Width must leave every layer a channel, which {width!r} does not")
    return scaled
