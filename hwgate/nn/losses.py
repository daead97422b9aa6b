"""Terms of a training loss beside cross entropy."""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwgate.errors import expect
from hwgate.nn.gates import gated_layers

__all__ = ["distillation_loss", "incoherence", "kept_gates", "threshold_loss"]


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``t^2 * KL(softmax(teacher / t) || softmax(logits / t))``, mean over the batch.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015. How the channel
    gating paper distils is not published; this is the usual form.

    Parameters
    ----------
    logits, teacher : float (N, classes)
    temperature : float
    """
    expect("Logits", logits, Tensor)
    expect("Logits of a teacher", teacher, Tensor)
    expect("Temperature", temperature, Real)
    return temperature**2 * F.kl_div(
        F.log_softmax(logits / temperature, 1), F.log_softmax(teacher / temperature, 1),
        reduction="batchmean", log_target=True)


@contextmanager
def kept_gates(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Let gated layers keep their decisions with the gradient, for the losses that need them."""
    layers = [layer for _, layer in gated_layers(model)] if wanted else []
    for layer in layers:
        layer.keep_gates = True
    try:
        yield
    finally:
        for layer in layers:
            layer.keep_gates, layer.gates = False, None


def incoherence(model: nn.Module, share: int = 0) -> Tensor:
    """How much neighbouring channels disagree: ``4 p (1 - p)``, p the open share of a slice.

    Mean over slices, pixels, images and gated layers of the last forward pass inside
    :func:`kept_gates`: 0 if all channels of each slice decide alike, at most 1.

    Parameters
    ----------
    model : Module
    share : int
        Channels that should agree; 0 for all channels of a pixel. Layers whose number of gates it
        does not divide count as one slice.
    """
    terms = []
    for _, layer in gated_layers(model):
        gates = layer.gates
        if gates is None:
            continue
        count = gates.shape[1]
        size = share if share and count % share == 0 else count
        opened = gates.unflatten(1, (-1, size)).mean(dim=2)
        terms.append((4 * opened * (1 - opened)).mean())
    return torch.stack(terms).mean() if terms else torch.zeros(())


def threshold_loss(model: nn.Module, target: float) -> Tensor:
    """``sum over layers and channels of (delta_c - target)^2``, without its factor lambda.

    Raising the target closes gates: it trades accuracy for speed.
    """
    expect("Target of thresholds", target, Real)
    terms = [(layer.delta - target).square().sum() for _, layer in gated_layers(model)]
    return torch.stack(terms).sum() if terms else torch.zeros(())
