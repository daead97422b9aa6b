"""What random cases have exercised, counted, so that nobody believes in what was never drawn."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hwgate.compiler.program import Program, Step
from hwgate.machine.config import (
    TAPS,
    WRITE_BUFFER,
    AcceleratorConfig,
    FormatConfig,
    MemoryTiming,
)
from hwgate.plan.geometry import kernel_blocks
from hwgate.plan.layer import LayerPlan
from hwgate.quant.layer import IMAGE, QuantizedLayer
from hwgate.results.run import LayerResult, RunResult
from hwgate.rtl.lane import decision_latency
from hwgate.schedule.open_pixels import OpenPixels

__all__ = ["FEATURES", "features_of"]


@dataclass(frozen=True)
class _Seen:
    """One layer of a program that has run."""

    program: Program
    index: int
    result: LayerResult
    step: Step
    timing: MemoryTiming

    @property
    def config(self) -> AcceleratorConfig:
        return self.program.config

    @property
    def plan(self) -> LayerPlan:
        return self.program.plans[self.index]

    @property
    def layer(self) -> QuantizedLayer:
        return self.plan.layer

    @property
    def images(self) -> int:
        return len(self.result.activations.output)

    @property
    def adds(self) -> bool:
        return self.layer.residual is not None

    @property
    def packed(self) -> bool:
        """Input or output without zero bytes."""
        return bool(self.step.descriptor["in_packed"] or self.step.descriptor["out_packed"])

    @property
    def turns_of_writes(self) -> bool:
        """Output that takes turns with reads on the bus."""
        return self.timing.shared and not self.step.descriptor["out_chip"]

    @property
    def passes(self) -> int:
        """Channel groups of the input, of nine each for a 1x1 kernel."""
        size = self.config.channels * (TAPS if self.layer.kernel == 1 else 1)
        return -(-self.plan.stored.in_shape[0] // size)

    @property
    def shared(self) -> bool:
        """Images that share a tile."""
        return self.step.tiling.per_tile > 1

    @property
    def fewer(self) -> bool:
        """A last tile of fewer images."""
        return len({part.images for part in self.step.tiling.parts()}) > 1

    @property
    def grouped(self) -> bool:
        return self.layer.fan_in is not None and self.layer.fan_in < self.layer.weight[0].size

    @property
    def depthwise(self) -> bool:
        """One input channel for each output."""
        return self.grouped and self.layer.fan_in == self.layer.kernel**2

    @property
    def uneven(self) -> bool:
        """Padding that differs among the sides."""
        return len(set(self.layer.pads)) > 1

    @property
    def blank(self) -> bool:
        """Some output channel has no weights."""
        return not self.layer.weight.any(axis=(1, 2, 3)).all()

    @property
    def thin(self) -> bool:
        """Jobs without some of their blocks."""
        every = self.passes * kernel_blocks(self.layer.kernel) ** 2
        return any(len(job.base) + len(job.conditional) < every for job in self.plan.jobs)

    def empty(self, path: NDArray[np.bool_]) -> bool:
        """Some output channel has no weights in a path, but in the other one."""
        read = self.layer.weight.any(axis=(2, 3))
        return bool((~(read & path).any(axis=1) & read.any(axis=1)).any())

    def zeros_taken(self, channel: int) -> bool:
        """A job has more blocks of zeros than the one that it must have."""
        size = self.config.channels * (TAPS if self.layer.kernel == 1 else 1)
        weight = self.plan.stored.weight[channel]
        groups = set(self.plan.jobs[channel].base)
        return len([g for g in groups if not weight[g * size:(g + 1) * size].any()]) > 1

    @property
    def beside(self) -> int:
        """Maps that are its input."""
        return len(self.program.network.inputs(self.index))

    def kept(self, channels: int = 1) -> bool:
        """Weights of so many channels stay on chip."""
        return self.step.descriptor["kept_channels"] >= channels

    @property
    def asked_late(self) -> bool:
        """A channel whose weights stay has all gates closed in the first tile or its image."""
        decided = self.result.activations.decision[:, :self.step.descriptor["kept_channels"]]
        opened = decided.any(axis=(2, 3))
        first = self.step.tiling.per_tile
        return bool((opened.any(axis=0) & ~opened[:first].any(axis=0)).any())

    @property
    def several(self) -> bool:
        """Gates that channels share."""
        return self.layer.gate is not None

    @property
    def scores(self) -> int:
        """Score jobs of a tile, of all lanes."""
        return sum(score for own in self.plan.order for _, score in own)

    @property
    def repeats(self) -> bool:
        """A lane computes a score of a tile more than once."""
        gate = self.layer.gate
        own = [[gate[channel] for channel, score in order if score] for order in self.plan.order
               ] if gate is not None else []
        return any(len(set(gates)) < len(gates) for gates in own)

    @property
    def turns(self) -> bool:
        """In some lane a score that closes all pixels comes before one that opens some."""
        opened = self.result.activations.decision[:self.step.tiling.per_tile].any(axis=(0, 2, 3))
        own = [[opened[channel] for channel, score in order if score] for order in self.plan.order]
        return any((False, True) in pairwise(kinds) for kinds in own)

    @property
    def waits(self) -> bool:
        """A lane's only job ends its first conditional pass with the last pixel of the map, which
        the gate has yet to decide.

        Its gate pass has decided on the first open pixel before it ends, so that only the last one
        can be what the lane waits for.
        """
        parts, orders = self.step.tiling.parts(), self.plan.order
        if not self.layer.gated or self.several or len(parts) > 1:
            return False
        opened = OpenPixels.of(self.result.activations.decision, self.step.tiling, self.layer.limit)
        _, height, width = self.layer.conv_shape
        pixels, early = parts[0].images * height * width, decision_latency(self.config) + 1
        return any(
            lane["gate"] > 0 and opened.count[0, channel] > 0
            and opened.last[0, channel] == pixels - 1 and opened.first[0, channel] + early <= pixels
            for lane, own in zip(self.result.lanes, orders, strict=True) if len(own) == 1
            for channel, _ in own)

    @property
    def mixed(self) -> bool:
        """Gated, with open and closed pixels."""
        return self.layer.gated and 0 < self.result.density < 1


#: Every feature that the random cases must reach, and how to see that a layer has it.
FEATURES: dict[str, Callable[[_Seen], bool]] = {
    "gated": lambda s: s.layer.gated,
    "not gated": lambda s: not s.layer.gated and not s.program.dense,
    "forced open": lambda s: s.program.dense,
    "gates all open": lambda s: s.layer.gated and s.result.density == 1,
    "gates all closed": lambda s: s.layer.gated and s.result.density == 0,
    "gates open and closed": lambda s: s.mixed,
    "tau": lambda s: s.layer.limit > 0,
    "tau, open and closed": lambda s: s.layer.limit > 0 and s.mixed,
    "tau, images that share a tile": lambda s: s.layer.limit > 0 and s.mixed and s.shared,
    "tau, a residual": lambda s: s.layer.limit > 0 and s.mixed and s.adds,
    "a conditional pass that waits for the last task": lambda s: s.waits,
    "shared gates": lambda s: s.several,
    "shared gates, open and closed": lambda s: s.several and s.mixed,
    "a gate of a slice": lambda s: s.several and len(s.plan.scores) > 1,
    "a gate of a pixel": lambda s: s.several and len(s.plan.scores) == 1,
    "scores of a gate on several lanes": lambda s: s.scores > len(s.plan.scores),
    "a score several times on a lane": lambda s: s.repeats,
    "a closed score before an open one": lambda s: s.turns,
    "shared gates, tau": lambda s: s.several and s.mixed and s.layer.limit > 0,
    "shared gates in bands": lambda s: s.several and s.mixed and len(s.plan.bands) > 1,
    "shared gates, images that share a tile": lambda s: s.several and s.mixed and s.shared,
    "shared gates, several tiles": lambda s: s.several and s.step.tiling.tiles > 1,
    "shared gates, a residual": lambda s: s.several and s.mixed and s.adds,
    "shared gates, weights that stay": lambda s: s.several and s.mixed and s.kept(),
    "shared gates, weights of some channels stay": lambda s: s.several and s.kept() and (
        not s.kept(s.layer.out_shape[0])),
    "shared gates, kernel 1x1": lambda s: s.several and s.mixed and s.layer.kernel == 1,
    "a base path that is not the first groups": lambda s: s.mixed and not s.layer.base[:, 0].all(),
    **{f"kernel {k}x{k}": lambda s, k=k: s.layer.kernel == k and not s.layer.reduce
       for k in (1, 3, 5, 7)},
    **{f"kernel {k}x{k}, open and closed": lambda s, k=k: s.layer.kernel == k and s.mixed
       for k in (1, 3, 5, 7)},
    "1x1 of several passes": lambda s: s.layer.kernel == 1 and s.passes > 1,
    **{f"stride 2, kernel {k}x{k}": lambda s, k=k: s.layer.stride == 2 and s.layer.kernel == k
       for k in (1, 3, 5, 7)},
    "stride 2, open and closed": lambda s: s.layer.stride == 2 and s.mixed,
    **{f"padding {n}": lambda s, n=n: s.layer.padding == n for n in range(4)},
    "less padding than half the kernel": lambda s: max(s.layer.pads) < s.layer.kernel // 2,
    "padding that differs among the sides": lambda s: s.uneven,
    "padding that differs, open and closed": lambda s: s.uneven and s.mixed,
    "padding that differs, in bands": lambda s: s.uneven and len(s.plan.bands) > 1,
    "padding that differs, stride 2": lambda s: s.uneven and s.layer.stride == 2,
    "more padding than half the kernel": lambda s: max(s.layer.pads) > s.layer.kernel // 2,
    "grouped": lambda s: s.grouped and not s.depthwise,
    "depthwise": lambda s: s.depthwise,
    "depthwise in bands": lambda s: s.depthwise and len(s.plan.bands) > 1,
    "depthwise, images that share a tile": lambda s: s.depthwise and s.shared,
    "depthwise, a residual": lambda s: s.depthwise and s.adds,
    "zero blocks left out": lambda s: s.thin and not s.grouped,
    "zero blocks left out, open and closed": lambda s: s.thin and s.mixed,
    "zero blocks left out, kernel 1x1": lambda s: s.thin and s.layer.kernel == 1,
    "zero blocks left out, kernel 5x5": lambda s: s.thin and s.layer.kernel == 5,
    "a channel without weights": lambda s: s.blank,
    "a channel without weights, open and closed": lambda s: s.blank and s.mixed,
    "an empty base path": lambda s: s.mixed and s.empty(s.layer.base),
    "an empty conditional path": lambda s: s.mixed and s.empty(~s.layer.base),
    "a single block of each path": lambda s: s.mixed and any(
        len(job.base) == len(job.conditional) == 1 for job in s.plan.jobs),
    "zero blocks that spare a request": lambda s: any(
        s.zeros_taken(channel) for channel in range(len(s.plan.jobs))),
    "maps side by side": lambda s: s.beside > 1,
    "maps side by side, with holes": lambda s: s.plan.stored is not s.layer,
    "maps side by side, with holes, open and closed": lambda s: (
        s.plan.stored is not s.layer and s.mixed),
    "the image beside others": lambda s: s.beside > 1 and (
        IMAGE in s.program.network.inputs(s.index)),
    "maps side by side on chip": lambda s: s.beside > 1 and bool(s.step.descriptor["in_chip"]),
    "maps side by side without their zero bytes": lambda s: (
        s.beside > 1 and bool(s.step.descriptor["in_packed"])),
    "maps side by side in bands": lambda s: s.beside > 1 and len(s.plan.bands) > 1,
    "maps side by side, a batch": lambda s: s.beside > 1 and s.images > 1,
    "maps side by side, kernel 1x1": lambda s: s.beside > 1 and s.layer.kernel == 1,
    "a map beside others is a residual": lambda s: s.adds and len(
        s.program.network.chains[s.layer.residual]) > 1,
    "residual": lambda s: s.adds,
    "residual, open and closed": lambda s: s.adds and s.mixed,
    "residual, the image": lambda s: s.layer.residual == IMAGE,
    "residual, a layer further back": lambda s: s.adds and s.layer.residual < s.index - 1,
    "residual, strided": lambda s: s.adds and s.layer.residual_stride > 1,
    "residual, from a later channel on": lambda s: s.adds and s.layer.residual_offset > 0,
    "residual, then pooling": lambda s: s.adds and s.layer.pool > 1,
    "residual in bands": lambda s: s.adds and len(s.plan.bands) > 1,
    "residual of a 1x1 kernel": lambda s: s.adds and s.layer.kernel == 1,
    "ReLU before the residual": lambda s: s.layer.relu_first,
    "no ReLU": lambda s: not s.layer.relu and not s.layer.reduce,
    "input is not the layer before": lambda s: s.program.network.inputs(s.index) != (s.index - 1,),
    "pooling 2x2": lambda s: s.layer.pool == 2,
    "pooling 3x3": lambda s: s.layer.pool == 3,
    "pooling drops a remainder": lambda s: any(n % s.layer.pool for n in s.layer.conv_shape[1:]),
    "sum of all pixels": lambda s: s.layer.reduce and s.layer.in_shape[1:] != (1, 1),
    "one pixel": lambda s: s.layer.conv_shape[1:] == (1, 1),
    "not square": lambda s: s.layer.in_shape[1] != s.layer.in_shape[2],
    "input channels no multiple of R": lambda s: s.layer.in_shape[0] % s.config.channels > 0,
    "output channels no multiple of R": lambda s: s.layer.out_shape[0] % s.config.channels > 0,
    "fewer channels than lanes": lambda s: s.layer.out_shape[0] < s.config.lanes,
    "several jobs per lane and tile": lambda s: s.layer.out_shape[0] > s.config.lanes,
    "two bands": lambda s: len(s.plan.bands) == 2,
    "three bands or more": lambda s: len(s.plan.bands) > 2,
    "bands, open and closed": lambda s: len(s.plan.bands) > 1 and s.mixed,
    "bands of stride 2": lambda s: len(s.plan.bands) > 1 and s.layer.stride == 2,
    "bands of a larger kernel": lambda s: len(s.plan.bands) > 1 and s.layer.kernel > 3,
    "bands of a 1x1 kernel": lambda s: len(s.plan.bands) > 1 and s.layer.kernel == 1,
    "bands of several images": lambda s: len(s.plan.bands) > 1 and s.images > 1,
    "bands, one image": lambda s: len(s.plan.bands) > 1 and s.images == 1,
    "bands and pooling": lambda s: len(s.plan.bands) > 1 and s.layer.pool > 1,
    "weights for more than one request": lambda s: any(
        len(job.base) > s.config.request_blocks for job in s.plan.jobs),
    "conditional weights for more than one request": lambda s: s.mixed and any(
        len(job.conditional) > s.config.request_blocks for job in s.plan.jobs),
    "one image": lambda s: s.images == 1,
    "a batch": lambda s: s.images > 1,
    "images that share a tile": lambda s: s.shared,
    "images that share a tile, open and closed": lambda s: s.shared and s.mixed,
    "images that share a tile, kernel 1x1": lambda s: s.shared and s.layer.kernel == 1,
    "images that share a tile, residual": lambda s: s.shared and s.adds,
    "images that share a tile, pooling": lambda s: s.shared and s.layer.pool > 1,
    "a last tile of fewer images": lambda s: s.fewer,
    "a last tile of fewer images, open and closed": lambda s: s.fewer and s.mixed,
    "a last tile of fewer images, residual": lambda s: s.fewer and s.adds,
    **{f"{name} on chip": lambda s, prefix=prefix: bool(s.step.descriptor[f"{prefix}_chip"])
       for prefix, name in (("in", "input"), ("res", "residual"), ("out", "output"))},
    "weights that stay on chip": lambda s: s.kept(),
    "weights that stay, of some channels": lambda s: s.kept() and not s.kept(s.layer.out_shape[0]),
    "weights that stay, open and closed": lambda s: s.kept() and s.mixed,
    "weights that stay from band to band": lambda s: s.kept() and len(s.plan.bands) > 1,
    "weights that stay from tile to tile": lambda s: s.kept() and len(s.plan.bands) == 1,
    "conditional weights that a later tile asks for first": lambda s: s.asked_late,
    **{f"{name} without its zero bytes": lambda s, prefix=prefix: bool(
        s.step.descriptor[f"{prefix}_packed"])
       for prefix, name in (("in", "input"), ("res", "residual"), ("out", "output"))},
    "residual without its zero bytes, strided": lambda s: s.adds and s.layer.residual_stride > 1
    and bool(s.step.descriptor["res_packed"]),
    "bands without their zero bytes": lambda s: len(s.plan.bands) > 1 and s.packed,
    "images that share a tile, without their zero bytes": lambda s: s.shared and s.packed,
    **{f"R of {n}": lambda s, n=n: s.config.channels == n for n in (2, 4, 8, 16)},
    "reads and writes share the bus": lambda s: s.turns_of_writes,
    "shared bus, pooling": lambda s: s.turns_of_writes and s.layer.pool > 1,
    "shared bus, output without its zero bytes": lambda s: (
        s.turns_of_writes and bool(s.step.descriptor["out_packed"])),
    "shared bus, output on chip": lambda s: s.timing.shared and not s.turns_of_writes,
    "shared bus, input on chip": lambda s: (
        s.turns_of_writes and bool(s.step.descriptor["in_chip"])),
    "shared bus, weights that stay on chip": lambda s: s.turns_of_writes and s.kept(),
    "shared bus, more beats of a plane than wait for it": lambda s: (
        s.turns_of_writes and s.step.descriptor["out_run_beats"] > WRITE_BUFFER),
    "narrow formats": lambda s: s.config.formats != FormatConfig(),
    "bus of 64 bits": lambda s: s.config.bus.data_bits == 64,
    "bus of 128 bits": lambda s: s.config.bus.data_bits == 128,
}


def features_of(program: Program, result: RunResult,
                timing: MemoryTiming = MemoryTiming()) -> Counter[str]:
    """Layers of a run that have each of :data:`FEATURES`; those that none has are left out."""
    images = len(result.layers[0].activations.output)
    binding = program.bind(np.zeros((images, *program.network.image_shape), np.int8))
    seen = [_Seen(program, index, layer, step, timing)
            for index, (layer, step) in enumerate(zip(result.layers, binding.steps, strict=True))]
    return Counter(name for layer in seen for name, has in FEATURES.items() if has(layer))
