"""A small deterministic training loop for gated networks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwgate.errors import UserError
from hwgate.nn import gated_layers, parameter_groups, threshold_loss

__all__ = ["Epoch", "Recipe", "accuracy", "train"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: SGD with Nesterov momentum under a one-cycle learning rate.

    The loss is ``cross entropy + penalty * threshold_loss(model, target)``.

    Parameters
    ----------
    epochs, batch : int
        Passes over the images, and images of a step; a last smaller batch is used too, unless it
        is a single image.
    rate : float
        Peak of the learning rate.
    momentum, weight_decay : float
        Thresholds and 1-D parameters do not decay.
    target, penalty : float
        Target threshold T and its factor lambda. The pull of the penalty over a run grows with
        ``rate * penalty * steps``, so short runs need a larger penalty.
    seed : int
        Of the order of the images.
    """

    epochs: int
    batch: int = 64
    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    target: float = 1.0
    penalty: float = 1e-4
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """One finished epoch.

    Parameters
    ----------
    number, epochs : int
        Counted from 1, out of so many.
    loss, accuracy, density : float
        Means over the epoch's training steps: loss, share of correct images, share of open gates
        (1 for a model without gates).
    """

    number: int
    epochs: int
    loss: float
    accuracy: float
    density: float

    def describe(self) -> str:
        """One line for a progress bar."""
        return (f"epoch {self.number}/{self.epochs}: loss {self.loss:.3f}, "
                f"accuracy {self.accuracy:.1%}, density {self.density:.1%}")


def train(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe,
          report: Callable[[Epoch], None] | None = None) -> tuple[Epoch, ...]:
    """Train a classifier in place; leaves it in evaluation mode.

    Deterministic on the CPU for one seed, one set of initial weights and one thread count.

    Parameters
    ----------
    model : Module
        (N, C, H, W) to logits (N, classes).
    images : float (N, C, H, W)
    labels : int64 (N,)
    recipe : Recipe
    report : callable
        Told each epoch as it ends.

    Returns
    -------
    tuple of Epoch

    Raises
    ------
    UserError
        For fewer than two images, labels of another length, or no epoch.
    """
    if len(images) < 2 or len(images) != len(labels):
        raise UserError(f"Training needs two images or more and as many labels, "
                        f"not {len(images)} images and {len(labels)} labels")
    if recipe.epochs < 1:
        raise UserError(f"Epoch count must be at least 1, not {recipe.epochs!r}")
    starts = [at for at in range(0, len(images), recipe.batch) if at + 1 < len(images)]
    optimizer = torch.optim.SGD(parameter_groups(model, recipe.weight_decay), lr=recipe.rate,
                                momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, total_steps=recipe.epochs * len(starts), cycle_momentum=False)
    shuffle = torch.Generator().manual_seed(recipe.seed)
    history: list[Epoch] = []
    model.train()
    for number in range(1, recipe.epochs + 1):
        order = torch.randperm(len(images), generator=shuffle)
        losses, correct, density = 0.0, 0, 0.0
        for at in starts:
            chosen = order[at:at + recipe.batch]
            logits = model(images[chosen])
            loss = F.cross_entropy(logits, labels[chosen])
            loss = loss + recipe.penalty * threshold_loss(model, recipe.target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses += float(loss.detach())
            correct += int((logits.argmax(1) == labels[chosen]).sum())
            density += _density(model)
        seen = len(images) if starts[-1] + recipe.batch >= len(images) else len(images) - 1
        history.append(Epoch(number, recipe.epochs, losses / len(starts), correct / seen,
                             density / len(starts)))
        if report is not None:
            report(history[-1])
    model.eval()
    return tuple(history)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's; evaluates the model as it is."""
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def _density(model: nn.Module) -> float:
    """Share of open gates in the last forward pass, over all gated layers."""
    maps = [layer.decision for _, layer in gated_layers(model) if layer.decision is not None]
    total = sum(m.numel() for m in maps)
    return sum(int(m.sum()) for m in maps) / total if total else 1.0
