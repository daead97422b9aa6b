"""How a layer runs: its jobs, its bands of rows, and the stream of its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from hwgate.errors import CompileError
from hwgate.machine.config import RESIDUAL_SHIFT, TAPS, AcceleratorConfig
from hwgate.machine.layouts import Gated, Opcode, header_layout
from hwgate.plan.geometry import Band, Shape, kernel_blocks, split_rows
from hwgate.quant.fetch import lane_order
from hwgate.quant.layer import QuantizedLayer

__all__ = ["Job", "LayerPlan", "plan_layer"]

#: Jobs of each lane, see :func:`hwgate.quant.fetch.lane_order`.
Order = tuple[tuple[tuple[int, bool], ...], ...]


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


@dataclass(frozen=True)
class Job:
    """One output channel, or score: the channel group of each weight block, and its residual
    operand.

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
    scores : tuple of Job
        One per gate, if channels share gates; without conditional path.
    order : tuple of tuple of (int, bool)
        Jobs of each lane in a tile, see :func:`hwgate.quant.fetch.lane_order`.
    stream : bytes
        Weight stream: the first job of each lane, the second one of each, and so on, ``job_stride``
        bytes apart.
    fields : mapping
        Descriptor fields of the weight stream.
    """

    layer: QuantizedLayer
    bands: tuple[Band, ...]
    jobs: tuple[Job, ...]
    scores: tuple[Job, ...]
    order: Order
    stream: bytes
    fields: Mapping[str, int]

    @cached_property
    def places(self) -> dict[tuple[int, bool], int]:
        """Place in the weight stream of each job, of all lanes, by (channel, score)."""
        return _places(self.order)

    def job(self, channel: int, score: bool) -> Job:
        """A job by its name in :attr:`order`."""
        if not score:
            return self.jobs[channel]
        assert self.layer.gate is not None
        return self.scores[self.layer.gate[channel]]

    @property
    def job_count(self) -> int:
        """Jobs of a tile, scores among them, of all lanes."""
        return len(self.places)

    @property
    def deciding(self) -> int:
        """Jobs of a tile that decide: those with a gate of their own, or scores, of all lanes."""
        if self.scores:
            return sum(score for own in self.order for _, score in own)
        return len(self.jobs) if self.layer.gated else 0

    def chunks(self, blocks: int, config: AcceleratorConfig) -> list[tuple[int, int]]:
        """(blocks, beats) of the requests that fetch a run of ``blocks`` blocks."""
        sizes = [min(config.request_blocks, blocks - done)
                 for done in range(0, blocks, config.request_blocks)]
        return [(size, _ceil(size * config.block_bytes, config.bus.bytes)) for size in sizes]

    def kept_channels(self, config: AcceleratorConfig, tiles: int) -> int:
        """Channels whose weights stay on chip while so many tiles of the layer run: those that
        fit the weight memory."""
        if tiles == 1 or not config.buffers.weight_bytes:
            return 0
        places = config.buffers.weight_bytes // self.fields["job_stride"]
        return next((channel for channel in range(len(self.jobs))
                     if self.places[channel, False] >= places), len(self.jobs))


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
    bands = split_rows(layer, residual, config)
    jobs = tuple(_job(layer, residual, config, channel)
                 for channel in range(layer.weight.shape[0]))
    scores, gate = _scores(layer, config), None if layer.gate is None else layer.gate.tolist()
    order = tuple(tuple(lane_order(lane, config.lanes, len(jobs), gate))
                  for lane in range(config.lanes))
    first = min(config.request_blocks, min(len(job.base) for job in jobs + scores))
    parts = _parts(layer, config, order, jobs, scores, first)
    cond_offset = max(len(base) for base, _ in parts.values())
    stride = cond_offset + max(len(cond) for _, cond in parts.values())
    places = _places(order)
    stream = bytearray(stride * (max(places.values()) + 1))
    for name, (base, conditional) in parts.items():
        for start, part in ((0, base), (cond_offset, conditional)):
            at = places[name] * stride + start
            stream[at:at + len(part)] = part
    first_bytes = header_layout(config).size_bytes + first * config.block_bytes
    fields = {"opcode": Opcode.LAYER, "digest": config.digest, "job_stride": stride,
              "cond_offset": cond_offset, "first_blocks": first, "gate_limit": layer.limit,
              "first_beats": _ceil(first_bytes, config.bus.bytes)}
    if layer.limit and len(bands) > 1:
        raise CompileError(f"Layer {layer.name!r} has a tau, which counts the open gates of whole "
                           f"maps, but its maps run in {len(bands)} bands of rows; train it with "
                           "tau=0, or give the accelerator larger buffers")
    return LayerPlan(layer, bands, jobs, scores, order, bytes(stream), fields)


def _places(order: Order) -> dict[tuple[int, bool], int]:
    """See :attr:`LayerPlan.places`."""
    return {job: number * len(order) + lane for lane, own in enumerate(order)
            for number, job in enumerate(own)}


def _job(layer: QuantizedLayer, residual: Shape | None,
         config: AcceleratorConfig, channel: int) -> Job:
    """Split an output channel's blocks at the base path's channels."""
    channels, per_group = layer.in_shape[0], kernel_blocks(layer.kernel) ** 2
    width = config.channels * (TAPS if layer.kernel == 1 else 1)
    some, every = (ufunc.reduceat(layer.base[channel], range(0, channels, width))
                   for ufunc in (np.logical_or, np.logical_and))
    if not layer.gated:
        every[:] = True
    elif (some != every).any():
        block = int((some != every).argmax())
        raise CompileError(
            f"Layer {layer.name!r} splits channels {block * width}.."
            f"{min(channels, (block + 1) * width) - 1} between base and conditional path, but "
            f"they are one channel group; make the base path a multiple of {width} channels")
    base, conditional = (np.repeat(np.flatnonzero(path), per_group).tolist()
                         for path in (every, ~every))
    if not base or layer.gated and not conditional:
        raise CompileError(f"Layer {layer.name!r} is gated, so both its base and its conditional "
                           f"path must have input channels")
    operand = None
    if residual is not None and 0 <= channel - layer.residual_offset < residual[0]:
        operand = (channel - layer.residual_offset) // config.channels
    return Job(tuple(base), tuple(conditional), operand)


def _scores(layer: QuantizedLayer, config: AcceleratorConfig) -> tuple[Job, ...]:
    """Base blocks of each gate's score, if channels share gates."""
    if layer.score is None:
        return ()
    width = config.channels * (TAPS if layer.kernel == 1 else 1)
    read = np.logical_or.reduceat(layer.score_base, range(0, layer.in_shape[0], width), axis=1)
    per_group = kernel_blocks(layer.kernel) ** 2
    return tuple(Job(tuple(np.repeat(np.flatnonzero(own), per_group).tolist()), ())
                 for own in read)


def _parts(layer: QuantizedLayer, config: AcceleratorConfig, order: Order, jobs: Sequence[Job],
           scores: Sequence[Job], first: int) -> dict[tuple[int, bool], tuple[bytes, bytes]]:
    """Bytes of each job by its name in ``order``, see :func:`_stream`."""
    found = dict[tuple[int, bool], tuple[bytes, bytes]]()
    weights = _blocks(layer.weight, config)
    score_weights = weights if layer.score is None else _blocks(layer.score, config)
    for channel, score in chain(*order):
        if score:
            assert layer.gate is not None
            gate = int(layer.gate[channel])
            part = _stream(_score_header(layer, gate), config, scores[gate], first,
                           score_weights[gate])
        else:
            job = jobs[channel]
            part = _stream(_header(layer, channel, job), config, job, first, weights[channel])
        found[channel, score] = part
    return found


def _header(layer: QuantizedLayer, channel: int, job: Job) -> dict[str, int]:
    """Fields of an output channel's header, but those of its blocks."""
    threshold, gated = 0, Gated.NONE
    if layer.gate is not None:
        gated = Gated.SHARED
    elif layer.threshold is not None:
        threshold, gated = int(layer.threshold[channel]), Gated.OWN
    factor = 0
    if job.operand is not None and layer.mult_residual is not None:
        factor = int(layer.mult_residual[channel]) >> RESIDUAL_SHIFT
    return {
        "threshold": threshold, "shift": int(layer.shift[channel]), "gated": gated,
        "bias_closed": int(layer.bias[channel, 0]), "bias_open": int(layer.bias[channel, 1]),
        "mult_closed": int(layer.mult[channel, 0]), "mult_open": int(layer.mult[channel, 1]),
        "mult_residual": factor}


def _score_header(layer: QuantizedLayer, gate: int) -> dict[str, int]:
    """The same of a score."""
    assert layer.threshold is not None
    return {"threshold": int(layer.threshold[gate]), "gated": Gated.SCORE}


def _stream(fields: Mapping[str, int], config: AcceleratorConfig, job: Job, first: int,
            weights: NDArray[np.int8]) -> tuple[bytes, bytes]:
    """Bytes of a job in whole beats: header and base blocks, and conditional blocks.

    ``weights`` are the job's of :func:`_blocks`.
    """
    header = header_layout(config).pack({
        **fields, "base_blocks": len(job.base), "cond_blocks": len(job.conditional),
        "base_bitmap": sum(1 << n for n in set(job.base)),
        "cond_bitmap": sum(1 << n for n in set(job.conditional))})
    per_group = weights.shape[1]

    def run(blocks: tuple[int, ...], start: int = 0) -> bytes:
        raw = weights[list(blocks), np.arange(len(blocks)) % per_group][start:].tobytes()
        return raw.ljust(_ceil(len(raw), config.bus.bytes) * config.bus.bytes, b"\0")

    return header + run(job.base[:first]) + run(job.base, first), run(job.conditional)


def _blocks(weight: NDArray[np.int8], config: AcceleratorConfig) -> NDArray[np.int8]:
    """Weight blocks (Co, groups, blocks of a group, 9R): three rows and columns of a kernel by tap
    and channel, or nine channel groups of a 1x1 kernel."""
    size, (out_channels, channels, kernel, _) = config.channels, weight.shape
    if kernel == 1:
        width = TAPS * size
        padded = np.zeros((out_channels, _ceil(channels, width) * width), np.int8)
        padded[:, :channels] = weight[:, :, 0, 0]
        return padded.reshape(out_channels, -1, 1, width)
    edge, groups = kernel_blocks(kernel), _ceil(channels, size)
    taps = np.zeros((out_channels, groups * size, 3 * edge, 3 * edge), np.int8)
    taps[:, :channels, :kernel, :kernel] = weight
    split = taps.reshape(out_channels, groups, size, edge, 3, edge, 3)
    return split.transpose(0, 1, 3, 5, 4, 6, 2).reshape(out_channels, groups, edge**2, TAPS * size)
