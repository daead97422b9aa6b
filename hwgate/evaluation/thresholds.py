"""Moves the thresholds of a trained network, and shows what accuracy costs in cycles."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hwgate
from hwgate.errors import UserError
from hwgate.evaluation.scoring import score_network
from hwgate.machine.config import MemoryTiming
from hwgate.quant.golden import base_psum, score_psum
from hwgate.quant.joined import joined
from hwgate.quant.layer import IMAGE
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.comparison import compare

__all__ = ["Point", "psum_deviations", "shift_thresholds", "sweep"]

_INT32 = (-(1 << 31), (1 << 31) - 1)


@dataclass(frozen=True)
class Point:
    """A network with all its thresholds moved by so many deviations.

    Parameters
    ----------
    delta : float
    accuracy, density, reduction : float
        Of the integer golden model: share of correct images, share of open gates, dense MACs /
        MACs done.
    cycles, bytes : int
        Of the cost model, for the images that it ran.
    speedup, offchip : float
        Dense / gated cycles and bytes on the same accelerator.
    rtl_cycles : int or None
        Of the RTL for the same images, if it was run.
    equal : bool or None
        Whether RTL, golden model and cost model agreed, if it was run.
    """

    delta: float
    accuracy: float
    density: float
    reduction: float
    cycles: int
    bytes: int
    speedup: float
    offchip: float
    rtl_cycles: int | None = None
    equal: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, ready for JSON."""
        return asdict(self)


def psum_deviations(network: QuantizedNetwork,
                    images: NDArray[Any]) -> tuple[NDArray[np.float64] | None, ...]:
    """Standard deviation of the base psums of each gated layer's channels (Co,) on images, or of
    the scores (gates,) that its channels share.

    They stand for the batch norm in front of the gate, whose deviation the thresholds hold no
    longer.
    """
    steps = network.quantize_images(images)
    results = network.run(steps)
    found: list[NDArray[np.float64] | None] = []
    for index, layer in enumerate(network.layers):
        x = joined([steps if source == IMAGE else results[source].output
                    for source in network.inputs(index)])
        seen = base_psum if layer.score is None else score_psum
        found.append(seen(layer, x).std(axis=(0, 2, 3)) if layer.gated else None)
    return tuple(found)


def shift_thresholds(network: QuantizedNetwork,
                     deviations: Sequence[NDArray[np.float64] | None],
                     delta: float) -> QuantizedNetwork:
    """The network with ``delta * deviation`` added to its thresholds; higher ones close gates."""
    layers = []
    for layer, deviation in zip(network.layers, deviations, strict=True):
        if layer.threshold is not None and deviation is not None:
            moved = np.clip(layer.threshold + np.rint(delta * deviation), *_INT32)
            layer = replace(layer, threshold=moved.astype(np.int64))
        layers.append(layer)
    return replace(network, layers=tuple(layers))


def sweep(network: QuantizedNetwork, images: NDArray[Any], labels: NDArray[np.int64],
          deltas: Sequence[float], *, costed: int = 1, checked: Sequence[float] = (),
          timing: MemoryTiming | None = None,
          step: Callable[[str], None] = lambda _: None) -> tuple[Point, ...]:
    """Accuracy against cycles over moved thresholds, without training.

    Parameters
    ----------
    network : QuantizedNetwork
    images, labels : (N, C, H, W) and (N,)
        What accuracy, density and MACs are counted on; the deviations come from the same images.
    deltas : sequence of float
        By how many deviations the thresholds move.
    costed : int
        Images, the first ones, that cycles and bytes are counted on.
    checked : sequence of float
        Deltas at which the RTL runs, too, and must be equal.
    timing : MemoryTiming, optional
    step : callable
        Told, in words, what happens next.

    Raises
    ------
    UserError
        If no layer is gated, an RTL check has no point, or as the tools raise it.
    """
    if not any(layer.gated for layer in network.layers):
        raise UserError("A sweep needs a network with gates, and this one has none")
    for delta in checked:
        if delta not in deltas:
            raise UserError(f"The RTL can be run at a delta of the sweep, which {delta:g} is not")
    deviations = psum_deviations(network, images[:64])
    batch, config = images[:costed], network.config
    step("estimate the dense program")
    dense = hwgate.estimate(hwgate.compile(network, config, dense=True), batch, timing)
    points = []
    for delta in deltas:
        step(f"move thresholds by {delta:+g}")
        moved = shift_thresholds(network, deviations, delta)
        scores = score_network(moved, images, labels)
        program = hwgate.compile(moved, config)
        model = hwgate.estimate(program, batch, timing)
        rtl_cycles = equal = None
        if delta in checked:
            rtl = hwgate.simulate(program, batch, timing or MemoryTiming())
            rtl_cycles, equal = rtl.cycles, compare(rtl, model).equal
        points.append(Point(
            delta, scores.accuracy, scores.density, scores.reduction, model.cycles,
            model.bytes_total, dense.cycles / model.cycles,
            dense.bytes_total / model.bytes_total, rtl_cycles, equal))
    return tuple(points)
