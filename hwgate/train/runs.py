"""A recipe from data to integers, in a folder that says how it was made."""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from os import PathLike, path
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hwgate
from hwgate.compiler.balancing import balance
from hwgate.data.datasets import DataSet, load_dataset
from hwgate.errors import UserError, expect
from hwgate.evaluation.scoring import Scores, score_network
from hwgate.files.atomic import write_atomic
from hwgate.files.networks import save_network
from hwgate.machine.config import AcceleratorConfig, preset
from hwgate.nn.gates import settle_norms
from hwgate.quant.network import QuantizedNetwork
from hwgate.train.codesign import BudgetLoss, measure_costs
from hwgate.train.qat import FakeQuantized, agreement
from hwgate.train.recipe import Recipe
from hwgate.train.trained import build, load_teacher, save_model, start_from
from hwgate.train.training import Epoch, score, train

__all__ = ["FILES", "Run", "run_recipe"]

#: What a folder holds in the end.
FILES = {"recipe": "recipe.toml", "log": "log.jsonl", "model": "model.safetensors",
         "network": "network.npz", "results": "results.json",
         "checkpoint": "checkpoint.safetensors", "tuning": "tuning.safetensors"}

#: Images that lanes are balanced on, and that float and integer network are compared on.
_SAMPLE = 256


@dataclass(frozen=True)
class Run:
    """What a recipe yielded.

    Parameters
    ----------
    recipe : Recipe
    history : tuple of Epoch
        Of the training, and after it of the fine-tuning.
    scores : mapping
        ``validation`` and ``test`` of the float network, ``integers_validation`` and ``integers``
        of the integer network on the same images; what does not exist is left out.
    network : QuantizedNetwork
    notes : tuple of str
        Sentences on what was found.
    """

    recipe: Recipe
    history: tuple[Epoch, ...]
    scores: dict[str, Scores]
    network: QuantizedNetwork
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, ready for JSON."""
        fidelity = self.network.fidelity
        return {"recipe": self.recipe.to_dict(), "fidelity": fidelity and fidelity.to_dict(),
                "epochs": [asdict(epoch) for epoch in self.history],
                "scores": {name: asdict(value) for name, value in self.scores.items()},
                "notes": list(self.notes)}


def run_recipe(recipe: Recipe, folder: str | Path, *, resume: bool = False, device: str = "cpu",
               stage: Callable[[str], None] = lambda _: None,
               report: Callable[[Epoch], None] | None = None,
               step: Callable[[int, int], None] | None = None) -> Run:
    """Train, fine-tune, quantize and score what a recipe describes.

    Parameters
    ----------
    recipe : Recipe
    folder : path
        Gets the :data:`FILES`.
    resume : bool
        Continue a training that was killed, from the last checkpoint in the folder.
    device : str
        Of the training, as PyTorch names it; one recipe gives one network on the CPU only.
    stage : callable
        Told, in words, what happens next.
    report, step : callable
        As for :func:`hwgate.train.training.train`.

    Raises
    ------
    UserError
        If the folder holds another training, or as the parts raise it.
    """
    expect("Recipe", recipe, Recipe, hint="load_recipe reads one")
    expect("Folder of a run", folder, str, PathLike)
    if path.isfile(folder):
        raise UserError(f"Folder of a run must be a folder, and {folder} is a file")
    place = {name: Path(folder, file) for name, file in FILES.items()}
    if not resume and any(path.exists(place[name]) for name in ("checkpoint", "results")):
        raise UserError(f"Folder {folder} holds a training; --resume continues it, and another "
                        "--output keeps it")
    begin = time.monotonic()
    stage(f"load {recipe.data.name}")
    held = recipe.data.validation
    data = load_dataset(recipe.data.name, validation=None if held < 0 else held, seed=recipe.seed)
    model = build(recipe, len(data.classes))
    if recipe.loss.start:
        start_from(model, recipe.loss.start)
    teacher = load_teacher(recipe.loss.teacher) if recipe.loss.teacher else None
    config = _config(recipe)
    if recipe.hardware.budget:
        stage(f"measure the {recipe.hardware.budget} of the accelerator")
    terms = _budget(recipe, data, config)
    write_atomic(place["recipe"], recipe.to_toml())
    history: list[Epoch] = []

    def log(epoch: Epoch) -> None:
        with place["log"].open("a") as file:
            file.write(json.dumps(asdict(epoch)) + "\n")
        if report is not None:
            report(epoch)

    stage("train")
    options: dict[str, Any] = {"teacher": teacher, "terms": terms, "device": device,
                               "resume": resume, "report": log, "step": step}
    history += train(model, data, recipe, checkpoint=place["checkpoint"], **options)
    save_model(place["model"], model, recipe)
    scores = {"test": score(model, data, data.test)}
    if len(data.validation):
        scores["validation"] = score(model, data, data.validation)

    calibration = data.normalize(data.train.images[:recipe.quantize.calibration])
    notes: list[str] = []
    if recipe.quantize.epochs:
        stage("fine-tune the integers")
        tuned = FakeQuantized(model, calibration, config)
        part = replace(recipe.optimizer, epochs=recipe.quantize.epochs, rate=recipe.quantize.rate,
                       schedule="cosine", warmup=0.0, precision="float32")
        history += train(tuned, data, recipe, optimizer=part, checkpoint=place["tuning"],
                         **options)
        network = tuned.network()
        sample = data.normalize(data.test.images[:_SAMPLE])
        notes.append(f"Trained against folded: {agreement(tuned, network, sample).describe()}.")
    else:
        network = hwgate.quantize(model, calibration, config)
    stage("count what the integers get right")
    network = _finish(network, data)
    save_network(place["network"], network)
    for name, split in (("integers", data.test), ("integers_validation", data.validation)):
        if len(split):
            scores[name] = score_network(network, data.unit(split.images).numpy(),
                                         split.labels.numpy())
    run = Run(recipe, tuple(history), scores, network, tuple(notes))
    write_atomic(place["log"], "".join(json.dumps(asdict(e)) + "\n" for e in run.history))
    write_atomic(place["results"], json.dumps(
        {**run.to_dict(), "seconds": time.monotonic() - begin, "device": device,
         "data": data.describe(), "versions": _versions()}, indent=2) + "\n")
    return run


def _config(recipe: Recipe) -> AcceleratorConfig:
    """The accelerator of a recipe, with its widths."""
    config = preset(recipe.hardware.preset)
    return replace(config, formats=replace(config.formats, activation=recipe.quantize.activation,
                                           weight=recipe.quantize.weight))


def _budget(recipe: Recipe, data: DataSet, config: AcceleratorConfig
            ) -> tuple[Callable[[nn.Module], torch.Tensor], ...]:
    """The loss term of the accelerator's budget, if there is one."""
    part = recipe.hardware
    if not part.budget or not recipe.gate.groups:
        return ()
    plain = build(recipe, len(data.classes))
    images = data.normalize(data.train.images[:8])
    cost = measure_costs(settle_norms(plain, images), images, config)[part.budget]
    return (BudgetLoss(part.budget, cost, part.share, part.weight),)


def _finish(network: QuantizedNetwork, data: DataSet) -> QuantizedNetwork:
    """The network on pixels in 0..1, with its lanes balanced."""
    network = replace(network, image_mean=np.asarray(data.mean), image_std=np.asarray(data.std))
    return balance(network, data.unit(data.train.images[:_SAMPLE]).numpy())


def _versions() -> dict[str, str]:
    return {"hwgate": hwgate.__version__, "python": platform.python_version(),
            "torch": torch.__version__, "numpy": version("numpy")}
