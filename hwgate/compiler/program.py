"""Compiler: from an integer network to a program in memory."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwgate.compiler.choice import Case, choose
from hwgate.compiler.packing import pack_maps, restored, unpack_maps, written
from hwgate.errors import UserError, expect
from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.machine.layouts import Opcode, descriptor_layout
from hwgate.plan.geometry import Shape, Tiling, describe, map_bytes
from hwgate.plan.goal import DENSITY, Goal
from hwgate.plan.layer import LayerPlan, plan_layer
from hwgate.plan.residency import (
    Lifetime,
    lifetimes,
    maps_of,
    place,
    places,
    region_bytes,
    uses,
)
from hwgate.plan.stored import StoredMap, whole_chunks
from hwgate.plan.tiling import Candidate, candidates, check_images_per_tile
from hwgate.quant.layer import IMAGE
from hwgate.quant.network import QuantizedNetwork

__all__ = ["Binding", "Program", "Step", "compile"]

#: Regions of the memory map begin at multiples of this, the page that no AXI burst crosses.
REGION_BYTES = 4096


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


@dataclass(frozen=True)
class Program:
    """A compiled network. Make one with :func:`compile`.

    Parameters
    ----------
    network : QuantizedNetwork
        Golden model of exactly what the program computes.
    config : AcceleratorConfig
    plans : tuple of LayerPlan
    dense : bool
        Compiled with every gate forced open.
    images_per_tile : int or None
        Images that share a tile where they fit; None for the compiler's choice.
    goal : Goal
        What the compiler chooses by.
    """

    network: QuantizedNetwork
    config: AcceleratorConfig
    plans: tuple[LayerPlan, ...]
    dense: bool = False
    images_per_tile: int | None = None
    goal: Goal = field(default_factory=Goal)

    def bind(self, images: NDArray[Any]) -> "Binding":
        """Place the program and a batch of images in memory.

        Parameters
        ----------
        images : (N, C, H, W)
            int8, or float to be quantized.

        Raises
        ------
        UserError
            For an empty batch, a wrong shape or dtype, or a batch that does not fit.
        """
        return Binding(self, self.network.quantize_images(images))


class Step(NamedTuple):
    """What one descriptor runs: a layer, tile after tile."""

    plan: LayerPlan
    tiling: Tiling
    descriptor: dict[str, int]


class Binding:
    """A program and N images in one memory.

    Attributes
    ----------
    program : Program
    images : int8 (N, C, H, W)
    program_address : int
        Byte address of the first descriptor.
    steps : list of Step
        One per layer, in order.
    places : mapping of layer index to Place
        Where each output, and the image, lies: alone, or side by side with others in one region,
        which has the index of its first map.
    chip : mapping of region to int
        Outputs that stay on chip, and their first byte in the map memory.
    packed : mapping of region to int
        Outputs off chip whose zero bytes are left out, and their first entry in the chunk table.
    choices : list of Choice
        How each layer runs, and what else there was; compared with maps that are not compressed.

    Parameters
    ----------
    program : Program
    images : int8 (N, C, H, W)
    chip, packed : mapping, optional
        As above, instead of the placement that saves the most bytes, or leaves the most bytes to
        be compressed.
    """

    def __init__(self, program: Program, images: NDArray[np.int8],
                 chip: Mapping[int, int] | None = None, packed: Mapping[int, int] | None = None):
        self.program, self.images, self.program_address = program, images, 0
        config, count = program.config, len(images)
        if count > 0xFFFF:
            raise UserError(f"A batch must have at most {0xFFFF} images, not {count}")
        network, plans = program.network, program.plans
        self.places = places(network, config, count)
        self._candidates = [candidates(plan, self._residual(index), config, count,
                                       program.images_per_tile) for index, plan in enumerate(plans)]
        self.chip = self._choose_maps() if chip is None else chip
        self.choices = [choose(found, partial(self.case, index), program.goal.objective)
                        for index, found in enumerate(self._candidates)]
        at = _ceil((len(plans) + 1) * descriptor_layout().size_bytes, REGION_BYTES)
        weights = []
        for plan in plans:
            weights.append(at * REGION_BYTES)
            at += _ceil(len(plan.stream), REGION_BYTES)
        self._maps: dict[int, int] = {}  # first byte of each region
        for region in sorted({own.region for own in self.places.values()}):
            self._maps[region] = at * REGION_BYTES
            at += _ceil(count * region_bytes(network, config, region), REGION_BYTES)
        self.bytes = at * REGION_BYTES
        if self.bytes > 1 << config.bus.address_bits:
            raise UserError(f"{count} images need {self.bytes} bytes of memory, but the bus "
                            f"reaches {1 << config.bus.address_bits}")
        self.steps = [Step(plan, choice.candidate.tiling,
                           self._describe(index, choice.candidate, weights[index]))
                      for index, (plan, choice) in enumerate(zip(plans, self.choices, strict=True))]
        self.packed = self._choose_packed() if packed is None else packed
        for index, step in enumerate(self.steps):
            self._place(index, step.descriptor)

    def lifetimes(self) -> dict[int, Lifetime]:
        """Outputs that could stay on chip, by region; the same for every choice of tiles."""
        return lifetimes(self.program.network, self.program.config,
                         [self._describe(index, found[0], 0)
                          for index, found in enumerate(self._candidates)], len(self.images))

    def case(self, index: int, candidate: Candidate,
             chip: Collection[int] | None = None) -> Case:
        """A way to run a layer, for the cost model.

        Parameters
        ----------
        index : int
            Of the layer.
        candidate : Candidate
        chip : collection of int, optional
            Regions that are on chip; as bound, unless given.
        """
        program, on_chip = self.program, self.chip if chip is None else chip
        plan, goal = program.plans[index], program.goal
        flags = {f"{prefix}_chip": use in on_chip
                 for prefix, use in uses(program.network, index).items()}
        return Case(program.config, goal.timing, plan, self._describe(index, candidate, 0) | flags,
                    goal.density_of(plan.layer.name) if plan.layer.gated else 1.0)

    def _choose_maps(self) -> dict[int, int]:
        """First byte of the maps that stay on chip: those that save the most bytes."""
        maps = self.lifetimes()
        offsets = place(list(maps.values()), self.program.config.buffers.map_bytes)
        return {index: offset for index, offset in zip(maps, offsets, strict=True)
                if offset is not None}

    def packable(self) -> dict[int, Lifetime]:
        """Outputs off chip that could be compressed, by region, as entries of the chunk table.

        Every layer reads or writes whole chunks of them.
        """
        config, network = self.program.config, self.program.network
        found = {index: replace(life, size=life.size // config.chunk_bytes)
                 for index, life in self.lifetimes().items() if index not in self.chip}
        for index, step in enumerate(self.steps):
            for prefix, use in uses(network, index).items():
                if not whole_chunks(config, step.descriptor, prefix):
                    found.pop(use, None)
        return found

    def _choose_packed(self) -> dict[int, int]:
        """First entry of the maps that are compressed: those that move the most bytes."""
        entries = self.program.config.buffers.compressed_chunks
        if not entries:
            return {}
        maps = self.packable()
        return {index: first for index, first in zip(
            maps, place(list(maps.values()), entries), strict=True) if first is not None}

    def _residual(self, index: int) -> Shape | None:
        """Shape of a layer's residual operand."""
        network = self.program.network
        residual = network.layers[index].residual
        return None if residual is None else network.shape(residual)

    def _describe(self, index: int, candidate: Candidate, weights: int) -> dict[str, int]:
        """Descriptor of a layer, with addresses relative to the regions of its maps."""
        plan = self.program.plans[index]
        fields = {**describe(plan.stored, self._residual(index), self.program.config,
                             candidate.tiling), **plan.fields,
                  "kept_channels": plan.kept_channels(self.program.config, candidate.tiling.tiles),
                  "weights_address": weights}
        for prefix, use in maps_of(self.program.network, index).items():
            fields[f"{prefix}_address"] += self.places[use].offset
        return fields

    def _place(self, index: int, fields: dict[str, int]) -> None:
        """Add where the maps of a layer are."""
        for prefix, use in uses(self.program.network, index).items():
            fields[f"{prefix}_chip"] = use in self.chip
            fields[f"{prefix}_address"] += self.chip.get(use, self._maps[use])
            if use in self.packed:
                config = self.program.config
                first = self.packed[use] - self._maps[use] // config.chunk_bytes
                fields[f"{prefix}_packed"] = 1
                fields[f"{prefix}_entry"] = first % config.buffers.compressed_chunks

    def where(self, index: int) -> str:
        """Where the output of a layer is: ``on chip``, ``off chip`` or ``off chip, compressed``."""
        region = self.places[index].region
        return ("on chip" if region in self.chip else
                "off chip, compressed" if region in self.packed else "off chip")

    def stored(self, index: int, outputs: Callable[[int], NDArray[np.int8]] | None = None
               ) -> dict[str, StoredMap]:
        """Compressed maps of a layer by the prefix of their descriptor fields.

        Parameters
        ----------
        index : int
        outputs : callable, optional
            Gives int8 (N, Co, H, W) of a layer; without, zeros are assumed.
        """
        config, network, found = self.program.config, self.program.network, {}
        for prefix, use in uses(network, index).items():
            if use in self.packed and outputs is not None:
                packed = [pack_maps(config, outputs(index)) for index in network.chains[use]]
                found[prefix] = StoredMap.of(config, self._maps[use], np.concatenate(packed))
            elif use in self.packed:
                size = len(self.images) * region_bytes(network, config, use)
                found[prefix] = StoredMap.assumed(config, self._maps[use], size)
        return found

    @cached_property
    def memory(self) -> NDArray[np.uint8]:
        """Initial memory from address 0 on: descriptors, weights, images, room for every map."""
        config, layout = self.program.config, descriptor_layout()
        memory = np.zeros(self.bytes, np.uint8)
        listing = b"".join(layout.pack(fields) for _, _, fields in self.steps)
        listing += layout.pack({"opcode": Opcode.END, "digest": config.digest})
        self._put(memory, self.program_address, listing)
        for plan, _, fields in self.steps:
            self._put(memory, fields["weights_address"], plan.stream)
        region, offset = self.places[IMAGE]
        self._put(memory, self._maps[region] + offset, pack_maps(config, self.images).tobytes())
        return memory

    @staticmethod
    def _put(memory: NDArray[np.uint8], address: int, raw: bytes) -> None:
        memory[address:address + len(raw)] = np.frombuffer(raw, np.uint8)

    def read_output(self, memory: NDArray[np.uint8], index: int,
                    writes: NDArray[Any] | None = None) -> NDArray[np.int8]:
        """int8 (N, Co, H, W) that layer ``index`` left in ``memory``, or on chip.

        Parameters
        ----------
        memory : uint8 (bytes,)
            Off-chip memory after the run.
        index : int
        writes : structured array (n,), optional
            What a simulation wrote to the on-chip map memory, in order: ``layer``, ``address``,
            ``data`` (16 bytes). Of a compressed output: the first byte of each chunk, and its
            stored beats, less one.

        Raises
        ------
        UserError
            If the output stayed on chip, or is compressed, and no writes are given.
        """
        config, count = self.program.config, len(self.images)
        shape = self.program.plans[index].layer.out_shape
        size = map_bytes(config, shape)
        region, offset = self.places[index]
        start = self._maps[region] + offset
        if region in self.chip or region in self.packed:
            if writes is None:
                raise UserError(
                    f"The output of layer {self.program.plans[index].layer.name!r} "
                    f"{'stays on chip' if region in self.chip else 'is compressed'}; "
                    f"only a simulation can tell what it is")
            own = writes[writes["layer"] == index]
            if region in self.chip:
                memory, start = written(config, own), self.chip[region] + offset
            else:
                memory, start = restored(config, memory, own, start, count * size), 0
        return unpack_maps(config, memory[start:start + count * size], (count, *shape))


def compile(quantized: QuantizedNetwork, config: AcceleratorConfig | None = None,
            dense: bool = False, images_per_tile: int | None = None, *,
            objective: str = "balanced", density: float | Mapping[str, float] = DENSITY,
            timing: MemoryTiming | None = None) -> Program:
    """Compile an integer network for an accelerator.

    Parameters
    ----------
    quantized : QuantizedNetwork
    config : AcceleratorConfig, optional
        Must be the one the network was quantized for, which is the default.
    dense : bool
        Force every gate open: the baseline on the same accelerator.
    images_per_tile : int, optional
        Images of a batch that share a tile, and with it its weights, in layers where so many fit;
        1 for a tile per image. Unless given, :mod:`hwgate.compiler.choice` chooses for each layer.
    objective : str
        ``"cycles"``, ``"bytes"`` or ``"balanced"``, see :class:`hwgate.plan.goal.Goal`.
    density : float, or mapping of layer name to float
        Share of open gates to choose for; :func:`hwgate.compiler.choice.densities` measures it.
    timing : MemoryTiming, optional
        Memory to choose for.

    Raises
    ------
    CompileError
        If a layer does not fit the accelerator; names its module path, the limit and a hint.
    UserError
        If an argument is of a wrong type, the network was quantized for another configuration,
        ``images_per_tile`` is no positive number, there is no such objective, or a density is
        missing or out of range.
    """
    expect("Network to compile", quantized, QuantizedNetwork, hint="hwgate.quantize makes one")
    expect("Configuration", config, AcceleratorConfig, type(None), hint="hwgate.preset makes one")
    expect("Dense", dense, bool)
    config = config or quantized.config
    check_images_per_tile(images_per_tile)
    if config.digest != quantized.config.digest:
        raise UserError(f"The network was quantized for configuration "
                        f"{quantized.config.digest:08x}, not for {config.digest:08x}")
    goal = Goal(objective, density, MemoryTiming() if timing is None else timing)
    network = quantized.force_open() if dense else quantized
    for layer in network.layers:
        if layer.gated:
            goal.density_of(layer.name)
    plans = tuple(
        plan_layer(layer, None if layer.residual is None else network.shape(layer.residual), config,
                   [network.shape(source)[0] for source in network.inputs(index)])
        for index, layer in enumerate(network.layers))
    return Program(network, config, plans, dense, images_per_tile, goal)
