"""Multiply-accumulates of a model: what it would do with every gate open, and what it does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from hwgate.errors import expect
from hwgate.nn.gated import GatedConv2d
from hwgate.nn.running import outputs

__all__ = ["LayerMacs", "MacCounter", "MacSummary", "count_macs", "mac_summary"]


@dataclass(frozen=True)
class LayerMacs:
    """Multiply-accumulates of one layer over a batch: with every gate open, and as decided."""

    name: str
    dense: int
    done: int


@dataclass(frozen=True)
class MacSummary:
    """Multiply-accumulates of a model over a batch, layer by layer in the order they ran."""

    layers: tuple[LayerMacs, ...]

    @property
    def dense(self) -> int:
        return sum(layer.dense for layer in self.layers)

    @property
    def done(self) -> int:
        return sum(layer.done for layer in self.layers)

    @property
    def reduction(self) -> float:
        """Dense MACs / MACs done; 1 for a model without layers that multiply."""
        return self.dense / self.done if self.done else 1.0


class MacCounter:
    """Sums over the forward passes that it has seen; see :func:`count_macs`.

    Attributes
    ----------
    gates, opened : int
        Decisions made, and those that opened.
    """

    def __init__(self) -> None:
        self.gates = self.opened = 0
        self._layers: dict[str, list[int]] = {}

    def record(self, name: str, module: nn.Conv2d | nn.Linear, output: Tensor) -> None:
        """Count one call of a layer."""
        dense = output.numel() * module.weight[0].numel()
        done = dense
        if isinstance(module, GatedConv2d) and not module.force_open:
            assert module.decision is not None
            taps = module.weight[0, 0].numel()
            pixels = output.numel() // module.out_channels
            opened = module.decision.sum(dim=(0, 2, 3))
            done = taps * (pixels * (int(module.base.sum()) + _score_inputs(module))
                           + int((opened * (~module.base).sum(dim=1)).sum()))
            self.gates += module.decision.numel()
            self.opened += int(opened.sum())
        sums = self._layers.setdefault(name, [0, 0])
        sums[0] += dense
        sums[1] += done

    @property
    def summary(self) -> "MacSummary":
        return MacSummary(tuple(LayerMacs(name, *sums) for name, sums in self._layers.items()))

    @property
    def density(self) -> float:
        """Share of open decisions; 1 if there were none."""
        return self.opened / self.gates if self.gates else 1.0


@contextmanager
def count_macs(model: nn.Module) -> Iterator[MacCounter]:
    """Count the multiply-accumulates of all forward passes inside the block.

    A convolution costs ``Co*Ho*Wo*K*K*Ci/groups`` per image; of a gated one the base path always,
    the conditional path per open decision. A gate that several channels share also costs the base
    path of one more channel, whose weights are the mean of theirs. Linear layers count, batch
    norms and pools do not.
    """
    expect("Model", model, nn.Module)
    counter = MacCounter()
    hooks = [module.register_forward_hook(lambda m, _, y, name=name: counter.record(name, m, y))
             for name, module in model.named_modules()
             if isinstance(module, (nn.Conv2d, nn.Linear))]
    try:
        yield counter
    finally:
        for hook in hooks:
            hook.remove()


def mac_summary(model: nn.Module, images: Tensor) -> MacSummary:
    """Multiply-accumulates of a model in evaluation mode over a batch; see :func:`count_macs`."""
    with count_macs(model) as counter:
        outputs(model, images)
    return counter.summary


def _score_inputs(layer: GatedConv2d) -> int:
    """Input channels, summed over the gates, of the scores that shared gates compare."""
    if layer.share == 1:
        return 0
    return int(layer.base.unflatten(0, (-1, layer.share)).any(dim=1).sum())
