"""Compiler: from an integer network to a program in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.config import RESIDUAL_SHIFT, TAPS, AcceleratorConfig
from hwgate.errors import CompileError, UserError
from hwgate.geometry import describe, kernel_blocks, map_bytes, plane_beats, split_rows
from hwgate.layouts import Layout, Opcode, descriptor_layout, header_layout
from hwgate.quant.network import IMAGE, QuantizedLayer, QuantizedNetwork
from hwgate.residency import Lifetime, lifetimes, place, uses

__all__ = ["Band", "Binding", "Job", "LayerPlan", "Program", "compile"]

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
    """Rows of a layer that one descriptor computes: all of them, if the buffers hold them.

    Parameters
    ----------
    first, rows : int
        Rows of the convolution's output, before pooling.
    descriptor : mapping
        Descriptor fields, with addresses relative to those of whole maps and without tile count.
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
    """

    layer: QuantizedLayer
    bands: tuple[Band, ...]
    jobs: tuple[Job, ...]
    stream: bytes

    def chunks(self, blocks: int, config: AcceleratorConfig) -> list[tuple[int, int]]:
        """(blocks, beats) of the requests that fetch a run of ``blocks`` blocks."""
        sizes = [min(config.request_blocks, blocks - done)
                 for done in range(0, blocks, config.request_blocks)]
        return [(size, _ceil(size * config.block_bytes, config.bus.bytes)) for size in sizes]


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
    """

    network: QuantizedNetwork
    config: AcceleratorConfig
    plans: tuple[LayerPlan, ...]
    dense: bool = False

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


class Binding:
    """A program and N images in one memory.

    Attributes
    ----------
    program : Program
    images : int8 (N, C, H, W)
    program_address : int
        Byte address of the first descriptor.
    steps : list of (LayerPlan, Band, dict)
        What each descriptor runs, and its fields.
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
        count_of = sum(len(plan.bands) for plan in plans) + 1
        at = _ceil(count_of * descriptor_layout().size_bytes, REGION_BYTES)
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
        self.steps = [(plan, band, self._place(index, band, weights[index]))
                      for index, plan in enumerate(plans) for band in plan.bands]
        self.chip = self._choose() if chip is None else chip
        for index, (_, _, fields) in zip(self.step_layers, self.steps, strict=True):
            for prefix, use in uses(network, index).items():
                if use in self.chip:
                    fields[f"{prefix}_address"] += self.chip[use] - self._maps[use]
                    fields[f"{prefix}_chip"] = 1

    @property
    def step_layers(self) -> list[int]:
        """Index of the layer that each step belongs to."""
        numbers = {id(plan): index for index, plan in enumerate(self.program.plans)}
        return [numbers[id(plan)] for plan, _, _ in self.steps]

    def lifetimes(self) -> dict[int, Lifetime]:
        """Outputs that could stay on chip, by layer."""
        steps = zip(self.step_layers, (fields for _, _, fields in self.steps), strict=True)
        return lifetimes(self.program.network, self.program.config, steps, len(self.images))

    def _choose(self) -> dict[int, int]:
        """First byte of the maps that stay on chip: those that save the most bytes."""
        maps = self.lifetimes()
        offsets = place(list(maps.values()), self.program.config.buffers.map_bytes)
        return {index: offset for index, offset in zip(maps, offsets, strict=True)
                if offset is not None}

    def _place(self, index: int, band: Band, weights: int) -> dict[str, int]:
        """Descriptor of a band: addresses of maps and weights, number of tiles."""
        network, config = self.program.network, self.program.config
        fields = {**band.descriptor, "tiles": len(self.images), "weights_address": weights}
        for prefix, use in uses(network, index).items():
            fields[f"{prefix}_address"] += self._maps[use]
            fields[f"{prefix}_stride"] = map_bytes(config, network.shape(use))
        return fields

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
        raw = raw.reshape(count, groups, words, config.channels)[:, :, :height * width]
        planes = raw.transpose(0, 1, 3, 2).reshape(count, -1, height, width)
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
    """Feature maps (N, C, H, W) as they lie in memory, (N, groups, pixels, R)."""
    count, channels, height, width = maps.shape
    groups = _ceil(channels, config.channels)
    packed = np.zeros((count, groups * config.channels,
                       plane_beats(config, height * width) * config.beat_pixels), np.int8)
    packed[:, :channels, :height * width] = maps.reshape(count, channels, -1)
    return np.ascontiguousarray(
        packed.reshape(count, groups, config.channels, -1).transpose(0, 1, 3, 2))


def compile(quantized: QuantizedNetwork, config: AcceleratorConfig | None = None,
            dense: bool = False) -> Program:
    """Compile an integer network for an accelerator.

    Parameters
    ----------
    quantized : QuantizedNetwork
    config : AcceleratorConfig, optional
        Must be the one the network was quantized for, which is the default.
    dense : bool
        Force every gate open: the baseline on the same accelerator.

    Raises
    ------
    CompileError
        If a layer does not fit the accelerator; names its module path, the limit and a hint.
    UserError
        If the network was quantized for another configuration.
    """
    config = config or quantized.config
    if config.digest != quantized.config.digest:
        raise UserError(f"The network was quantized for configuration "
                        f"{quantized.config.digest:08x}, not for {config.digest:08x}")
    network = quantized.force_open() if dense else quantized
    plans = tuple(
        _plan(layer, None if layer.residual is None else network.shape(layer.residual), config)
        for layer in network.layers)
    return Program(network, config, plans, dense)


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
    common = {"opcode": Opcode.LAYER, "digest": config.digest, "job_stride": stride,
              "cond_offset": cond_offset, "first_blocks": first,
              "first_beats": _ceil(first_bytes, config.bus.bytes)}
    bands = tuple(Band(top, rows, describe(layer, residual, config, top, rows) | common)
                  for top, rows in split_rows(layer, residual, config))
    return LayerPlan(layer, bands, jobs, stream)


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
