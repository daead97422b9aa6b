"""Utilisation of dense layers beside published figures: ``python -m hwgate.bench``.

Three ResNet-20 layers (int8, 3x3, stride 1, same padding), loads and stores included. Figures of
the peers were measured on the same layers by running their tools on a 2-core machine.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from hwgate.artifacts import write_atomic
from hwgate.config import AcceleratorConfig, preset
from hwgate.errors import UserError
from hwgate.evaluate import Pair, simulate_and_estimate
from hwgate.quant.network import QuantizedLayer, QuantizedNetwork
from hwgate.tables import console

__all__ = ["PEERS", "Peer", "SHAPES", "dense_layer", "main"]

#: Layer: channels in and out, and edge of the feature maps.
SHAPES: dict[str, tuple[int, int]] = {"c16": (16, 32), "c32": (32, 16), "c64": (64, 8)}

#: MACs of each of the layers.
MACS = 2_359_296

#: Batches that are run; the first one is compared with the peers.
BATCHES = (1, 4)


@dataclass(frozen=True)
class Peer:
    """Another system on the same layers, one image."""

    name: str
    kind: str
    multipliers: int
    cycles: tuple[int, int, int]

    def utilisation(self) -> tuple[float, ...]:
        """Of each layer, and of their sum."""
        cycles = *self.cycles, sum(self.cycles)
        macs = MACS, MACS, MACS, 3 * MACS
        return tuple(m / (self.multipliers * c) for m, c in zip(macs, cycles, strict=True))


PEERS = (
    Peer("SCALE-Sim 3.0.0, 8x8 output-stationary", "model, no stalls", 64,
         (40447, 38655, 37759)),
    Peer("SCALE-Sim 3.0.0, 8x8 weight-stationary", "model, no stalls", 64,
         (37655, 40031, 49535)),
    Peer("SCALE-Sim 3.0.0, 16x16 output-stationary", "model, no stalls", 256,
         (11135, 10175, 9695)),
    Peer("ZigZag 3.9.1, 8x8 mapping search", "model", 64, (39192, 38176, 39214)),
    Peer("NNgen 1.3.4", "RTL, DMA included", 72, (39770, 35482, 37506)),
)


def dense_layer(name: str, config: AcceleratorConfig, seed: int = 0) -> QuantizedNetwork:
    """A network of one dense layer of :data:`SHAPES` with random weights.

    Raises
    ------
    UserError
        If there is no such layer.
    """
    if name not in SHAPES:
        raise UserError(f"There is no layer {name!r}; there are {', '.join(SHAPES)}")
    channels, edge = SHAPES[name]
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (channels, channels, 3, 3)).astype(np.int8)
    # Random sums spread by about 73 * 73 * sqrt(9 * channels); outputs shall spread by about 40.
    scale = 40 / (73 * 73 * np.sqrt(9 * channels))
    shift = 14 - int(np.floor(np.log2(scale)))
    return QuantizedNetwork(config, (QuantizedLayer(
        name=name, weight=weight, base=np.ones((channels, channels), bool), threshold=None,
        bias=np.zeros((channels, 2), np.int64),
        mult=np.full((channels, 2), round(scale * 2**shift), np.int64),
        shift=np.full(channels, shift, np.int64), in_shape=(channels, edge, edge), padding=1),))


def _run(config: AcceleratorConfig, batch: int) -> dict[str, Pair]:
    pairs = {}
    for name, (channels, edge) in SHAPES.items():
        images = np.random.default_rng(1).integers(-128, 128, (batch, channels, edge, edge))
        pairs[name] = simulate_and_estimate(dense_layer(name, config), config,
                                            images.astype(np.int8), dense=True)
    return pairs


def _utilisation(pairs: dict[str, Pair]) -> dict[str, float]:
    found = {name: pair.rtl.utilisation for name, pair in pairs.items()}
    multipliers = next(iter(pairs.values())).rtl.multipliers
    found["total"] = (sum(pair.rtl.macs for pair in pairs.values())
                      / (multipliers * sum(pair.rtl.cycles for pair in pairs.values())))
    return found


def _table(rows: Iterable[tuple[str, str, int, Iterable[float]]]) -> Table:
    table = Table(title="Dense utilisation = MACs / (multipliers x cycles)", box=box.SIMPLE_HEAD,
                  title_justify="left", title_style="bold", pad_edge=False,
                  collapse_padding=True)
    for index, column in enumerate(("System", "What", "Mult.", *SHAPES, "total")):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=True)
    for name, kind, multipliers, shares in rows:
        table.add_row(name, kind, str(multipliers), *(f"{share:.1%}" for share in shares),
                      style="bold" if name.startswith("hwgate") else "")
    return table


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, 1 if RTL and cost model differ, 2 on unusable input."""
    parser = argparse.ArgumentParser(prog="python -m hwgate.bench", description=__doc__)
    parser.add_argument("--preset", default="cifar", help="accelerator (default: cifar)")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"),
                        help="file for the figures (default: build/bench.json)")
    options = parser.parse_args(arguments)
    try:
        return _bench(preset(options.preset), options.output)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _bench(config: AcceleratorConfig, output: Path) -> int:
    runs = {batch: _run(config, batch) for batch in BATCHES}
    shares = {batch: _utilisation(pairs) for batch, pairs in runs.items()}
    every = [pair for pairs in runs.values() for pair in pairs.values()]
    speed = sum(p.rtl.cycles for p in every) / max(sum(p.rtl.seconds for p in every), 1e-9)
    cycles = {batch: {name: pair.rtl.cycles for name, pair in pairs.items()}
              for batch, pairs in runs.items()}
    figures: dict[str, Any] = {
        "accelerator": {**config.to_dict(), "digest": f"{config.digest:08x}"},
        "definition": "MACs / (multipliers x RTL cycles), loads and stores included",
        "dense_utilisation": shares[BATCHES[0]], "cycles": cycles[BATCHES[0]],
        "batches": {str(batch): {"dense_utilisation": shares[batch], "cycles": cycles[batch]}
                    for batch in BATCHES},
        "peers": [{"name": peer.name, "what": peer.kind, "multipliers": peer.multipliers,
                   "dense_utilisation": dict(zip((*SHAPES, "total"), peer.utilisation(),
                                                 strict=True))} for peer in PEERS],
        "simulation": {"cycles_per_second": speed},
        "equal": all(pair.comparison.equal for pair in every),
    }
    write_atomic(output, json.dumps(figures, indent=2) + "\n")
    out = console()
    out.print(_table([
        *((f"hwgate, {batch} image{'s' if batch > 1 else ''}", "RTL, AXI included",
           config.multipliers, shares[batch].values()) for batch in BATCHES),
        *((peer.name, peer.kind, peer.multipliers, peer.utilisation()) for peer in PEERS)]))
    out.print(f"{config.describe()}; {speed:,.0f} RTL cycles per second of wall time.",
              soft_wrap=True, markup=False)
    for batch, pairs in runs.items():
        for pair in pairs.values():
            if not pair.comparison.equal:
                out.print(f"{batch} images. {pair.comparison.describe()}", soft_wrap=True,
                          markup=False)
    out.print(f"Figures: {output}", soft_wrap=True, markup=False)
    return 0 if figures["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
