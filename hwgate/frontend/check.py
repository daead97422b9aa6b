"""Can a network run? All that keeps it from running, at once, and the buffers that it needs."""

from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from typing import Any

import torch

from hwgate.errors import CompileError, UserError, expect
from hwgate.machine.config import PRESETS, AcceleratorConfig, preset_line
from hwgate.plan.fitting import (
    Placed,
    changed_fields,
    described,
    lack_of,
    presets_by_size,
    smallest,
    widest,
)
from hwgate.plan.geometry import Shape
from hwgate.plan.layer import stored_layer
from hwgate.quant.layer import IMAGE, QuantizedLayer, shape_of
from hwgate.quant.network import QuantizedNetwork

from .fold import fold_block
from .graph import Graph
from .lowering.blocks import Block, Lowered
from .lowering.limits import check_conv
from .lowering.lower import lower
from .lowering.views import UNKNOWN
from .model import evaluating, unwrap
from .passes import drop_softmax, simplify
from .readers.torch_reader import read_torch

__all__ = ["Check", "check"]

#: Bits of the widest accumulator.
_WIDEST = 32

#: What a layer that even the largest buffers cannot hold has too much of, by the field.
_TOO_LARGE = {"passes": "fewer input channels, or an accelerator with more channels a group",
              "window_words": "smaller maps or fewer input channels",
              "pixels": "smaller maps",
              "output_words": "smaller maps, fewer output channels, or more lanes"}


@dataclass(frozen=True)
class Check:
    """Whether a network runs on an accelerator, and what it would take.

    Parameters
    ----------
    obstacles : tuple of str
        All that keeps the network from running, one sentence each: the layer by its module path,
        the limit, and the way out. Empty if it runs.
    config : AcceleratorConfig or None
        The accelerator with its buffers as large as the network needs, and no larger: that which
        was asked for, if it runs. None if larger buffers are not enough.
    preset : str or None
        Name of the smallest preset that runs the network.
    """

    obstacles: tuple[str, ...]
    config: AcceleratorConfig | None = None
    preset: str | None = None

    @property
    def fits(self) -> bool:
        """Whether the network runs on the accelerator that was asked for."""
        return not self.obstacles

    @property
    def line(self) -> str | None:
        """Python that makes :attr:`config`."""
        return None if self.config is None else preset_line(self.config)

    def describe(self) -> str:
        """Lines for people."""
        if self.fits:
            lines = ["Nothing keeps the network from running."]
        else:
            count = len(self.obstacles)
            lines = [f"{count} obstacle{'s' * (count > 1)} keep{'s' * (count == 1)} the network "
                     "from running:",
                     *(f"{n}. {text}" for n, text in enumerate(self.obstacles, 1))]
            if self.config is not None:
                lines.append(f"The smallest buffers that hold it: {self.line}")
        if self.preset is not None:
            lines.append(f"The smallest preset that runs it: {self.preset}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, ready for JSON."""
        return {"fits": self.fits, "obstacles": list(self.obstacles), "line": self.line,
                "config": None if self.config is None else self.config.to_dict(),
                "preset": self.preset}


def check(model: Any, image_shape: tuple[int, ...], config: AcceleratorConfig) -> Check:
    """All that keeps a network from running on an accelerator; without images, so in seconds.

    Whether its integers follow the model is for :func:`quantize` to say, as is whether a narrow
    accumulator holds sums over maps side by side, which depend on their steps; and whether a batch
    fits the memory for :meth:`Program.bind`.

    Parameters
    ----------
    model : Module or ExportedProgram
        Trained or not. Used in evaluation mode, and not changed.
    image_shape : (C, H, W) or (C,)
    config : AcceleratorConfig

    Raises
    ------
    UserError
        For what is no model, or no shape of an image, or another one than a program was exported
        for.
    """
    expect("Configuration", config, AcceleratorConfig, hint="hwgate.preset makes one")
    expect("Shape of an image", image_shape, tuple, list)
    for size in image_shape:
        expect("Size of an image", size, Integral)
    if len(image_shape) not in (1, 3) or min(image_shape) < 1:
        raise UserError(f"The shape of an image must be three positive integers (C, H, W), or "
                        f"one of a vector (C,), not {tuple(image_shape)}")
    model = unwrap(model)
    with evaluating(model):
        try:
            graph = drop_softmax(simplify(read_torch(model, image_shape)))
        except CompileError as error:
            return Check((str(error),))
        if graph.image.shape != tuple(image_shape):
            raise UserError(f"The model was exported for images of {shape_of(graph.image.shape)}, "
                            f"not {shape_of(image_shape)}")
        lowered, refused = lower(graph)
        if refused:
            found = _Layers(graph, lowered, config)
            return Check((*refused, *found.obstacles, *found.shortages(config)))
        found = _Layers(graph, lowered, config).connected()
        preset = next((name for name in presets_by_size() if found.runs(PRESETS[name])), None)
    shortages = found.shortages(config)
    enough = None if found.obstacles else smallest(found.placed, config)
    # With buffers as large as the network needs, another layer's bands may become too large.
    late = [] if enough is None else [text for placed in found.placed
                                      if (text := _overflow(placed, enough))]
    obstacles = dict.fromkeys((*found.obstacles, *shortages, *late))
    return Check(tuple(obstacles), None if late else enough, preset)


class _Layers:
    """The layers of blocks, as far as they can be told: their shapes, without calibration.

    Parameters
    ----------
    graph : Graph
    lowered : Lowered
        Of ``graph``; of blocks behind an obstacle, those that are sound themselves are taken.
    config : AcceleratorConfig

    Attributes
    ----------
    layers : list of QuantizedLayer
    placed : list of Placed
        The same, as they take their inputs from memory.
    obstacles : list of str
        What but the size of buffers keeps them from running.
    """

    def __init__(self, graph: Graph, lowered: Lowered, config: AcceleratorConfig) -> None:
        self.graph, self.lowered, self.config = graph, lowered, config
        self.layers: list[QuantizedLayer] = []
        self.placed: list[Placed] = []
        self.obstacles: list[str] = []
        for index, block in enumerate(lowered.blocks):
            self._take(index, block)

    def connected(self) -> "_Layers":
        """The same, with obstacles between layers of a complete network among its own."""
        layers: list[QuantizedLayer] = []
        for layer in self.layers:
            try:
                QuantizedNetwork(self.config, (*layers, layer))
                layers.append(layer)
            except CompileError as error:
                self.obstacles.append(str(error))
                layers.append(replace(layer, residual=None, mult_residual=None, relu_first=False,
                                      limit=0))
        return self

    def runs(self, config: AcceleratorConfig) -> bool:
        """Whether a complete network runs on another accelerator."""
        if any(lack_of(placed, config) for placed in self.placed):
            return False
        other = _Layers(self.graph, self.lowered, config).connected()
        return not other.obstacles and not other.shortages(config)

    def shortages(self, config: AcceleratorConfig) -> list[str]:
        """A sentence for each layer that does not fit."""
        return [text for placed in self.placed if (text := _shortage(placed, config))]

    def _take(self, index: int, block: Block) -> None:
        shapes = [self._source(source, block) for source in block.sources]
        scales, config = defaultdict[int, float](lambda: 1.0), self.config
        if len(shapes) > 1:  # sums of maps side by side depend on their steps: all have room
            config = replace(config, formats=replace(config.formats, accumulator=_WIDEST))
        try:
            if block.op.op == "Conv":
                check_conv(block.op)
        except CompileError:
            return  # which is among the obstacles of the lowering
        if UNKNOWN in block.sources and block.op.op == "Linear":
            return  # whether it is one of a flattened map is not known
        try:
            layer = fold_block(index, block, shapes, scales, config)
        except CompileError as error:
            self.obstacles.append(str(error))
            layer = fold_block(index, _blank(block), shapes, scales, config)
        residual = None if block.residual is None else self._shape(block.residual)
        parts = [channels for channels, _, _ in shapes]
        self.layers.append(layer)
        self.placed.append(Placed(stored_layer(layer, parts, self.config), residual))

    def _source(self, index: int, block: Block) -> Shape:
        """Shape of what a block takes, whether a layer computes it or not."""
        if index != UNKNOWN:
            return self._shape(index)
        channels, height, width = (*self.graph.node(block.op.inputs[0]).shape, 1, 1)[:3]
        return channels, height, width

    def _shape(self, index: int) -> Shape:
        """Shape of the output of a block, or of the image."""
        name = self.lowered.image if index == IMAGE else self.lowered.blocks[index].value
        shape = self.graph.node(name).shape
        if len(shape) != 3:
            shape = (*shape, 1, 1) if index == IMAGE else self.lowered.blocks[index].shape
        channels, height, width = shape
        return channels, height, width


def _blank(block: Block) -> Block:
    """A block of the same shapes without weights and gates, which folds whatever they were."""
    op, tensors = block.op, {"weight": torch.zeros_like(block.op.tensors["weight"])}
    options = {name: value for name, value in op.options.items() if name != "gate"}
    return replace(block, op=replace(op, tensors=tensors, options=options), after=())


def _shortage(placed: Placed, config: AcceleratorConfig) -> str:
    """Which buffers a layer does not fit; empty if it fits."""
    layer, place = placed.layer, _place(placed.layer)
    rows = (" with all its rows, which its tau needs" if layer.limit else
            "" if layer.reduce else " even for the smallest band of rows")
    enough, largest = smallest([placed], config), widest(config)
    if enough is None:
        lack = lack_of(placed, largest)
        assert lack is not None
        return (f"{place} needs {lack.need:,} {lack.what}{rows}, but buffers.{lack.knob} ends at "
                f"{lack.have:,}; use {_TOO_LARGE[lack.knob]}")
    changes = changed_fields(config, enough)
    if not changes:
        return _overflow(placed, config)
    before = asdict(config.buffers)
    lacks = _and([f"buffers.{name}={before[name]}" for name in changes])
    holds = next((name for name in presets_by_size() if not lack_of(placed, PRESETS[name])), None)
    return (f"{place} does not fit {lacks}{rows}; raise {'it' if len(changes) == 1 else 'them'} to "
            f"{_and(list(map(str, changes.values())))}"
            + (f", or take preset {holds!r}" if holds else ""))


def _overflow(placed: Placed, config: AcceleratorConfig) -> str:
    """Which field of its descriptor a layer that fits exceeds; empty if none."""
    problem = described(placed, config)
    return problem and (f"{_place(placed.layer)} has bands too large for a descriptor ({problem}); "
                        "use smaller maps, or smaller buffers.pixels for smaller bands")


def _place(layer: QuantizedLayer) -> str:
    edge = layer.kernel
    kind = "linear layer" if layer.reduce else f"{edge}x{edge} convolution"
    return f"Layer {layer.name!r}, a {kind} of {shape_of(layer.in_shape)},"


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + words[-1:])
