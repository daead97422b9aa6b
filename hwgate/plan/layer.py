"""How a layer runs: its jobs, its bands of rows, and the stream of its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from hwgate.errors import CompileError
from hwgate.machine.config import RESIDUAL_SHIFT, TAPS, AcceleratorConfig
from hwgate.machine.layouts import Gated, Opcode, header_layout
from hwgate.plan.geometry import Band, Shape, kernel_blocks, split_rows
from hwgate.quant.fetch import lane_order
from hwgate.quant.joined import stored_places
from hwgate.quant.layer import QuantizedLayer

__all__ = ["Job", "LayerPlan", "plan_layer", "stored_layer"]

#: Cycles that a further request of a job costs where the lane waits for it: a usual memory's.
_REQUEST_CYCLES = 32

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
    stored : QuantizedLayer
        The same, taking its input as it lies in memory: in whole channel groups of each of the maps
        side by side.
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
    stored: QuantizedLayer
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


def plan_layer(layer: QuantizedLayer, residual: Shape | None, config: AcceleratorConfig,
               parts: Sequence[int] = ()) -> LayerPlan:
    """Jobs, bands and weight stream of a layer.

    Weight blocks that are all zero are left out, but for one of each path of a job.

    Parameters
    ----------
    layer : QuantizedLayer
    residual : (C, H, W) or None
        Shape of its residual operand.
    config : AcceleratorConfig
    parts : sequence of int
        Channels of each of the maps that are its input, if there are several.

    Raises
    ------
    CompileError
        If the layer does not fit the accelerator; names it, the limit and a hint.
    """
    stored = stored_layer(layer, parts, config)
    bands = split_rows(stored, residual, config)
    jobs, scores = _jobs(stored, residual, config), _scores(stored, config)
    gate = None if layer.gate is None else layer.gate.tolist()
    order = tuple(tuple(lane_order(lane, config.lanes, len(jobs), gate))
                  for lane in range(config.lanes))
    first = min(config.request_blocks, min(len(job.base) for job in jobs + scores))
    streams = _streams(stored, config, order, jobs, scores, first)
    cond_offset = max(len(base) for base, _ in streams.values())
    stride = cond_offset + max(len(cond) for _, cond in streams.values())
    places = _places(order)
    stream = bytearray(stride * (max(places.values()) + 1))
    for name, (base, conditional) in streams.items():
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
    return LayerPlan(layer, stored, bands, jobs, scores, order, bytes(stream), fields)


def _places(order: Order) -> dict[tuple[int, bool], int]:
    """See :attr:`LayerPlan.places`."""
    return {job: number * len(order) + lane for lane, own in enumerate(order)
            for number, job in enumerate(own)}


def stored_layer(layer: QuantizedLayer, parts: Sequence[int],
                 config: AcceleratorConfig) -> QuantizedLayer:
    """A layer that takes its input as it lies in memory: the channels of each map of several, so
    many in ``parts``, in whole channel groups.
    """
    size = config.channels
    if all(part % size == 0 for part in parts[:-1]):
        return layer
    # Behind the channels of a map come those that its last group lacks; they read no weight.
    ends, room = np.cumsum(parts), [_ceil(part, size) * size for part in parts]
    places = stored_places(parts, size)
    source = np.repeat(ends - 1, room)
    source[places] = np.arange(len(places))
    holes = np.ones(sum(room), bool)
    holes[places] = False

    def spread(values: NDArray[np.int8]) -> NDArray[np.int8]:
        return values[:, source] * ~holes[:, None, None]

    return replace(layer, weight=spread(layer.weight), base=layer.base[:, source],
                   score=None if layer.score is None else spread(layer.score),
                   in_shape=(len(source), *layer.in_shape[1:]))


def _jobs(layer: QuantizedLayer, residual: Shape | None,
          config: AcceleratorConfig) -> tuple[Job, ...]:
    """The job of each output channel: its blocks, split at the base path's channels."""
    channels, size = layer.in_shape[0], _group_width(layer, config)
    starts = range(0, channels, size)
    some, every = (ufunc.reduceat(layer.base, starts, axis=1)
                   for ufunc in (np.logical_or, np.logical_and))
    if not layer.gated:
        every[:] = True
    elif (some != every).any():
        _, block = np.argwhere(some != every)[0].tolist()
        raise CompileError(
            f"Layer {layer.name!r} splits channels {block * size}.."
            f"{min(channels, (block + 1) * size) - 1} between base and conditional path, but "
            f"they are one channel group; make the base path a multiple of {size} channels")
    elif not every.any(axis=1).all() or every.all(axis=1).any():
        raise CompileError(f"Layer {layer.name!r} is gated, so both its base and its conditional "
                           f"path must have input channels")
    used = np.logical_or.reduceat(layer.weight.any(axis=(2, 3)), starts, axis=1)
    _, height, width = layer.conv_shape
    base = _chosen(used, every, _least(used & every, height * width))
    conditional = _chosen(used, ~every) if layer.gated else [()] * len(used)
    added = range(0 if residual is None else residual[0])
    return tuple(
        Job(_passes(layer, one), _passes(layer, other),
            (channel - layer.residual_offset) // config.channels
            if channel - layer.residual_offset in added else None)
        for channel, (one, other) in enumerate(zip(base, conditional, strict=True)))


def _scores(layer: QuantizedLayer, config: AcceleratorConfig) -> tuple[Job, ...]:
    """Base blocks of each gate's score, if channels share gates."""
    if layer.score is None:
        return ()
    starts = range(0, layer.in_shape[0], _group_width(layer, config))
    used, read = (np.logical_or.reduceat(values, starts, axis=1)
                  for values in (layer.score.any(axis=(2, 3)), layer.score_base))
    return tuple(Job(_passes(layer, own), ()) for own in _chosen(used, read))


def _group_width(layer: QuantizedLayer, config: AcceleratorConfig) -> int:
    """Input channels that a bit of a job's bitmap stands for."""
    return config.channels * (TAPS if layer.kernel == 1 else 1)


def _passes(layer: QuantizedLayer, groups: Sequence[int]) -> tuple[int, ...]:
    """The channel group of each pass over some groups."""
    return tuple(np.repeat(np.array(groups, int), kernel_blocks(layer.kernel) ** 2).tolist())


def _chosen(used: NDArray[np.bool_], path: NDArray[np.bool_],
            least: int = 1) -> list[tuple[int, ...]]:
    """Groups of each job (jobs, groups) that have weights, among those of its path.

    A job takes groups of zeros where it has fewer than ``least`` others: each costs a pass, but its
    header, its gate and its output come with one.
    """
    found = []
    for own, its in zip(used & path, path, strict=True):
        added = np.flatnonzero(its & ~own)[:max(0, least - int(own.sum()))]
        found.append(tuple(sorted([*np.flatnonzero(own).tolist(), *added.tolist()])))
    return found


def _least(used: NDArray[np.bool_], pixels: int) -> int:
    """Groups that a job should have at least: the first request of all jobs has as many, and those
    that have more make another one."""
    sizes, jobs = np.unique(np.maximum(used.sum(axis=1), 1), return_counts=True)
    added = [int(jobs @ np.maximum(size - sizes, 0)) * pixels for size in sizes]
    requests = [int(jobs[sizes > size].sum()) * _REQUEST_CYCLES for size in sizes]
    return int(sizes[np.argmin(np.add(added, requests))])


def _streams(layer: QuantizedLayer, config: AcceleratorConfig, order: Order, jobs: Sequence[Job],
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
