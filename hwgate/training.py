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
    threads : int
        Of the processor. On small maps, more of them mostly wait for each other.
    """

    epochs: int
    batch: int = 64
    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    target: float = 1.0
    penalty: float = 1e-4
    seed: int = 0
    threads: int = 1


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
    steps = recipe.epochs * len(_starts(images, recipe))
    optimizer = torch.optim.SGD(parameter_groups(model, recipe.weight_decay), lr=recipe.rate,
                                momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps,
                                                   cycle_momentum=False)
    generator = torch.Generator().manual_seed(recipe.seed)
    history: list[Epoch] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    model.train()
    try:
        for number in range(1, recipe.epochs + 1):
            order = torch.randperm(len(images), generator=generator)
            history.append(_epoch(model, images[order], labels[order], recipe, number,
                                  optimizer, schedule))
            if report is not None:
                report(history[-1])
    finally:
        torch.set_num_threads(threads)
        model.eval()
    return tuple(history)


def _starts(images: Tensor, recipe: Recipe) -> list[int]:
    """First image of each batch; a batch norm cannot train on a single one."""
    return [at for at in range(0, len(images), recipe.batch) if at + 1 < len(images)]


def _epoch(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, number: int,
           optimizer: torch.optim.Optimizer,
           schedule: torch.optim.lr_scheduler.LRScheduler) -> Epoch:
    """One pass over the images in the order given."""
    starts = _starts(images, recipe)
    losses, density, seen, correct = 0.0, 0.0, 0, 0
    for at in starts:
        batch, wanted = (tensor[at:at + recipe.batch] for tensor in (images, labels))
        logits = model(batch)
        loss = F.cross_entropy(logits, wanted)
        loss = loss + recipe.penalty * threshold_loss(model, recipe.target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses += float(loss.detach())
        density += _density(model)
        seen += len(wanted)
        correct += int((logits.argmax(1) == wanted).sum())
    return Epoch(number, recipe.epochs, losses / len(starts), correct / seen,
                 density / len(starts))


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's; evaluates the model as it is."""
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def _density(model: nn.Module) -> float:
    """Share of open gates in the last forward pass, over all gated layers."""
    maps = [layer.decision for _, layer in gated_layers(model) if layer.decision is not None]
    total = sum(m.numel() for m in maps)
    return sum(int(m.sum()) for m in maps) / total if total else 1.0
