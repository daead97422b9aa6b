"""Steps of activations, from what a model computes on typical images."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from hwgate.errors import CompileError, UserError

from .operators import ADDITIONS, module_path
from .trace import Block

__all__ = ["Recorder", "activation_scale", "range_scale"]

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


class Recorder(fx.Interpreter):
    """Runs a traced model and samples what each block puts out.

    Parameters
    ----------
    graph : GraphModule
        In evaluation mode.
    blocks : tuple of Block

    Attributes
    ----------
    largest : dict
        Largest magnitude by the name of a block's node.
    """

    def __init__(self, graph: fx.GraphModule, blocks: tuple[Block, ...]) -> None:
        super().__init__(graph)
        self.largest = {block.node.name: 0.0 for block in blocks}
        self._samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self.largest}
        self._share = 1

    def run_node(self, n: fx.Node) -> Any:
        if n.target in ADDITIONS:
            shapes = [tuple(self.env[x].shape) for x in n.all_input_nodes]
            if len(set(shapes)) > 1:
                raise CompileError(f"Layer {module_path(n)!r} adds tensors of the shapes "
                                   f"{shapes[0]} and {shapes[1]}, which must be equal")
        value = super().run_node(n)
        if n.name in self.largest:
            flat = value.detach().float().numpy().ravel()
            self.largest[n.name] = max(self.largest[n.name], float(np.abs(flat).max()))
            self._samples[n.name].append(_sample(flat, self._share).copy())
        return value

    def record(self, images: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Values of each block's output by the name of its node: at most some :data:`_SAMPLE`.

        Raises
        ------
        CompileError
            For an addition of tensors of different shapes.
        UserError
            If the model does not run on the images.
        """
        model: nn.Module = self.module
        dtype = next((p.dtype for p in model.parameters()), torch.float32)
        batches = [images[at:at + _BATCH] for at in range(0, len(images), _BATCH)]
        self._share = -(-_SAMPLE // len(batches))
        try:
            with torch.no_grad():
                for batch in batches:
                    self.run(torch.from_numpy(np.ascontiguousarray(batch)).to(dtype))
        except RuntimeError as error:
            raise UserError(f"The model does not run on calibration images of the shape "
                            f"{images.shape}: {str(error.__cause__ or error).splitlines()[0]}"
                            ) from error
        return {name: np.concatenate(parts) for name, parts in self._samples.items()}
