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

from hwgate.data.datasets import DataSet, load_dataset
from hwgate.errors import UserError
from hwgate.evaluation.scoring import score_network
from hwgate.evaluation.thresholds import sweep
from hwgate.files.atomic import write_atomic
from hwgate.results.run import RunResult
from hwgate.zoo import networks as zoo
from hwgate.zoo.buffers import BATCH, curve
from hwgate.zoo.facts import facts
from hwgate.zoo.levers import HEADLINE, lever_sets, measure_levers

__all__ = ["DELTAS", "Amounts", "cached", "curved", "key", "measure"]

#: By how many deviations the sweep moves the thresholds.
DELTAS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)

#: Images whose decision maps are kept.
_MAPS = 3

#: Parts of hwgate that the figures depend on: files of a package, or all if none is named.
_SOURCES: dict[str, tuple[str, ...]] = {
    "hwgate.rtl": (), "hwgate.quant": (), "hwgate.sim": (), "hwgate.plan": (),
    "hwgate.schedule": (), "hwgate.machine": ("config.py", "layouts.py"),
    "hwgate.compiler": ("choice.py", "program.py"), "hwgate.cost": ("model.py",),
    "hwgate.evaluation": ("against_dense.py", "scoring.py", "thresholds.py"),
    "hwgate.zoo": ("buffers.py", "levers.py", "measure.py")}

Step = Callable[[str], None]


@dataclass(frozen=True)
class Amounts:
    """Numbers of test images, the first ones.

    Parameters
    ----------
    images : int
        That the golden model counts accuracy on.
    model : int
        That the cost model counts cycles, bytes and densities on.
    rtl : int
        That the RTL runs without levers, gated and dense; of these, the others have fewer.
    sweep : int
        That accuracy is counted on while thresholds move.

    Raises
    ------
    UserError
        If a number is not positive.
    """

    images: int = 1000
    model: int = 32
    rtl: int = 24
    sweep: int = 200

    def __post_init__(self) -> None:
        for name, count in (("Image", self.images), ("Model image", self.model),
                            ("RTL image", self.rtl), ("Sweep image", self.sweep)):
            if count < 1:
                raise UserError(f"{name} count must be at least 1, not {count}")


def curved(names: tuple[str, ...]) -> tuple[str, ...]:
    """Networks whose bytes are counted over tiles and buffers: the first one of each architecture
    with a gate for each activation and without a second threshold."""
    found: dict[tuple[str, float], str] = {}
    for name in names:
        known = facts(name)
        gates = known["gates"]
        if known["runs"] and gates and gates["granularity"] == "activation" and not gates["tau"]:
            found.setdefault((known["architecture"], known["width"]), name)
    return tuple(found.values())


def key(name: str, amounts: Amounts, buffers: bool) -> str:
    """Digest of all that the figures of a network depend on, its data aside."""
    parts = [repr((amounts, buffers)).encode(), (zoo.path(name) / "network.npz").read_bytes()]
    for package, patterns in _SOURCES.items():
        folder = files(package)
        parts += [file.read_bytes() for file in sorted(folder.iterdir(), key=lambda f: f.name)
                  if file.name.endswith(".py") and (not patterns or file.name in patterns)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def cached(name: str, amounts: Amounts, folder: Path, step: Step, *,
           buffers: bool = False) -> dict[str, Any]:
    """:func:`facts` and :func:`measure` of a network, from ``folder`` if they are there; of a
    training whose network is not part of the zoo, only the facts.

    Raises
    ------
    UserError
        If its data is missing, or as the tools raise it.
    """
    known = facts(name)
    if not known["runs"]:
        return known
    file, wanted = folder / f"{name}.json", key(name, amounts, buffers)
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept.get("key") == wanted:
            return {**known, **kept["measured"]}
    measured = measure(name, amounts, step, buffers=buffers)
    write_atomic(file, json.dumps({"key": wanted, "measured": measured}) + "\n")
    return {**known, **measured}


def measure(name: str, amounts: Amounts, step: Step = lambda _: None, *,
            buffers: bool = False) -> dict[str, Any]:
    """Run a network on test images: golden model, cost model and RTL.

    Parameters
    ----------
    name : str
        In the zoo.
    amounts : Amounts
    step : callable
        Told, in words, what happens next.
    buffers : bool
        Count bytes over tiles and buffers, too.

    Returns
    -------
    dict
        Ready for JSON: ``recount``, ``layers``, ``hardware`` (a set of levers each, the one without
        any first), ``maps``, ``sweep`` and ``buffers``.

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
    runs: list[RunResult] = []
    hardware = [measure_levers(network, levers, *_first(data, max(amounts.model, amounts.rtl)),
                               amounts.rtl, step,
                               runs.append if levers == HEADLINE else lambda _: None)
                for levers in lever_sets(network)]
    gated = [n for n, layer in enumerate(network.layers) if layer.gated]
    return {
        "recount": asdict(recount), "hardware": hardware,
        "layers": [{"name": network.layers[n].name,
                    "density": float(np.mean([run.layers[n].density for run in runs]))}
                   for n in gated],
        "maps": [[_percent(run.layers[n].activations.decision[0]) for n in gated]
                 for run in runs[:_MAPS]],
        "sweep": [point.to_dict() for point in sweep(
            network, *_first(data, amounts.sweep), DELTAS, step=step)] if gated else [],
        "buffers": curve(network, _first(data, BATCH)[0], step) if buffers else []}


def _first(data: DataSet, count: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    chosen = data.test.first(count)
    return data.unit(chosen.images).numpy(), chosen.labels.numpy()


def _percent(decision: NDArray[np.bool_]) -> list[list[int]]:
    """Percent of the channels that are open at each pixel of a map (Co, H, W)."""
    shares: list[list[int]] = np.rint(100 * decision.mean(axis=0)).astype(int).tolist()
    return shares
