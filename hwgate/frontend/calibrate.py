"""Steps of activations, from what a graph computes on typical images."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwgate.errors import UserError

from .graph import Graph

__all__ = ["activation_scale", "batches", "range_scale", "record"]

#: Values of a tensor from which its step is chosen, at most; and images that run at a time.
_SAMPLE = 1 << 20
_BATCH = 64

#: Steps that are tried: the range of the values times these.
_SHARES = np.geomspace(1, 0.25, 25)


def range_scale(largest: float, high: int) -> float:
    """Step with which a magnitude is the integer ``high``; 1 where everything is zero."""
    return float(largest / high) if largest > 0 else 1.0


def activation_scale(values: NDArray[Any], low: int, high: int) -> float:
    """Step of a tensor: the one of least squared error, between a quarter and all of its range."""
    flat = _sample(np.asarray(values).ravel(), _SAMPLE).astype(np.float64)
    largest = np.abs(flat).max()
    steps = [range_scale(largest * share, high) for share in _SHARES]
    errors = [np.square(np.clip(np.rint(flat / s), low, high) * s - flat).mean() for s in steps]
    return steps[int(np.argmin(errors))]


def _sample(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Some ``count`` of many values, at places that no row or column of a map repeats."""
    if len(values) <= count:
        return values
    return values[np.random.default_rng(0).integers(0, len(values), count)]


def batches(images: NDArray[Any], size: int | None = None) -> Iterator[torch.Tensor]:
    """Images as tensors, some at a time."""
    size = size or _BATCH
    for at in range(0, len(images), size):
        yield torch.from_numpy(np.ascontiguousarray(images[at:at + size]))


def record(graph: Graph, names: Collection[str],
           images: NDArray[Any]) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """Values of a graph by name, at most some :data:`_SAMPLE` of each, and largest magnitudes.

    Raises
    ------
    UserError
        If the graph does not run on the images.
    """
    samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    largest = dict.fromkeys(names, 0.0)
    share = -(-_SAMPLE // -(-len(images) // _BATCH))
    try:
        with torch.no_grad():
            for batch in batches(images):
                for node, value in graph.values(batch, names):
                    flat = value.float().cpu().numpy().ravel()
                    largest[node.name] = max(largest[node.name], float(np.abs(flat).max()))
                    samples[node.name].append(_sample(flat, share).copy())
    except RuntimeError as error:
        raise UserError(f"The model does not run on calibration images of the shape "
                        f"{images.shape}: {str(error).splitlines()[0]}") from error
    return {name: np.concatenate(parts) for name, parts in samples.items()}, largest
