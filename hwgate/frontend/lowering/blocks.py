"""The layers of the accelerator in terms of a graph, which lowering makes and folding takes."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hwgate.frontend.graph import Node
from hwgate.nn.gated import GatedConv2d

__all__ = ["Block", "Lowered", "Shortcut", "copying", "averaging", "rebind"]


@dataclass(frozen=True)
class Shortcut:
    """A residual seen through a padding shortcut: sampled, then moved up by some channels."""

    stride: int = 1
    offset: int = 0


@dataclass
class Block:
    """One layer of the accelerator.

    Parameters
    ----------
    name : str
        Origin of the operator that it computes first; unique.
    value : str
        Name of the value that is the block's output (of any channel order).
    op : Node
        ``Conv`` or ``Linear``.
    sources : tuple of int
        Indices of the blocks whose outputs, side by side, are the input; ``IMAGE`` is the image.
    channels : tuple of int or None
        Where the operator's input channels are among those of the sources, or -1 for one that is
        zero; None for one after the other.
    after : tuple of Node
        Batch norm and affine maps behind it, in order.
    relu : bool
    bound : float or None
        Largest magnitude of an output, behind a ReLU6 or another clamp.
    pool : int
        Edge and stride of the max pooling; 1 for none.
    average : bool
        The input is averaged over all its pixels first.
    window : (H, W) or None
        Rows and columns of a map that a linear layer takes flattened.
    order : int64 (Co,) or None
        Channel shuffle behind the convolution: output c is the convolution's output order[c].
    residual : int or None
        Index of the block whose output is added, or ``IMAGE``.
    shortcut : Shortcut
        How the residual is seen.
    relu_first : bool
        ReLU before the addition.
    """

    name: str
    value: str
    op: Node
    sources: tuple[int, ...]
    channels: tuple[int, ...] | None = None
    after: tuple[Node, ...] = ()
    relu: bool = False
    bound: float | None = None
    pool: int = 1
    average: bool = False
    window: tuple[int, int] | None = None
    order: Tensor | None = None
    residual: int | None = None
    shortcut: Shortcut = field(default_factory=Shortcut)
    relu_first: bool = False

    @property
    def gate(self) -> GatedConv2d | None:
        """The layer that decides, if the convolution is gated."""
        return self.op.options.get("gate")

    @property
    def reduces(self) -> bool:
        """It sums all pixels of its input, of which a linear layer has one."""
        return self.average or self.op.op == "Linear" and self.window is None

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of its output."""
        channels, height, width = (*self.op.shape, 1, 1)[:3]
        return channels, height // self.pool, width // self.pool


@dataclass(frozen=True)
class Lowered:
    """The blocks of a graph.

    Parameters
    ----------
    blocks : tuple of Block
        Each fed by blocks before it or the image; the last one is the result.
    image : str
        Name of the value that is the image as the first layer takes it.
    scale, shift : float64 (C,)
        Of the normalization of the image inside of the model.
    """

    blocks: tuple[Block, ...]
    image: str
    scale: Tensor
    shift: Tensor


def copying(name: str, shape: tuple[int, ...], origin: str, stride: int = 1) -> Node:
    """A convolution that copies a map (C, H, W): 3x3 and depthwise, with nothing but its centre
    tap."""
    channels, height, width = shape
    weight = torch.zeros(channels, 1, 3, 3)
    weight[:, 0, 1, 1] = 1
    pixels = -(-height // stride), -(-width // stride)
    return Node(name, "Conv", (), (channels, *pixels), origin, {"weight": weight}, options={
        "stride": (stride, stride), "padding": (1, 1, 1, 1), "dilation": (1, 1),
        "groups": channels, "constant": True})


def averaging(name: str, channels: int, origin: str) -> Node:
    """A linear layer that hands on the average of each channel."""
    return Node(name, "Linear", (), (channels, 1, 1), origin, {"weight": torch.eye(channels)},
                options={"constant": True})


def rebind(lowered: Lowered, model: nn.Module) -> Lowered:
    """The same blocks with the tensors that a model has now, such as on another device."""
    def bound(node: Node) -> Node:
        owners = {name: key.rpartition(".") for name, key in node.keys.items()}
        return replace(node, tensors={**node.tensors, **{
            name: getattr(model.get_submodule(path), last)
            for name, (path, _, last) in owners.items()}})

    blocks = tuple(replace(block, op=bound(block.op), after=tuple(map(bound, block.after)))
                   for block in lowered.blocks)
    return replace(lowered, blocks=blocks)
