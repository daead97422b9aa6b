"""A network as every reader hands it on: few operators, float parameters, where each came from."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hwgate.errors import CompileError

from .operators import OPERATORS

__all__ = ["BEHIND", "RUNS", "UNSUPPORTED", "Graph", "Node", "refusal"]

#: What layers compute, in the words of their users.
RUNS = ("Conv2d, GatedConv2d and Linear, BatchNorm2d, ReLU and ReLU6, additions, concatenations "
        "and choices of channels, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d(1) and Flatten")

#: Operator of a node that no layer of the accelerator computes; ``options`` say ``what`` it does,
#: as the rest of a sentence that begins with its place, and the way out (``hint``).
UNSUPPORTED = "Unsupported"

#: Operator of a node that takes what an unsupported one leaves without channels of each image:
#: nothing is known of it.
BEHIND = "Behind"


@dataclass(frozen=True, eq=False)
class Node:
    """One operator and the value that it computes.

    Parameters
    ----------
    name : str
        Of the value; no other node has it.
    op : str
        One of ``hwgate.frontend.operators.OPERATORS``, ``Input``, :data:`UNSUPPORTED` or
        :data:`BEHIND`.
    inputs : tuple of str
        Names of the values that it takes.
    shape : tuple of int
        Of the value for one image: (C, H, W), or (C,) of a vector.
    origin : str
        Where the user finds it: a module path, or a node of a file.
    tensors : mapping
        Float parameters. Those of a PyTorch model are its own, so that they can be trained.
    keys : mapping
        Names of these parameters in the user's model, where they are its own.
    options : mapping
        Everything else, such as strides.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    origin: str = ""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which each takes values of nodes before it.

    Parameters
    ----------
    nodes : tuple of Node
        The first one is the image, of operator ``Input``.
    output : str
        Name of the value that is the network's result.
    """

    nodes: tuple[Node, ...]
    output: str

    @property
    def image(self) -> Node:
        return self.nodes[0]

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in: double precision if its parameters are, else single."""
        dtypes = {tensor.dtype for node in self.nodes for tensor in node.tensors.values()
                  if node.op in ("Conv", "Linear")}
        return torch.float64 if dtypes == {torch.float64} else torch.float32

    def node(self, name: str) -> Node:
        """The node that computes a value."""
        return next(node for node in self.nodes if node.name == name)

    def readers(self) -> Counter[str]:
        """How many operators take each value; the result is taken once."""
        return Counter([*(name for node in self.nodes for name in node.inputs), self.output])

    def live(self) -> "Graph":
        """The graph without what its result does not depend on, the image apart."""
        wanted = {self.output, self.image.name}
        for node in reversed(self.nodes):
            if node.name in wanted:
                wanted.update(node.inputs)
        return Graph(tuple(node for node in self.nodes if node.name in wanted), self.output)

    def values(self, images: Tensor, names: Collection[str] = ()) -> Iterator[tuple[Node, Tensor]]:
        """Nodes and what they compute in float, in order.

        Parameters
        ----------
        images : float (N, C, H, W)
        names : collection of str
            Values that are wanted; all without.

        Raises
        ------
        CompileError
            At a node that no layer computes.
        """
        readers, known = self.readers(), dict[str, Tensor]()
        for node in self.nodes:
            if node.op == UNSUPPORTED:
                raise refusal(node)
            if node.op == "Input":
                value = images.to(self.dtype)
            else:
                value = OPERATORS[node.op]([known[name] for name in node.inputs], node.tensors,
                                           node.options)
            known[node.name] = value
            if not names or node.name in names:
                yield node, value
            for name in node.inputs:  # what nobody takes any more is forgotten
                readers[name] -= 1
                if not readers[name]:
                    del known[name]

    def __call__(self, images: Tensor) -> Tensor:
        """The network's result in float, for a batch."""
        with torch.no_grad():
            (_, value), = self.values(images, (self.output,))
        return value


def refusal(node: Node) -> CompileError:
    """What an unsupported node is refused with."""
    return CompileError(f"Layer {node.origin!r} {node.options['what']}; {node.options['hint']}")
