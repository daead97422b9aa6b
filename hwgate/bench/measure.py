"""Everything that ``python -m hwgate.bench`` measures, as one JSON object."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import hwgate
from hwgate.bench.dense import PEERS, SHAPES, dense_images, dense_layer, dense_utilisation
from hwgate.bench.gating import Gating, bench_images, gated_resnet20, group_of, lane_cycles, lost
from hwgate.machine.config import AcceleratorConfig, MemoryTiming
from hwgate.results.comparison import compare
from hwgate.results.run import RunResult

__all__ = ["BATCHES", "DEFINITIONS", "DENSITIES", "LANES", "SPOT_CHECKS", "Stage", "measure"]

#: Images at a time; the first one is measured in RTL, figures of that batch are the ones quoted.
BATCHES = (1, 8)

#: Batches of the dense layers; the first one is compared with the peers.
DENSE_BATCHES = (1, 4)

#: Of gate decisions, in the efficiency curve.
DENSITIES = (0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)

#: The sweep. With R = 8 a base path has 8 channels at least, so the gated network is twice as wide.
LANES = (1, 2, 4, 8, 16)
WIDTHS = {4: 1.0, 8: 2.0}

#: Configurations (lanes, R) of the sweep whose model is compared with RTL.
SPOT_CHECKS = ((1, 4), (2, 8))

#: Wall times are the best of this many runs.
_REPEATS = 3

#: What each figure means; part of the JSON.
DEFINITIONS = {
    "dense_utilisation": "MACs / (multipliers x cycles) of single layers, gates forced open",
    "resnet20.utilisation": "the same over all convolutions of ResNet-20",
    "mac_reduction": "dense MACs / MACs done, over the gated layers",
    "speedup": "dense cycles / gated cycles on the same accelerator, over the gated layers",
    "gating_efficiency": "speed-up / MAC reduction",
    "density": "share of gate decisions that opened",
    "lost_cycles": "lane cycles without a window, gated run, over the gated layers, by counter",
    "cycles_per_second": "RTL cycles / wall seconds of these cycles, one core, best run",
    "model_speedup": "wall time of hwgate.simulate with the simulator built / wall time of "
                     "hwgate.estimate, golden model included; same programs and images, best runs",
    "model_speedup_schedule": "the same for the simulated cycles alone / the schedule alone",
}

#: Announces a stage and its number of steps; the answer is called after each step.
Stage = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True)
class _Timed:
    """A run, and the wall seconds of the whole call."""

    run: RunResult
    seconds: float


def measure(config: AcceleratorConfig, stage: Stage, *, full: bool = False) -> dict[str, Any]:
    """Measure an accelerator.

    Parameters
    ----------
    config : AcceleratorConfig
    stage : callable
        Told what is done.
    full : bool
        Also batches of several images, and every configuration of the sweep, in RTL.

    Returns
    -------
    dict
        Ready for JSON; ``equal`` says whether RTL and cost model agree in all that both ran, and
        ``differences`` how they do not.

    Raises
    ------
    UserError
        As compiler, simulator and cost model raise it.
    """
    differences: list[str] = []
    figures: dict[str, Any] = {
        "accelerator": {**config.to_dict(), "multipliers": config.multipliers,
                        "digest": f"{config.digest:08x}"},
        "memory": {"bytes_per_cycle": config.bus.bytes, **asdict(MemoryTiming())},
        "definition": "MACs / (multipliers x RTL cycles), loads and stores included",
        "definitions": DEFINITIONS}
    figures |= _dense(config, stage, differences)
    figures |= _resnet20(config, stage, differences, full)
    figures |= _curves(config, stage, differences, full)
    figures |= _sweep(config, stage, differences, full)
    return {**figures, "equal": not differences, "differences": differences}


def _dense(config: AcceleratorConfig, stage: Stage, differences: list[str]) -> dict[str, Any]:
    tick = stage("Dense layers, RTL", len(DENSE_BATCHES) * len(SHAPES))
    runs: dict[int, dict[str, RunResult]] = {}
    for batch in DENSE_BATCHES:
        runs[batch] = {}
        for name in SHAPES:
            program = hwgate.compile(dense_layer(name, config), config, dense=True)
            images = dense_images(name, batch)
            runs[batch][name] = run = hwgate.simulate(program, images)
            _check(run, hwgate.estimate(program, images), f"{batch} images", differences)
            tick()
    batches = {str(batch): {"dense_utilisation": dense_utilisation(by_name),
                            "cycles": {name: run.cycles for name, run in by_name.items()}}
               for batch, by_name in runs.items()}
    return {**batches[str(DENSE_BATCHES[0])], "batches": batches,
            "peers": [{"name": peer.name, "what": peer.kind, "multipliers": peer.multipliers,
                       "dense_utilisation": dict(zip((*SHAPES, "total"), peer.utilisation(),
                                                     strict=True))} for peer in PEERS]}


def _resnet20(config: AcceleratorConfig, stage: Stage, differences: list[str],
              full: bool) -> dict[str, Any]:
    """ResNet-20 at the reference density: gating, lost cycles, and the speed of both simulators."""
    network = gated_resnet20(config)
    programs = {gates: hwgate.compile(network, config, dense=gates == "dense")
                for gates in ("gated", "dense")}
    tick = stage("ResNet-20, RTL and model", len(BATCHES) * len(programs))
    batches, went, speed = [], [], {}
    for batch in BATCHES:
        images, source = bench_images(batch), "rtl" if batch == BATCHES[0] or full else "model"
        repeats = _REPEATS if batch == BATCHES[0] else 1
        runs: dict[str, RunResult] = {}
        for gates, program in programs.items():
            model = _timed(partial(hwgate.estimate, program, images), repeats)
            runs[gates] = model.run
            if source == "rtl":
                rtl = _timed(partial(hwgate.simulate, program, images), repeats, warm=True)
                _check(rtl.run, model.run, f"{batch} images, {gates}", differences)
                runs[gates] = rtl.run
                if batch == BATCHES[0]:
                    speed[gates] = rtl, model
            went.append({"batch": batch, "source": source, "gates": gates,
                         **_where(runs[gates], runs["gated"])})
            tick()
        batches.append({"batch": batch, "source": source,
                        **Gating(network, runs["gated"], runs["dense"]).to_dict()})
    gated = went[0]
    return {
        "resnet20": {**batches[0], "batches": batches},
        "lost_cycles": lost(gated["total"]),
        "lost_cycles_by_group": {name: lost(cycles) for name, cycles in gated["groups"].items()},
        "where_cycles_go": went, "simulation": _speed(speed)}


def _timed(run: Callable[[], RunResult], repeats: int, warm: bool = False) -> _Timed:
    """Fastest of several calls; ``warm`` makes one more before them, which may build a model."""
    if warm and repeats > 1:
        run()
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        found.append(_Timed(run(), time.perf_counter() - begin))
    fastest = min(found, key=lambda timed: timed.seconds)
    alone = min(timed.run.seconds for timed in found)
    return replace(fastest, run=replace(fastest.run, seconds=alone))


def _speed(pairs: dict[str, tuple[_Timed, _Timed]]) -> dict[str, Any]:
    rtl, model = ([pair[side] for pair in pairs.values()] for side in (0, 1))
    cycles = sum(timed.run.cycles for timed in rtl)
    alone = [max(sum(timed.run.seconds for timed in side), 1e-9) for side in (rtl, model)]
    calls = [max(sum(timed.seconds for timed in side), 1e-9) for side in (rtl, model)]
    return {"cycles_per_second": cycles / alone[0], "model_speedup": calls[0] / calls[1],
            "model_speedup_schedule": alone[0] / alone[1], "cycles": cycles,
            "runs": list(pairs),
            "rtl_seconds": calls[0], "rtl_seconds_cycles": alone[0],
            "model_seconds": calls[1], "model_seconds_schedule": alone[1],
            "seconds_per_dense_image": pairs["dense"][0].seconds}


def _where(run: RunResult, gated: RunResult) -> dict[str, Any]:
    """Lane cycles by counter of the gated layers, together, by group, and one by one."""
    names = [layer.name for layer in gated.layers if layer.gated]
    layers = [layer for layer in run.layers if layer.name in names]
    groups: dict[str, list[Any]] = {}
    for layer in layers:
        groups.setdefault(group_of(layer.name), []).append(layer)
    return {"total": lane_cycles(layers),
            "groups": {name: lane_cycles(group) for name, group in groups.items()},
            "layers": [{"name": layer.name, "gated": layer.name in names, "cycles": layer.cycles,
                        "counters": lane_cycles([layer])} for layer in run.layers]}


def _curves(config: AcceleratorConfig, stage: Stage, differences: list[str],
            full: bool) -> dict[str, Any]:
    """Efficiency over density, of the first batch in RTL.

    Thresholds do not change the cycles of a dense program, so its model, which is equal to the RTL
    at the reference density, stands for it.
    """
    tick = stage("ResNet-20 at all densities", len(DENSITIES))
    curves: dict[int, list[dict[str, Any]]] = {batch: [] for batch in BATCHES}
    for density in DENSITIES:
        network = gated_resnet20(config, density)
        for batch, curve in curves.items():
            images, rtl = bench_images(batch), batch == BATCHES[0] or full
            gated, dense = (hwgate.compile(network, config, dense=dense)
                            for dense in (False, True))
            run = hwgate.estimate(gated, images)
            if rtl:
                model, run = run, hwgate.simulate(gated, images)
                _check(run, model, f"{batch} images, density {density}", differences)
            found = Gating(network, run, hwgate.estimate(dense, images)).to_dict()
            curve.append({"target": density, "batch": batch, "source": "rtl" if rtl else "model",
                          **{name: found[name] for name in
                             ("density", "mac_reduction", "speedup", "gating_efficiency")}})
        tick()
    return {"efficiency_curve": curves[BATCHES[0]],
            "efficiency_curves": {str(batch): curve for batch, curve in curves.items()}}


def _sweep(config: AcceleratorConfig, stage: Stage, differences: list[str],
           full: bool) -> dict[str, Any]:
    """Dense layers and gated ResNet-20 over lanes and R: the model, spot-checked in RTL."""
    tick = stage("Lanes and R, model", len(WIDTHS) * len(LANES))
    entries, checks = [], []
    for channels, width in WIDTHS.items():
        for lanes in LANES:
            changed = replace(config, lanes=lanes, channels=channels)
            network = gated_resnet20(changed, width=width)
            for batch in BATCHES:
                entries.append(_sweep_entry(changed, network, width, batch))
            tick()
    chosen = SPOT_CHECKS if not full else tuple((lanes, channels) for channels in WIDTHS
                                                for lanes in LANES)
    tick = stage("Lanes and R, spot checks in RTL", len(chosen))
    for lanes, channels in chosen:
        changed = replace(config, lanes=lanes, channels=channels)
        program = hwgate.compile(gated_resnet20(changed, width=WIDTHS[channels]), changed)
        images = bench_images(BATCHES[0])
        rtl = hwgate.simulate(program, images)
        equal = _check(rtl, hwgate.estimate(program, images), f"{lanes} lanes, R = {channels}",
                       differences)
        checks.append({"lanes": lanes, "channels": channels, "batch": BATCHES[0],
                       "cycles": rtl.cycles, "equal": equal})
        tick()
    return {"sweep": entries, "sweep_spot_checks": checks}


def _sweep_entry(config: AcceleratorConfig, network: Any, width: float,
                 batch: int) -> dict[str, Any]:
    runs = {}
    for name in SHAPES:
        program = hwgate.compile(dense_layer(name, config), config, dense=True)
        runs[name] = hwgate.estimate(program, dense_images(name, batch))
    gated, dense = (hwgate.estimate(hwgate.compile(network, config, dense=dense),
                                    bench_images(batch)) for dense in (False, True))
    found = Gating(network, gated, dense)
    return {"lanes": config.lanes, "channels": config.channels, "batch": batch, "source": "model",
            "multipliers": config.multipliers, "width": width,
            "dense_utilisation": dense_utilisation(runs), "resnet20": found.to_dict(),
            "lane_cycles": lane_cycles(layer for layer, _ in found.pairs)}


def _check(rtl: RunResult, model: RunResult, what: str, differences: list[str]) -> bool:
    found = compare(rtl, model)
    if not found.equal:
        differences.append(f"{what}: {found.describe()}")
    return found.equal
