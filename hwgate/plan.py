"""How a layer runs: its jobs, its bands of rows, and the stream of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwgate.config import RESIDUAL_SHIFT, TAPS, AcceleratorConfig
from hwgate.errors import CompileError
from hwgate.geometry import Band, Shape, kernel_blocks, split_rows
from hwgate.layouts import Layout, Opcode, header_layout
from hwgate.quant.network import QuantizedLayer

__all__ = ["Job", "LayerPlan", "plan_layer"]


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
class LayerPlan:
    """How one layer runs.

    Parameters
    ----------
    layer : QuantizedLayer
    bands : tuple of Band
        Rows that a tile has, from top to bottom; one with all of them, if the buffers hold them.
    jobs : tuple of Job
        One per output channel.
    stream : bytes
        Weight stream: the jobs, ``job_stride`` bytes apart.
    fields : mapping
        Descriptor fields of the weight stream.
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


def plan_layer(layer: QuantizedLayer, residual: Shape | None,
               config: AcceleratorConfig) -> LayerPlan:
    """Jobs, bands and weight stream of a layer.

    Parameters
    ----------
    layer : QuantizedLayer
    residual : (C, H, W) or None
        Shape of its residual operand.
    config : AcceleratorConfig

    Raises
    ------
    CompileError
        If the layer does not fit the accelerator; names it, the limit and a hint.
    """
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
    return LayerPlan(layer, split_rows(layer, residual, config), jobs, stream, fields)


def _job(layer: QuantizedLayer, residual: Shape | None,
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
