"""The weights of a block as a layer has them: one square kernel for each input channel."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .blocks import Block
from .limits import kernel_edge

__all__ = ["fan_in", "padding", "square_weights"]


def square_weights(block: Block, weight: NDArray[np.float64], sizes: Sequence[int],
                   steps: Sequence[float]) -> NDArray[np.float64]:
    """Weights (Co, Ci, K, K) of all channels of the maps that a block takes, side by side.

    Weights of groups, dilated and narrower kernels are spread out, with zeros between. Those of a
    map in other steps than the coarsest one are scaled instead of the map.

    Parameters
    ----------
    block : Block
    weight : float (Co, Ci of a group, rows, columns) or (Co, Ci)
        Of its operator, or of the scores of its gates.
    sizes, steps
        Channels of each map, and real value of one step of it.
    """
    if weight.ndim == 2:
        weight = weight.reshape(len(weight), -1, *(block.window or (1, 1)))
    outputs, own, rows, columns = weight.shape
    options = block.op.options
    groups, (down, across) = options.get("groups", 1), options.get("dilation", (1, 1))
    edge = kernel_edge((rows - 1) * down + 1, (columns - 1) * across + 1)
    assert edge is not None
    taps = np.zeros((outputs, own, edge, edge))
    taps[:, :, :rows * down:down, :columns * across:across] = weight
    places = np.arange(own * groups) if block.channels is None else np.array(block.channels)
    # Channels of the operator that each output channel reads, and where they are.
    read = places.reshape(groups, own)[np.arange(outputs) * groups // outputs]
    scale = np.repeat(np.array(steps) / max(steps), sizes)
    spread = np.zeros((outputs, sum(sizes), edge, edge))
    output, channel = np.nonzero(read >= 0)
    target = read[output, channel]
    np.add.at(spread, (output, target),
              taps[output, channel] * scale[target, None, None])
    return spread


def padding(block: Block) -> int | tuple[int, int, int, int]:
    """Padding of a block's kernel, whose rows and columns without weights are at its end."""
    options = block.op.options
    down, across = options.get("dilation", (1, 1))
    rows, columns = block.window or (*block.op.tensors["weight"].shape, 1, 1)[2:4]
    rows, columns = (rows - 1) * down + 1, (columns - 1) * across + 1
    edge = kernel_edge(rows, columns)
    assert edge is not None
    top, bottom, left, right = options.get("padding", (0, 0, 0, 0))
    found = (top, bottom + edge - rows, left, right + edge - columns)
    return top if set(found) == {top} else found


def fan_in(block: Block, weight: NDArray[np.float64]) -> int | None:
    """Weights of an output channel of the block's operator, if the layer's ``weight`` has more."""
    own = int(block.op.tensors["weight"][0].numel())
    return own if own < weight[0].size and block.gate is None else None
