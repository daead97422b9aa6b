"""What the networks of the zoo do on the accelerator, as plain figures that can be kept."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate import zoo
from hwgate.artifacts import write_atomic
from hwgate.datasets import DataSet, Split, load_dataset
from hwgate.errors import UserError
from hwgate.evaluate import Evaluation, evaluate, simulate_and_estimate
from hwgate.quant.network import QuantizedNetwork
from hwgate.results import RunResult
from hwgate.scoring import score_network
from hwgate.sweep import sweep

__all__ = ["DELTAS", "Amounts", "cached", "facts", "key", "measure"]

#: By how many deviations the sweep moves the thresholds.
DELTAS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)

#: Images whose decision maps are kept.
_MAPS = 3

#: Parts of hwgate that the figures depend on: files of a package, or all if none is named.
_SOURCES: dict[str, tuple[str, ...]] = {
    "hwgate.rtl": (), "hwgate.quant": (), "hwgate.sim": (), "hwgate.schedule": (),
    "hwgate": ("choice.py", "compiler.py", "config.py", "cost.py", "evaluate.py", "geometry.py",
               "goal.py", "layouts.py", "plan.py", "residency.py", "scoring.py", "sweep.py",
               "tiling.py"),
    "hwgate.zoo": ("measure.py",)}

Step = Callable[[str], None]


@dataclass(frozen=True)
class Amounts:
    """Numbers of test images, the first ones.

    Parameters
    ----------
    images : int
        That the golden model counts densities and accuracy on.
    rtl : int
        That the RTL runs as one batch, gated and dense.
    sweep : int
        That accuracy is counted on while thresholds move.

    Raises
    ------
    UserError
        If a number is not positive.
    """

    images: int = 500
    rtl: int = 8
    sweep: int = 200

    def __post_init__(self) -> None:
        for name, count in (("Image", self.images), ("RTL image", self.rtl),
                            ("Sweep image", self.sweep)):
            if count < 1:
                raise UserError(f"{name} count must be at least 1, not {count}")


def facts(name: str) -> dict[str, Any]:
    """What is known of a network without running it: its recipe and what its training counted."""
    known = zoo.results(name)
    recipe, scores = known["recipe"], known["scores"]
    gate = recipe["gate"]
    return {
        "name": name, "architecture": recipe["network"]["name"],
        "width": recipe["network"]["width"], "data": recipe["data"]["name"],
        "epochs": recipe["optimizer"]["epochs"], "tuning": recipe["quantize"]["epochs"],
        "seed": recipe["seed"], "teacher": recipe["loss"]["teacher"],
        "gates": {**{part: gate[part] for part in ("groups", "grouping", "granularity", "tau")},
                  "target": recipe["loss"]["target"]} if gate["groups"] else None,
        "float": scores["test"], "integers": scores["integers"]}


def key(name: str, amounts: Amounts) -> str:
    """Digest of all that the figures of a network depend on, its data aside."""
    parts = [repr(amounts).encode(), (zoo.path(name) / "network.npz").read_bytes()]
    for package, patterns in _SOURCES.items():
        folder = files(package)
        parts += [file.read_bytes() for file in sorted(folder.iterdir(), key=lambda f: f.name)
                  if file.name.endswith(".py") and (not patterns or file.name in patterns)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def cached(name: str, amounts: Amounts, folder: Path, step: Step) -> dict[str, Any]:
    """:func:`facts` and :func:`measure` of a network, from ``folder`` if they are there.

    Raises
    ------
    UserError
        If its data is missing, or as the tools raise it.
    """
    file, wanted = folder / f"{name}.json", key(name, amounts)
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept.get("key") == wanted:
            return {**facts(name), **kept["measured"]}
    measured = measure(name, amounts, step)
    write_atomic(file, json.dumps({"key": wanted, "measured": measured}) + "\n")
    return {**facts(name), **measured}


def measure(name: str, amounts: Amounts, step: Step = lambda _: None) -> dict[str, Any]:
    """Run a network on test images: golden model, cost model and RTL.

    Parameters
    ----------
    name : str
        In the zoo.
    amounts : Amounts
    step : callable
        Told, in words, what happens next.

    Returns
    -------
    dict
        Ready for JSON: ``recount``, ``layers``, ``hardware``, ``maps`` and ``sweep``.

    Raises
    ------
    UserError
        If its data is missing, or as the tools raise it.
    """
    network = zoo.load(name)
    step("load the data")
    data = load_dataset(facts(name)["data"])
    images, labels = _first(data, amounts.images)
    step(f"count what {len(labels)} images get right")
    recount = score_network(network, images, labels)
    hardware, run = _hardware(network, *_first(data, amounts.rtl), step)
    gated = [layer for layer in run.layers if layer.gated]
    points = sweep(network, *_first(data, amounts.sweep), DELTAS, step=step) if gated else ()
    return {
        "recount": asdict(recount), "hardware": hardware,
        "layers": [{"name": layer.name, "density": layer.density} for layer in gated],
        "maps": [[_percent(layer.activations.decision[image]) for layer in gated]
                 for image in range(min(_MAPS, amounts.rtl))],
        "sweep": [point.to_dict() for point in points]}


def _first(data: DataSet, count: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    chosen: Split = data.test.first(count)
    return data.unit(chosen.images).numpy(), chosen.labels.numpy()


def _hardware(network: QuantizedNetwork, images: NDArray[Any], labels: NDArray[np.int64],
              step: Step) -> tuple[dict[str, Any], RunResult]:
    """Figures of one batch in RTL, and the run; a network without gates is its own baseline."""
    config = network.config
    if any(layer.gated for layer in network.layers):
        found = evaluate(network, images, step=step)
    else:
        pair = simulate_and_estimate(network, config, images, step=step)
        found = Evaluation(config, len(images), pair, pair)
    total = found.total.to_dict()
    right = found.gated.rtl.outputs.reshape(len(labels), -1).argmax(1) == labels
    wanted = ("cycles_rtl", "cycles_rtl_dense", "bytes_rtl", "bytes_rtl_dense", "mac_reduction",
              "speedup", "gating_efficiency", "offchip_reduction", "utilisation", "density")
    return {"accelerator": config.describe(), "map_bytes": config.buffers.map_bytes,
            "images": len(labels), "right": int(right.sum()), "equal": found.equal,
            "said": found.describe(), **{name: total[name] for name in wanted}}, found.gated.rtl


def _percent(decision: NDArray[np.bool_]) -> list[list[int]]:
    """Percent of the channels that are open at each pixel of a map (Co, H, W)."""
    shares: list[list[int]] = np.rint(100 * decision.mean(axis=0)).astype(int).tolist()
    return shares
