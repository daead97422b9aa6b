"""Accelerators that differ in what saves off-chip bytes, and a network measured on each of them.

The baseline is always the dense program on the same accelerator, with the same levers.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hwgate
from hwgate.evaluation.against_dense import simulate_and_estimate
from hwgate.machine.config import PRESETS, AcceleratorConfig
from hwgate.plan.geometry import map_bytes
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.run import RunResult

__all__ = ["CHECKED", "CHUNKS", "HEADLINE", "Levers", "lever_sets", "measure_levers",
           "weight_heavy"]

#: Places in the table of compressed chunks: enough for all maps of eight CIFAR-10 images.
CHUNKS = 4096

#: Images that the RTL runs of every set but the headline, in whole batches.
CHECKED = 2

_RESIDENT = {name: getattr(PRESETS["resident"].buffers, name)
             for name in ("map_bytes", "weight_bytes")}
_OFF = {"map_bytes": 0, "weight_bytes": 0, "compressed_chunks": 0}

Step = Callable[[str], None]


@dataclass(frozen=True)
class Levers:
    """Images of a batch, and buffers other than those of the network's own accelerator.

    Parameters
    ----------
    name : str
    batch : int
    changes : mapping
        Fields of :class:`hwgate.machine.config.BufferConfig`.
    """

    name: str
    batch: int
    changes: dict[str, int] = field(default_factory=dict)

    def accelerator(self, config: AcceleratorConfig) -> AcceleratorConfig:
        """The accelerator without memories between layers, but for those of this set."""
        return replace(config, buffers=replace(config.buffers, **(_OFF | self.changes)))


#: The set whose speed-up and accuracy are quoted.
HEADLINE = Levers("plain", 1)

_EIGHT = Levers("plain", 8)
_CHIP = Levers("on chip", 1, _RESIDENT)
_COMPRESSED = Levers("compressed", 1, {"compressed_chunks": CHUNKS})
_BOTH = {**_RESIDENT, "compressed_chunks": CHUNKS}


def weight_heavy(network: QuantizedNetwork) -> bool:
    """Whether an image's weights are more bytes than its feature maps."""
    maps = sum(map_bytes(network.config, network.shape(index))
               for index in range(len(network.layers)))
    return sum(layer.weight.size for layer in network.layers) > maps


def lever_sets(network: QuantizedNetwork) -> tuple[Levers, ...]:
    """Sets worth measuring a network on, the headline first.

    Where weights are most of the traffic, levers on maps are measured together only. Where maps
    are, they are combined at a batch whose maps do not all fit on chip.
    """
    if not any(layer.gated for layer in network.layers):
        return (HEADLINE,)
    everything = Levers("on chip + compressed", 8, _BOTH)
    if weight_heavy(network):
        return HEADLINE, _EIGHT, replace(everything, batch=1), everything
    return HEADLINE, _CHIP, _COMPRESSED, everything


def measure_levers(network: QuantizedNetwork, levers: Levers, images: NDArray[Any],
                   labels: NDArray[np.int64], rtl: int, step: Step = lambda _: None,
                   watch: Callable[[RunResult], None] = lambda _: None) -> dict[str, Any]:
    """Gated and dense program on one accelerator, over all images in whole batches.

    Parameters
    ----------
    network : QuantizedNetwork
    levers : Levers
    images, labels : (N, C, H, W) and (N,)
        What the cost model runs; a last batch may be smaller.
    rtl : int
        Images, the first ones, that the RTL runs and must be equal on, in whole batches; of sets
        other than the headline :data:`CHECKED`, or one batch.
    step : callable
        Told, in words, what happens next.
    watch : callable
        Gets the gated run of the cost model for each batch.

    Returns
    -------
    dict
        Ready for JSON. Cycles, bytes and MACs are the cost model's over all images; ``equal``,
        ``said`` and ``right`` are of the ``rtl_images``.

    Raises
    ------
    UserError
        As compiler, simulator and cost model raise it.
    """
    network = replace(network, config=levers.accelerator(network.config))
    gated = any(layer.gated for layer in network.layers)
    programs = {dense: hwgate.compile(network, dense=dense) for dense in (False, True)[:1 + gated]}
    checked = rtl if levers == HEADLINE else max(CHECKED, levers.batch)
    totals, said, right, run = Counter[str](), [], 0, 0
    for at in range(0, len(images), levers.batch):
        batch = images[at:at + levers.batch]
        where = f"{levers.name}, batch {levers.batch}, images from {at}"
        run += len(batch) * (at < checked)
        models = {}
        for dense, program in programs.items():
            if at < checked:
                pair = simulate_and_estimate(network, network.config, batch, dense=dense,
                                             step=partial(_tell, step, where))
                if not pair.comparison.equal:
                    said.append(f"{where}, {'dense' if dense else 'gated'} program. "
                                f"{pair.comparison.describe()}")
                if not dense:
                    answers = pair.rtl.outputs.reshape(len(batch), -1).argmax(1)
                    right += int((answers == labels[at:at + levers.batch]).sum())
                models[dense] = pair.model
            else:
                step(where)
                models[dense] = hwgate.estimate(program, batch)
        for kind, model in (("", models[False]), ("_dense", models.get(True, models[False]))):
            totals.update({f"cycles{kind}": model.cycles, f"bytes{kind}": model.bytes_total,
                           f"macs{kind}": model.macs})
        watch(models[False])
    return {"name": levers.name, "batch": levers.batch, "accelerator": network.config.to_dict(),
            "images": len(images), "rtl_images": run, "right": right, "equal": not said,
            "said": "\n".join(said), **totals,
            **_ratios(totals, network.config.multipliers)}


def _tell(step: Step, where: str, words: str) -> None:
    step(f"{where}: {words}")


def _ratios(totals: Mapping[str, int], multipliers: int) -> dict[str, float]:
    macs, speedup, offchip = (totals[f"{name}_dense"] / totals[name]
                              for name in ("macs", "cycles", "bytes"))
    return {"mac_reduction": macs, "speedup": speedup, "gating_efficiency": speedup / macs,
            "offchip_reduction": offchip,
            "utilisation": totals["macs"] / (multipliers * totals["cycles"])}
