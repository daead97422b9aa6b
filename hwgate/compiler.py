"""Compiler: from an integer network to a program in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwgate.config import RESIDUAL_SHIFT, TAPS, AcceleratorConfig
from hwgate.errors import CompileError, UserError
from hwgate.geometry import Part, describe, kernel_blocks, map_bytes, plane_beats, split_rows
from hwgate.layouts import Layout, Opcode, descriptor_layout, header_layout
from hwgate.quant.network import IMAGE, QuantizedLayer, QuantizedNetwork
from hwgate.residency import Lifetime, lifetimes, place, uses
from hwgate.tiling import check_images_per_tile, divide_batch

__all__ = ["Band", "Binding", "Job", "LayerPlan", "Program", "Step", "compile"]

#: Regions of the memory map begin at multiples of this, the page that no AXI burst crosses.
REGION_BYTES = 4096


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


@dataclass(frozen=True)
class Job:
    """One output channel: the channel group of each weight block, and its residual operand.

    Parameters
    ----------
    base, conditional : tuple of int
        In the order of the passes. Groups of a 1x1 kernel are nine channel groups each.
    operand : int or None
        Channel group of the residual operand that it adds.
    """

    base: tuple[int, ...]
    conditional: tuple[int, ...]
    operand: int | None = None


@dataclass(frozen=True)
class Band:
    """Rows of a layer that a tile has: all of them, if the buffers hold them.

    Parameters
    ----------
    first, rows : int
        Rows of the convolution's output, before pooling.
    descriptor : mapping
        Descriptor fields for a single image, with addresses relative to those of whole maps.
    """

    first: int
    rows: int
    descriptor: Mapping[str, int]


@dataclass(frozen=True)
class LayerPlan:
    """How one layer runs.

    Parameters
    ----------
    layer : QuantizedLayer
    bands : tuple of Band
        From top to bottom.
    jobs : tuple of Job
        One per output channel.
    stream : bytes
        Weight stream: the jobs, ``job_stride`` bytes apart.
    fields : mapping
        Descriptor fields of the weight stream, the same for every part of the layer.
    """

    layer: QuantizedLayer
    bands: tuple[Band, ...]
    jobs: tuple[Job, ...]
    stream: bytes
    fields: Mapping[str, int]

    def chunks(self, blocks: int, config: AcceleratorConfig) -> list[tuple[int, int]]:
        """(blocks, beats) of the requests that fetch a run of ``blocks`` blocks."""
        sizes = [min(config.request_blocks, blocks - done)
                 for done in range(0, blocks, config.request_blocks)]
        return [(size, _ceil(size * config.block_bytes, config.bus.bytes)) for size in sizes]

    def weight_beats(self, config: AcceleratorConfig) -> int:
        """Beats of headers and weights that a tile reads if every job opens a gate."""
        first = self.fields["first_blocks"]
        return sum(self.fields["first_beats"]
                   + sum(beats for blocks in (len(job.base) - first, len(job.conditional))
                         for _, beats in self.chunks(blocks, config)) for job in self.jobs)


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
    """

    network: QuantizedNetwork
    config: AcceleratorConfig
    plans: tuple[LayerPlan, ...]
    dense: bool = False
    images_per_tile: int | None = None

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
    """What one descriptor runs: some rows of a layer, or all rows for some images of the batch."""

    plan: LayerPlan
    part: Part
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
        One per descriptor, in order.
    chip : mapping of layer index to int
        Outputs that stay on chip, and their first byte in the map memory.

    Parameters
    ----------
    program : Program
    images : int8 (N, C, H, W)
    chip : mapping, optional
        As above, instead of the placement that saves the most bytes.
    """

    def __init__(self, program: Program, images: NDArray[np.int8],
                 chip: Mapping[int, int] | None = None):
        self.program, self.images, self.program_address = program, images, 0
        config, count = program.config, len(images)
        if count > 0xFFFF:
            raise UserError(f"A batch must have at most {0xFFFF} images, not {count}")
        network, plans = program.network, program.plans
        parts = [divide_batch(plan, self._residual(index), config, count, program.images_per_tile)
                 for index, plan in enumerate(plans)]
        descriptors = sum(map(len, parts)) + 1
        at = _ceil(descriptors * descriptor_layout().size_bytes, REGION_BYTES)
        weights = []
        for plan in plans:
            weights.append(at * REGION_BYTES)
            at += _ceil(len(plan.stream), REGION_BYTES)
        self._maps: dict[int, int] = {}  # first byte of each layer's output, and of the image
        for index in range(IMAGE, len(plans)):
            self._maps[index] = at * REGION_BYTES
            at += _ceil(count * map_bytes(config, network.shape(index)), REGION_BYTES)
        self.bytes = at * REGION_BYTES
        if self.bytes > 1 << config.bus.address_bits:
            raise UserError(f"{count} images need {self.bytes} bytes of memory, but the bus "
                            f"reaches {1 << config.bus.address_bits}")
        self.step_layers = [index for index in range(len(plans)) for _ in parts[index]]
        self.steps = [Step(plan, part, self._describe(index, part, weights[index]))
                      for index, plan in enumerate(plans) for part in parts[index]]
        self.chip = self._choose() if chip is None else chip
        for index, step in zip(self.step_layers, self.steps, strict=True):
            self._place(index, step.descriptor)

    def lifetimes(self) -> dict[int, Lifetime]:
        """Outputs that could stay on chip, by layer."""
        steps = zip(self.step_layers, (step.descriptor for step in self.steps), strict=True)
        return lifetimes(self.program.network, self.program.config, steps, len(self.images))

    def _choose(self) -> dict[int, int]:
        """First byte of the maps that stay on chip: those that save the most bytes."""
        maps = self.lifetimes()
        offsets = place(list(maps.values()), self.program.config.buffers.map_bytes)
        return {index: offset for index, offset in zip(maps, offsets, strict=True)
                if offset is not None}

    def _residual(self, index: int) -> tuple[int, int, int] | None:
        """Shape of a layer's residual operand."""
        network = self.program.network
        residual = network.layers[index].residual
        return None if residual is None else network.shape(residual)

    def _describe(self, index: int, part: Part, weights: int) -> dict[str, int]:
        """Descriptor of a part, with addresses relative to those of its maps."""
        plan = self.program.plans[index]
        return {**describe(plan.layer, self._residual(index), self.program.config, part,
                           len(self.images)), **plan.fields, "weights_address": weights}

    def _place(self, index: int, fields: dict[str, int]) -> None:
        """Add where the maps of a layer are."""
        for prefix, use in uses(self.program.network, index).items():
            fields[f"{prefix}_chip"] = use in self.chip
            fields[f"{prefix}_address"] += self.chip.get(use, self._maps[use])

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
        self._put(memory, self._maps[IMAGE], pack_maps(config, self.images).tobytes())
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
            What a simulation wrote to the on-chip map memory, in order: ``layer`` (number of the
            step), ``address``, ``data`` (16 bytes).

        Raises
        ------
        UserError
            If the output stayed on chip and no writes are given.
        """
        config, count = self.program.config, len(self.images)
        channels, height, width = self.program.plans[index].layer.out_shape
        size = map_bytes(config, (channels, height, width))
        start = self._maps[index]
        if index in self.chip:
            if writes is None:
                raise UserError(f"The output of layer {self.program.plans[index].layer.name!r} "
                                f"stays on chip; only a simulation can tell what it is")
            memory, start = self._written(index, writes), self.chip[index]
        groups = _ceil(channels, config.channels)
        words = size // groups // config.channels
        raw = memory[start:start + count * size].view(np.int8)
        raw = raw.reshape(groups, count, words, config.channels)[:, :, :height * width]
        planes = raw.transpose(1, 0, 3, 2).reshape(count, -1, height, width)
        return np.ascontiguousarray(planes[:, :channels])

    def _written(self, index: int, writes: NDArray[Any]) -> NDArray[np.uint8]:
        """On-chip map memory with nothing but what layer ``index`` wrote."""
        config = self.program.config
        steps = [step for step, layer in enumerate(self.step_layers) if layer == index]
        own = writes[np.isin(writes["layer"], steps)]
        beats = np.zeros((config.buffers.map_bytes // config.bus.bytes, config.bus.bytes), np.uint8)
        beats[own["address"] // config.bus.bytes] = own["data"][:, :config.bus.bytes]
        return beats.reshape(-1)


def pack_maps(config: AcceleratorConfig, maps: NDArray[np.int8]) -> NDArray[np.int8]:
    """Feature maps (N, C, H, W) as they lie in memory, (groups, N, pixels, R).

    The maps of a group lie together, so that any images that share a tile are one run of it.
    """
    count, channels, height, width = maps.shape
    groups = _ceil(channels, config.channels)
    packed = np.zeros((count, groups * config.channels,
                       plane_beats(config, height * width) * config.beat_pixels), np.int8)
    packed[:, :channels, :height * width] = maps.reshape(count, channels, -1)
    return np.ascontiguousarray(
        packed.reshape(count, groups, config.channels, -1).transpose(1, 0, 3, 2))


def compile(quantized: QuantizedNetwork, config: AcceleratorConfig | None = None,
            dense: bool = False, images_per_tile: int | None = None) -> Program:
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
        1 for a tile per image. Unless given, :mod:`hwgate.tiling` chooses for each layer.

    Raises
    ------
    CompileError
        If a layer does not fit the accelerator; names its module path, the limit and a hint.
    UserError
        If the network was quantized for another configuration, or ``images_per_tile`` is no
        positive number.
    """
    config = config or quantized.config
    check_images_per_tile(images_per_tile)
    if config.digest != quantized.config.digest:
        raise UserError(f"The network was quantized for configuration "
                        f"{quantized.config.digest:08x}, not for {config.digest:08x}")
    network = quantized.force_open() if dense else quantized
    plans = tuple(
        _plan(layer, None if layer.residual is None else network.shape(layer.residual), config)
        for layer in network.layers)
    return Program(network, config, plans, dense, images_per_tile)


def _plan(layer: QuantizedLayer, residual: tuple[int, int, int] | None,
          config: AcceleratorConfig) -> LayerPlan:
    jobs = tuple(_job(layer, residual, config, channel)
                 for channel in range(layer.weight.shape[0]))
    layout = header_layout(config)
    first = min(config.request_blocks, min(len(job.base) for job in jobs))
    streams = [_stream(layer, config, layout, channel, job, first)
               for channel, job in enumerate(jobs)]
    cond_offset = max(len(base) for base, _ in streams)
    stride = cond_offset + max(len(cond) for _, cond in streams)
    stream = b"".join((base.ljust(cond_offset, b"\0") + cond).ljust(stride, b"\0")
                      for base, cond in streams)
    first_bytes = layout.size_bytes + first * config.block_bytes
    fields = {"opcode": Opcode.LAYER, "digest": config.digest, "job_stride": stride,
              "cond_offset": cond_offset, "first_blocks": first,
              "first_beats": _ceil(first_bytes, config.bus.bytes)}
    bands = tuple(Band(top, rows, describe(layer, residual, config, Part(top, rows)) | fields)
                  for top, rows in split_rows(layer, residual, config))
    return LayerPlan(layer, bands, jobs, stream, fields)


def _job(layer: QuantizedLayer, residual: tuple[int, int, int] | None,
         config: AcceleratorConfig, channel: int) -> Job:
    """Split an output channel's blocks at the base path's channels."""
    channels = layer.in_shape[0]
    width = config.channels * (TAPS if layer.kernel == 1 else 1)
    base: list[int] = []
    conditional: list[int] = []
    for block in range(_ceil(channels, width)):
        members = layer.base[channel, block * width:(block + 1) * width]
        if layer.gated and members.any() != members.all():
            raise CompileError(
                f"Layer {layer.name!r} splits channels {block * width}.."
                f"{min(channels, (block + 1) * width) - 1} between base and conditional path, but "
                f"they are one channel group; make the base path a multiple of {width} channels")
        path = base if not layer.gated or members.all() else conditional
        path += [block] * kernel_blocks(layer.kernel) ** 2
    if not base or layer.gated and not conditional:
        raise CompileError(f"Layer {layer.name!r} is gated, so both its base and its conditional "
                           f"path must have input channels")
    operand = None
    if residual is not None and 0 <= channel - layer.residual_offset < residual[0]:
        operand = (channel - layer.residual_offset) // config.channels
    return Job(tuple(base), tuple(conditional), operand)


def _stream(layer: QuantizedLayer, config: AcceleratorConfig, layout: Layout, channel: int,
            job: Job, first: int) -> tuple[bytes, bytes]:
    """Bytes of a job in whole beats: header and base blocks, and conditional blocks."""
    threshold = 0 if layer.threshold is None else int(layer.threshold[channel])
    factor = 0
    if job.operand is not None and layer.mult_residual is not None:
        factor = int(layer.mult_residual[channel]) >> RESIDUAL_SHIFT
    header = layout.pack({
        "threshold": threshold, "shift": int(layer.shift[channel]), "gated": layer.gated,
        "bias_closed": int(layer.bias[channel, 0]), "bias_open": int(layer.bias[channel, 1]),
        "mult_closed": int(layer.mult[channel, 0]), "mult_open": int(layer.mult[channel, 1]),
        "mult_residual": factor,
        "base_blocks": len(job.base), "cond_blocks": len(job.conditional),
        "base_bitmap": sum(1 << n for n in set(job.base)),
        "cond_bitmap": sum(1 << n for n in set(job.conditional))})
    per_group = kernel_blocks(layer.kernel) ** 2

    def run(blocks: tuple[int, ...], start: int = 0) -> bytes:
        raw = b"".join(_block(layer, config, channel, block, n % per_group)
                       for n, block in enumerate(blocks) if n >= start)
        return raw.ljust(_ceil(len(raw), config.bus.bytes) * config.bus.bytes, b"\0")

    return header + run(job.base[:first]) + run(job.base, first), run(job.conditional)


def _block(layer: QuantizedLayer, config: AcceleratorConfig, channel: int, block: int,
           part: int) -> bytes:
    """Nine taps of R weights: three rows and columns of a kernel, or nine channel groups of 1x1."""
    size = config.channels
    weights = np.zeros((TAPS, size), np.int8)
    if layer.kernel == 1:
        values = layer.weight[channel, block * TAPS * size:(block + 1) * TAPS * size, 0, 0]
        weights.reshape(-1)[:len(values)] = values
    else:
        row, column = (3 * n for n in divmod(part, kernel_blocks(layer.kernel)))
        values = layer.weight[channel, block * size:(block + 1) * size,
                              row:row + 3, column:column + 3]
        window = weights.reshape(3, 3, size)
        window[:values.shape[1], :values.shape[2], :len(values)] = values.transpose(1, 2, 0)
    return weights.tobytes()
