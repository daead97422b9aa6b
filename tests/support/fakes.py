"""Runs with made-up cycles and bytes, for what only reads results: tables, reports, comparison."""

from dataclasses import replace

import numpy as np

from hwgate.evaluation.against_dense import Evaluation, Pair
from hwgate.machine.config import PRESETS, AcceleratorConfig
from hwgate.machine.counters import LANE_COUNTERS, STREAMS
from hwgate.quant.fidelity import Fidelity, LayerFidelity
from hwgate.quant.layer import Activations, QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.comparison import compare
from hwgate.results.run import LayerResult, RunResult

__all__ = ["FIDELITY", "edit", "evaluation", "network", "run"]

#: Of :func:`network`, as if it had been measured: a layer that breaks, one that is doubtful, and
#: noise larger than the signal.
FIDELITY = Fidelity(32, 0.9375, (
    LayerFidelity("stem", 42.25, 42.25), LayerFidelity("conv1", 7.75, -3.5),
    LayerFidelity("conv2", 12.5, -21.0), LayerFidelity("classifier", 200.0, 3.0)), ignored=True)


def network(config: AcceleratorConfig = PRESETS["digits"], seed: int = 0) -> QuantizedNetwork:
    """Two gated convolutions on (1, 8, 8) images, the first one pooled, and a linear layer."""
    rng = np.random.default_rng(seed)

    def layer(name, in_shape, outputs, kernel, **options):
        gated = options.pop("gated", True)
        weight = rng.integers(-127, 128, (outputs, in_shape[0], kernel, kernel)).astype(np.int8)
        base = np.ones(weight.shape[:2], bool)
        if gated:
            base[:, max(1, in_shape[0] // 4):] = False
        return QuantizedLayer(
            name=name, weight=weight, base=base,
            threshold=rng.integers(-50, 50, outputs) if gated else None,
            bias=rng.integers(-99, 99, (outputs, 2)), mult=np.full((outputs, 2), 20000),
            shift=np.full(outputs, 22), in_shape=in_shape, **options)

    return QuantizedNetwork(config, (
        layer("stem", (1, 8, 8), 8, 3, padding=1, gated=False),
        layer("conv1", (8, 8, 8), 8, 3, padding=1, pool=2),
        layer("conv2", (8, 4, 4), 16, 3, padding=1),
        layer("classifier", (16, 4, 4), 10, 1, gated=False, reduce=True, relu=False)))


def run(network: QuantizedNetwork, images: int = 4, *, source: str = "rtl", dense: bool = False,
        seed: int = 0) -> RunResult:
    """A run whose numbers have the right shapes and nothing else."""
    rng = np.random.default_rng(seed)
    layers = []
    for layer in network.layers:
        psum = rng.integers(-9999, 9999, (images, *layer.decision_shape))
        output = rng.integers(-128, 128, (images, *layer.out_shape)).astype(np.int8)
        gated = layer.gated and not dense
        decision = psum > 4000 if gated else np.ones(psum.shape, bool)
        macs = layer.base_macs * images
        macs += round((layer.macs * images - macs) * float(decision.mean()))
        cycles = 100 + macs // network.config.multipliers
        lanes = []
        for _ in range(network.config.lanes):
            split = rng.multinomial(cycles, [0.5, 0.3 * gated, 0.1, 0.05, 0.05, 0, 0, 0.3])
            lanes.append(dict(zip(LANE_COUNTERS, (int(n) for n in split), strict=True)))
        streams = dict(zip(STREAMS, (96, 4096, 2048, 3072 // (1 + gated), 2048, 0), strict=True))
        layers.append(LayerResult(
            name=layer.name, macs_dense=layer.macs * images, macs=macs, cycles=cycles,
            bytes=streams, lanes=tuple(lanes), gated=gated,
            activations=Activations(output=output, psum=psum, decision=decision)))
    return RunResult(source=source, layers=tuple(layers), end_cycles=40, end_bytes=16,
                     multipliers=network.config.multipliers,
                     seconds=0.5 if source == "rtl" else 0.01)


def edit(result: RunResult, index: int, **changes) -> RunResult:
    """The run with fields of one layer, or arrays of its activations, replaced."""
    layer = result.layers[index]
    arrays = {name: changes.pop(name) for name in ("output", "psum", "decision") if name in changes}
    layer = replace(layer, activations=replace(layer.activations, **arrays), **changes)
    return replace(result, layers=(*result.layers[:index], layer, *result.layers[index + 1:]))


def evaluation(images: int = 4, **edits) -> Evaluation:
    """An evaluation of :func:`network`; ``edits`` change layer 1 of the gated RTL run."""
    net = network()
    pairs = []
    for dense in (False, True):
        rtl, model = (run(net, images, source=source, dense=dense) for source in ("rtl", "model"))
        if edits and not dense:
            rtl = edit(rtl, 1, **edits)
        pairs.append(Pair(rtl, model, compare(rtl, model)))
    return Evaluation(net.config, images, *pairs)
