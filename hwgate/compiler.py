"""Compiler: from an integer network to a program in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.config import TAPS, AcceleratorConfig
from hwgate.errors import CompileError, UserError
from hwgate.layouts import Layout, Opcode, descriptor_layout, header_layout
from hwgate.quant.network import QuantizedLayer, QuantizedNetwork

__all__ = ["Binding", "Job", "LayerPlan", "Program", "compile"]

#: Regions of the memory map begin at multiples of this, the page that no AXI burst crosses.
REGION_BYTES = 4096


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


@dataclass(frozen=True)
class Job:
    """Weight blocks of one output channel: the channel groups (or bits) they belong to."""

    base: tuple[int, ...]
    conditional: tuple[int, ...]


@dataclass(frozen=True)
class LayerPlan:
    """How one layer runs.

    Parameters
    ----------
    layer : QuantizedLayer
    descriptor : mapping
        Fields of the layer descriptor, without addresses and tile count.
    jobs : tuple of Job
        One per output channel.
    stream : bytes
        Weight stream: the jobs, ``descriptor["job_stride"]`` bytes apart.
    """

    layer: QuantizedLayer
    descriptor: Mapping[str, int]
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
    descriptors : list of dict
        Descriptor fields of each layer, addresses included.
    """

    def __init__(self, program: Program, images: NDArray[np.int8]):
        self.program, self.images, self.program_address = program, images, 0
        config, count = program.config, len(images)
        if count > 0xFFFF:
            raise UserError(f"A batch must have at most {0xFFFF} images, not {count}")
        at = _ceil((len(program.plans) + 1) * descriptor_layout().size_bytes, REGION_BYTES)
        weights = []
        for plan in program.plans:
            weights.append(at * REGION_BYTES)
            at += _ceil(len(plan.stream), REGION_BYTES)
        maps = []  # the input of each layer, and the last output
        shapes = [p.layer.in_shape for p in program.plans] + [program.plans[-1].layer.out_shape]
        for shape in shapes:
            maps.append(at * REGION_BYTES)
            at += _ceil(count * map_bytes(config, shape), REGION_BYTES)
        self.bytes = at * REGION_BYTES
        if self.bytes > 1 << config.bus.address_bits:
            raise UserError(f"{count} images need {self.bytes} bytes of memory, but the bus "
                            f"reaches {1 << config.bus.address_bits}")
        self.descriptors = [
            {**plan.descriptor, "tiles": count, "weights_address": weights[n],
             "in_address": maps[n], "in_stride": map_bytes(config, shapes[n]),
             "out_address": maps[n + 1], "out_stride": map_bytes(config, shapes[n + 1])}
            for n, plan in enumerate(program.plans)]

    @cached_property
    def memory(self) -> NDArray[np.uint8]:
        """Initial memory from address 0 on: descriptors, weights, images, room for every map."""
        config, layout = self.program.config, descriptor_layout()
        memory = np.zeros(self.bytes, np.uint8)
        listing = b"".join(layout.pack(d) for d in self.descriptors)
        listing += layout.pack({"opcode": Opcode.END, "digest": config.digest})
        self._put(memory, self.program_address, listing)
        for plan, d in zip(self.program.plans, self.descriptors, strict=True):
            self._put(memory, d["weights_address"], plan.stream)
        packed = pack_maps(config, self.images)
        self._put(memory, self.descriptors[0]["in_address"], packed.tobytes())
        return memory

    @staticmethod
    def _put(memory: NDArray[np.uint8], address: int, raw: bytes) -> None:
        memory[address:address + len(raw)] = np.frombuffer(raw, np.uint8)

    def read_output(self, memory: NDArray[np.uint8], index: int) -> NDArray[np.int8]:
        """int8 (N, Co, H, W) that layer ``index`` left in ``memory``."""
        config, count = self.program.config, len(self.images)
        channels, height, width = self.program.plans[index].layer.out_shape
        size = map_bytes(config, (channels, height, width))
        start = self.descriptors[index]["out_address"]
        groups = _ceil(channels, config.channels)
        words = size // groups // config.channels
        raw = memory[start:start + count * size].view(np.int8)
        raw = raw.reshape(count, groups, words, config.channels)[:, :, :height * width]
        planes = raw.transpose(0, 1, 3, 2).reshape(count, -1, height, width)
        return np.ascontiguousarray(planes[:, :channels])


def map_bytes(config: AcceleratorConfig, shape: tuple[int, int, int]) -> int:
    """Bytes of one image's feature map, ``[group][y][x][R]`` in whole beats per group."""
    channels, height, width = shape
    return _ceil(channels, config.channels) * plane_beats(config, height * width) * config.bus.bytes


def plane_beats(config: AcceleratorConfig, pixels: int) -> int:
    """Beats of one channel group of a feature map."""
    return _ceil(pixels, config.beat_pixels)


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
    plans = tuple(_plan(layer, config) for layer in network.layers)
    return Program(network, config, plans, dense)


def _plan(layer: QuantizedLayer, config: AcceleratorConfig) -> LayerPlan:
    geometry = _geometry(layer, config)
    jobs = tuple(_job(layer, config, channel) for channel in range(layer.weight.shape[0]))
    layout = header_layout(config)
    first = min(config.request_blocks, min(len(job.base) for job in jobs))
    streams = [_stream(layer, config, layout, channel, job, first)
               for channel, job in enumerate(jobs)]
    cond_offset = max(len(base) for base, _ in streams)
    stride = cond_offset + max(len(cond) for _, cond in streams)
    stream = b"".join((base.ljust(cond_offset, b"\0") + cond).ljust(stride, b"\0")
                      for base, cond in streams)
    first_bytes = layout.size_bytes + first * config.block_bytes
    descriptor = {**geometry, "opcode": Opcode.LAYER, "digest": config.digest,
                  "job_stride": stride, "cond_offset": cond_offset, "first_blocks": first,
                  "first_beats": _ceil(first_bytes, config.bus.bytes)}
    return LayerPlan(layer, descriptor, jobs, stream)


def _geometry(layer: QuantizedLayer, config: AcceleratorConfig) -> dict[str, int]:
    """Descriptor fields that follow from the shapes; raises where a buffer is too small."""
    buffers, beat_pixels = config.buffers, config.beat_pixels
    channels, height, width = layer.in_shape
    groups, pad = _ceil(channels, config.channels), layer.padding
    out_channels, out_height, out_width = layer.conv_shape
    _, decided_height, decided_width = layer.decision_shape
    _, store_height, store_width = layer.out_shape
    bank_mode = layer.kernel == 1
    if layer.kernel not in (1, 3) or layer.stride != 1 or bank_mode and (pad or not layer.reduce):
        raise CompileError(
            f"Layer {layer.name!r} has a {layer.kernel}x{layer.kernel} kernel of stride "
            f"{layer.stride}, but 3x3 kernels of stride 1 and pooled linear layers are supported")
    if bank_mode:
        passes, row_words = _ceil(groups, TAPS), width
        group_words = height * width
    else:
        passes, row_words = groups, _ceil(width + 2 * pad, 3)
        group_words = row_words * _ceil(height + 2 * pad, 3)
    slot_words = _ceil(decided_height * decided_width, beat_pixels)
    for what, need, have, knob in (
            ("channel groups of a job", passes, buffers.passes, "passes"),
            ("window memory words", passes * group_words, buffers.window_words, "window_words"),
            ("output pixels", out_height * out_width, buffers.pixels, "pixels"),
            ("output column words", _ceil(out_channels, config.lanes) * slot_words,
             buffers.output_words, "output_words")):
        if need > have:
            raise CompileError(f"Layer {layer.name!r} needs {need} {what}, but the accelerator "
                               f"has {have}; raise buffers.{knob} or take a larger preset")
    if not 0 <= pad <= 2 or store_height < 1 or store_width < 1:
        raise CompileError(f"Layer {layer.name!r} has padding {pad} and an output of "
                           f"{store_height}x{store_width} pixels, but padding must be 0..2 "
                           f"and the output not empty")
    store_pixels = store_height * store_width
    in_beats = plane_beats(config, height * width)
    out_planes = _ceil(out_channels, config.channels)
    return {
        "bank_mode": bank_mode, "reduce": layer.reduce, "relu": layer.relu, "pad": pad,
        "step": 3 if bank_mode else layer.stride, "in_width": width, "in_planes": groups,
        "plane_words": height * width, "plane_beats": in_beats, "tile_beats": groups * in_beats,
        "row_end": pad + height, "col_end": pad + width, "row_words": row_words,
        "group_words": group_words, "out_width": out_width, "out_pixels": out_height * out_width,
        "out_channels": out_channels, "slot_words": slot_words, "out_planes": out_planes,
        "out_beats": plane_beats(config, store_pixels), "store_width": store_width,
        "store_pixels": store_pixels, "pool": layer.pool, "pool_words": layer.pool * out_width,
        "last_channels": out_channels - (out_planes - 1) * config.channels}


def _job(layer: QuantizedLayer, config: AcceleratorConfig, channel: int) -> Job:
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
        (base if not layer.gated or members.all() else conditional).append(block)
    if not base or layer.gated and not conditional:
        raise CompileError(f"Layer {layer.name!r} is gated, so both its base and its conditional "
                           f"path must have input channels")
    return Job(tuple(base), tuple(conditional))


def _stream(layer: QuantizedLayer, config: AcceleratorConfig, layout: Layout, channel: int,
            job: Job, first: int) -> tuple[bytes, bytes]:
    """Bytes of a job in whole beats: header and base blocks, and conditional blocks."""
    threshold = 0 if layer.threshold is None else int(layer.threshold[channel])
    header = layout.pack({
        "threshold": threshold, "shift": int(layer.shift[channel]), "gated": layer.gated,
        "bias_closed": int(layer.bias[channel, 0]), "bias_open": int(layer.bias[channel, 1]),
        "mult_closed": int(layer.mult[channel, 0]), "mult_open": int(layer.mult[channel, 1]),
        "base_blocks": len(job.base), "cond_blocks": len(job.conditional),
        "base_bitmap": sum(1 << n for n in job.base),
        "cond_bitmap": sum(1 << n for n in job.conditional)})

    def run(blocks: tuple[int, ...]) -> bytes:
        raw = b"".join(_block(layer, config, channel, n) for n in blocks)
        return raw.ljust(_ceil(len(raw), config.bus.bytes) * config.bus.bytes, b"\0")

    return header + run(job.base[:first]) + run(job.base[first:]), run(job.conditional)


def _block(layer: QuantizedLayer, config: AcceleratorConfig, channel: int, block: int) -> bytes:
    """Nine taps of R weights: of a 3x3 kernel, or of nine channel groups of a 1x1 kernel."""
    size = config.channels
    weights = np.zeros((TAPS, size), np.int8)
    if layer.kernel == 1:
        part = layer.weight[channel, block * TAPS * size:(block + 1) * TAPS * size, 0, 0]
        weights.reshape(-1)[:len(part)] = part
    else:
        part = layer.weight[channel, block * size:(block + 1) * size]
        weights[:, :len(part)] = part.reshape(len(part), TAPS).T
    return weights.tobytes()
