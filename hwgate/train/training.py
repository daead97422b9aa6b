"""Training of gated networks: deterministic, and resumed exactly after a kill."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwgate.data.datasets import DataSet, Split
from hwgate.errors import UserError, expect
from hwgate.evaluation.scoring import Scores
from hwgate.nn.gates import gated_layers, parameter_groups
from hwgate.nn.losses import distillation_loss, incoherence, kept_gates, threshold_loss
from hwgate.nn.macs import count_macs
from hwgate.train.checkpoint import read_checkpoint, write_checkpoint
from hwgate.train.recipe import Recipe
from hwgate.train.recipe_parts import OptimizerPart

__all__ = ["Epoch", "accuracy", "learning_rate", "score", "train"]

#: Seconds between checkpoints inside an epoch; every epoch ends with one, too.
CHECKPOINT_SECONDS = 300.0

#: Images that are evaluated at a time.
_BATCH = 250

#: The one-cycle rate begins at this share of its peak, and ends at a ten-thousandth of it.
_ONECYCLE_START = 1 / 25

#: A further term of the loss, of the model after its forward pass.
Term = Callable[[nn.Module], Tensor]


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
    validation : Scores or None
        Of the validation images after the epoch, if there are any.
    """

    number: int
    epochs: int
    loss: float
    accuracy: float
    density: float
    validation: Scores | None = None

    def describe(self) -> str:
        """One line for a progress bar."""
        text = (f"epoch {self.number}/{self.epochs}: loss {self.loss:.3f}, "
                f"accuracy {self.accuracy:.1%}, density {self.density:.1%}")
        if self.validation is not None:
            text += (f", validation {self.validation.accuracy:.1%} at "
                     f"{self.validation.reduction:.2f}x fewer MACs")
        return text


@dataclass
class _Progress:
    """Where a training is: steps done in the current epoch, its sums, and finished epochs."""

    step: int = 0
    loss: float = 0.0
    density: float = 0.0
    seen: int = 0
    correct: int = 0
    history: list[Epoch] = field(default_factory=list)


def learning_rate(part: OptimizerPart, progress: float) -> float:
    """Learning rate when a share ``progress`` in 0..1 of the steps is done."""
    warm = part.warmup
    if part.schedule == "constant":
        return part.rate
    if part.schedule == "steps":
        return part.rate * (1.0 if progress < 0.6 else 0.1 if progress < 0.8 else 0.01)
    if progress < warm:
        done = progress / warm
        if part.schedule == "cosine":
            return part.rate * done
        return part.rate * (1 + (_ONECYCLE_START - 1) * (1 + math.cos(math.pi * done)) / 2)
    done = (progress - warm) / (1 - warm)
    return part.rate * max((1 + math.cos(math.pi * done)) / 2, _ONECYCLE_START * 1e-4)


def train(model: nn.Module, data: DataSet, recipe: Recipe, *,
          optimizer: OptimizerPart | None = None, teacher: nn.Module | None = None,
          terms: Sequence[Term] = (), device: str = "cpu", checkpoint: str | Path | None = None,
          resume: bool = False, report: Callable[[Epoch], None] | None = None,
          step: Callable[[int, int], None] | None = None) -> tuple[Epoch, ...]:
    """Train a classifier in place; leaves it in evaluation mode, on the CPU.

    Deterministic on the CPU for one recipe and one set of initial weights, also if it was killed
    and resumed any number of times: every random choice follows from seed, epoch and step.

    Parameters
    ----------
    model : Module
        Normalized images (N, C, H, W) to logits (N, classes).
    data : DataSet
    recipe : Recipe
        Its parts ``data``, ``loss`` and ``optimizer``, seed and threads.
    optimizer : OptimizerPart, optional
        Instead of the recipe's.
    teacher : Module, optional
        Its outputs are imitated, as ``recipe.loss`` says.
    terms : sequence of callables
        Further terms of the loss, called with the model after its forward pass; gated layers keep
        their decisions meanwhile (:func:`hwgate.nn.losses.kept_gates`).
    device : str
    checkpoint : path, optional
        File that is written after each epoch, and every :data:`CHECKPOINT_SECONDS`.
    resume : bool
        Continue from the checkpoint, if it exists.
    report : callable
        Told each epoch as it ends.
    step : callable
        Told the number of steps done in an epoch and in all of it.

    Returns
    -------
    tuple of Epoch
        All of them, those before a resumption too.

    Raises
    ------
    UserError
        With fewer than two images, or a checkpoint of another training.
    """
    expect("Model to train", model, nn.Module)
    expect("Data to train on", data, DataSet, hint="load_dataset reads one")
    expect("Recipe", recipe, Recipe, hint="load_recipe reads one")
    expect("Checkpoint", checkpoint, str, PathLike, type(None))
    part = recipe.optimizer if optimizer is None else optimizer
    images = data.train.first(recipe.data.images) if recipe.data.images else data.train
    if len(images) < 2:
        raise UserError(f"Training needs two images or more, not {len(images)}")
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        _move(model, device, torch.channels_last)
        run = _Run(model, data, images, recipe, part, teacher, terms, device)
        if resume and checkpoint is not None and Path(checkpoint).is_file():
            run.restore(checkpoint)
        with torch.random.fork_rng(devices=[]), _channels_last(model):
            run.go(checkpoint, report, step)
    finally:
        torch.set_num_threads(threads)
        _move(model, "cpu", torch.contiguous_format)
        model.eval()
    return tuple(run.progress.history)


class _Run:
    """One training: model, optimizer and progress."""

    def __init__(self, model: nn.Module, data: DataSet, images: Split, recipe: Recipe,
                 part: OptimizerPart, teacher: nn.Module | None, terms: Sequence[Term],
                 device: str) -> None:
        self.model, self.data, self.images, self.device = model, data, images, device
        self.recipe, self.part, self.terms = recipe, part, terms
        self.teacher = None if teacher is None else teacher.to(device).eval()
        self.optimizer = torch.optim.SGD(parameter_groups(model, part.weight_decay), lr=part.rate,
                                         momentum=part.momentum, nesterov=part.momentum > 0)
        # A batch norm cannot train on a single image.
        self.starts = [at for at in range(0, len(images), part.batch) if at + 1 < len(images)]
        self.progress = _Progress()

    def restore(self, path: str | Path) -> None:
        """Continue where a checkpoint was written."""
        found = read_checkpoint(path, self.model, self.optimizer, self._identity())
        epochs = [Epoch(**{**values, "validation": values["validation"] and Scores(
            **values["validation"])}) for values in found.pop("history")]
        self.progress = _Progress(**found, history=epochs)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint."""
        write_checkpoint(path, self.model, self.optimizer, self._identity(),
                         asdict(self.progress))

    def go(self, checkpoint: str | Path | None, report: Callable[[Epoch], None] | None,
           step: Callable[[int, int], None] | None) -> None:
        """Train to the end."""
        progress, written = self.progress, time.monotonic()
        while len(progress.history) < self.part.epochs:
            self.model.train()
            order = torch.randperm(len(self.images), generator=self._generator("order"))
            while progress.step < len(self.starts):
                self._step(order)
                if step is not None:
                    step(progress.step, len(self.starts))
                if checkpoint is not None and time.monotonic() - written > CHECKPOINT_SECONDS:
                    self.save(checkpoint)
                    written = time.monotonic()
            self._end_epoch()
            if checkpoint is not None:
                self.save(checkpoint)
                written = time.monotonic()
            if report is not None:
                report(progress.history[-1])

    def _step(self, order: Tensor) -> None:
        progress, loss_part, batch = self.progress, self.recipe.loss, self.part.batch
        generator = self._generator("step", progress.step)
        torch.manual_seed(generator.initial_seed())
        done = len(progress.history) * len(self.starts) + progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.part, done / (self.part.epochs * len(self.starts)))
        at = self.starts[progress.step]
        chosen = order[at:at + batch]
        images, wanted = self.images.images[chosen], self.images.labels[chosen].to(self.device)
        if self.recipe.data.augment:
            images = self.data.augment(images, generator)
        inputs = self.data.normalize(images.to(self.device)).contiguous(
            memory_format=torch.channels_last)
        low = torch.autocast(torch.device(self.device).type, torch.bfloat16,
                             enabled=self.part.precision == "bfloat16")
        with kept_gates(self.model, bool(self.terms) or loss_part.coherence > 0):
            with low:
                logits = self.model(inputs)
            logits = logits.float()
            loss = F.cross_entropy(logits, wanted, label_smoothing=loss_part.smoothing)
            if self.teacher is not None:
                with torch.no_grad(), low:
                    soft = self.teacher(inputs).float()
                loss = (1 - loss_part.distill) * loss + loss_part.distill * distillation_loss(
                    logits, soft, loss_part.temperature)
            if loss_part.penalty:
                loss = loss + loss_part.penalty * threshold_loss(self.model, loss_part.target)
            if loss_part.coherence:
                loss = loss + loss_part.coherence * incoherence(self.model,
                                                                loss_part.coherence_slice)
            for term in self.terms:
                loss = loss + term(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        progress.step += 1
        progress.loss += float(loss.detach())
        progress.density += _density(self.model)
        progress.seen += len(wanted)
        progress.correct += int((logits.argmax(1) == wanted).sum())

    def _end_epoch(self) -> None:
        progress = self.progress
        steps, number = len(self.starts), len(progress.history) + 1
        validation = None
        if len(self.data.validation):
            validation = score(self.model, self.data, self.data.validation, device=self.device)
        progress.history.append(Epoch(
            number, self.part.epochs, progress.loss / steps, progress.correct / progress.seen,
            progress.density / steps, validation))
        progress.step = progress.seen = progress.correct = 0
        progress.loss = progress.density = 0.0

    def _generator(self, *purpose: str | int) -> torch.Generator:
        """Randomness of its own for each purpose in each epoch."""
        text = "/".join(map(str, (self.recipe.seed, len(self.progress.history), *purpose)))
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
        return torch.Generator().manual_seed(seed)

    def _identity(self) -> dict[str, object]:
        """What a checkpoint must have been made with."""
        values = self.recipe.to_dict()
        del values["threads"], values["quantize"]
        return {**values, "optimizer": asdict(self.part), "images": len(self.images)}


def score(model: nn.Module, data: DataSet, split: Split, *, device: str = "cpu") -> Scores:
    """Evaluate a model on a split in evaluation mode, and count what it does."""
    expect("Model to score", model, nn.Module)
    expect("Data to score on", data, DataSet, hint="load_dataset reads one")
    expect("Images to score on", split, Split, hint="a data set has them as train and test")
    training = model.training
    model.eval()
    loss, correct = 0.0, 0
    try:
        with count_macs(model) as counter, torch.no_grad():
            for at in range(0, len(split), _BATCH):
                wanted = split.labels[at:at + _BATCH].to(device)
                inputs = data.normalize(split.images[at:at + _BATCH].to(device))
                logits = model(inputs.contiguous(memory_format=torch.channels_last))
                loss += float(F.cross_entropy(logits, wanted, reduction="sum"))
                correct += int((logits.argmax(1) == wanted).sum())
    finally:
        model.train(training)
    return Scores(len(split), loss / len(split), correct / len(split), counter.density,
                  counter.summary.reduction)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's; evaluates the model as it is."""
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def _move(model: Any, device: str, memory_format: torch.memory_format) -> None:
    """``Module.to``, whose signature does not know memory formats."""
    model.to(device, memory_format=memory_format)


def _density(model: nn.Module) -> float:
    """Share of open gates in the last forward pass, over all gated layers."""
    seen = [(layer.density, layer.activations) for _, layer in gated_layers(model)]
    total = sum(count for _, count in seen)
    return sum(density * count for density, count in seen) / total if total else 1.0


@contextmanager
def _channels_last(model: nn.Module) -> Iterator[None]:
    """Keep gradients channels last behind poolings over all pixels, which forget it.

    Every operation on a gradient of another order than its activations is slow.
    """
    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].requires_grad:
            inputs[0].register_hook(
                lambda gradient: gradient.contiguous(memory_format=torch.channels_last))

    handles = [module.register_forward_pre_hook(keep) for module in model.modules()
               if isinstance(module, nn.AdaptiveAvgPool2d)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
