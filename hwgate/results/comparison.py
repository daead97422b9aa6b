"""The triple equality: golden bits, modelled cycles and modelled bytes equal those of the RTL."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.errors import UserError, expect
from hwgate.machine.counters import LANE_COUNTERS, STREAMS
from hwgate.quant.layer import Activations
from hwgate.results.run import LayerResult, RunResult

__all__ = ["Comparison", "Difference", "LayerComparison", "Source", "compare"]

#: Name under which a program's end, which belongs to no layer, is reported.
END = "end of the program"


@dataclass(frozen=True)
class Source:
    """One pixel before pooling that a differing output comes from. Pairs are (RTL, model)."""

    pixel: tuple[int, int]
    psum: tuple[int, int]
    decision: tuple[bool, bool]

    def describe(self) -> str:
        """Both accumulators and both decisions, in one clause."""
        gates = ["open" if decision else "closed" for decision in self.decision]
        y, x = self.pixel
        return (f"({y}, {x}): accumulator {self.psum[0]} in the RTL and {self.psum[1]} in the "
                f"model, gate {gates[0]} in the RTL and {gates[1]} in the model")


@dataclass(frozen=True)
class Difference:
    """Where the RTL and the model part.

    Parameters
    ----------
    kind : str
        ``output``, ``psum``, ``decision``, ``score``, ``cycles``, ``bytes`` or ``counter``.
    layer : str
        Module path of the layer.
    values : (int, int)
        What the RTL has, and what the model has.
    image, channel : int or None
        Of a score, its gate is the channel.
    pixel : (y, x) or None
        After pooling for an output, before it for a psum or a decision.
    sources : tuple of Source
        Pixels before pooling behind the value.
    lane : int or None
    counter : str or None
        Name of the stream or of the lane counter.
    """

    kind: str
    layer: str
    values: tuple[int, int]
    image: int | None = None
    channel: int | None = None
    pixel: tuple[int, int] | None = None
    sources: tuple[Source, ...] = ()
    lane: int | None = None
    counter: str | None = None

    def describe(self) -> str:
        """One sentence, and one line per pixel behind a differing value."""
        rtl, model = self.values
        if self.pixel is None:
            what = {"cycles": "the cycles", "bytes": f"the bytes of stream {self.counter!r}",
                    "counter": f"counter {self.counter!r} of lane {self.lane}"}[self.kind]
            doc = (STREAMS if self.kind == "bytes" else LANE_COUNTERS).get(self.counter or "", "")
            doc = f" ({doc})" if doc else ""
            return f"layer {self.layer}: {what}{doc} are {rtl} in the RTL and {model} in the model"
        what = {"output": "output", "psum": "accumulator", "decision": "decision",
                "score": "accumulator of the score"}[self.kind]
        whose = "gate" if self.kind == "score" else "channel"
        text = (f"layer {self.layer}, image {self.image}, {whose} {self.channel}, pixel "
                f"({self.pixel[0]}, {self.pixel[1]}): the {what} is {rtl} in the RTL and "
                f"{model} in the model")
        return "\n".join([text, *(f"  from pixel {s.describe()}" for s in self.sources)])


@dataclass(frozen=True)
class LayerComparison:
    """One layer of two runs. Differences are sums of absolute differences; zero means equal."""

    name: str
    mismatches: int
    psum_mismatches: int
    decision_mismatches: int
    cycle_difference: int
    byte_difference: int
    counter_difference: int
    first: Difference | None

    @property
    def equal(self) -> bool:
        return self.first is None


@dataclass(frozen=True)
class Comparison:
    """Two runs of one program over the same images, number by number.

    Parameters
    ----------
    layers : tuple of LayerComparison
    end_cycle_difference, end_byte_difference : int
        After the last layer.
    """

    layers: tuple[LayerComparison, ...]
    end_cycle_difference: int
    end_byte_difference: int
    end: Difference | None

    @property
    def mismatches(self) -> int:
        """Outputs, of all layers, that differ."""
        return sum(layer.mismatches for layer in self.layers)

    @property
    def psum_mismatches(self) -> int:
        return sum(layer.psum_mismatches for layer in self.layers)

    @property
    def decision_mismatches(self) -> int:
        return sum(layer.decision_mismatches for layer in self.layers)

    @property
    def cycle_difference(self) -> int:
        """Sum over layers of absolute differences, so that two errors never cancel."""
        return self.end_cycle_difference + sum(layer.cycle_difference for layer in self.layers)

    @property
    def byte_difference(self) -> int:
        """Sum over layers and streams of absolute differences."""
        return self.end_byte_difference + sum(layer.byte_difference for layer in self.layers)

    @property
    def counter_difference(self) -> int:
        """Sum over layers, lanes and lane counters of absolute differences."""
        return sum(layer.counter_difference for layer in self.layers)

    @property
    def first(self) -> Difference | None:
        """Difference of the earliest layer; values come before cycles, cycles before bytes."""
        return next((layer.first for layer in self.layers if layer.first), self.end)

    @property
    def equal(self) -> bool:
        return self.first is None

    def describe(self) -> str:
        """One sentence if all is equal, else the totals and the first difference."""
        if self.first is None:
            return ("Equal: every output, accumulator, decision, cycle, lane counter and byte of "
                    f"{len(self.layers)} layers.")
        return (f"Not equal: {self.mismatches} outputs, {self.psum_mismatches} accumulators, "
                f"{self.decision_mismatches} decisions, {self.cycle_difference} cycles, "
                f"{self.counter_difference} counts of lanes and {self.byte_difference} bytes "
                f"differ.\nFirst difference: {self.first.describe()}")


def compare(rtl: RunResult, model: RunResult) -> Comparison:
    """Compare a simulation with the cost model, or any two runs of one program.

    Parameters
    ----------
    rtl, model : RunResult
        Runs of the same program over the same images.

    Raises
    ------
    UserError
        If the runs are of different networks, image counts or lane counts.
    """
    for run in (rtl, model):
        expect("Run to compare", run, RunResult,
               hint="hwgate.simulate and hwgate.estimate make one")
    if len(rtl.layers) != len(model.layers):
        raise UserError(f"Runs to compare must have the same layers, "
                        f"not {len(rtl.layers)} and {len(model.layers)} of them")
    layers = tuple(_layer(a, b) for a, b in zip(rtl.layers, model.layers, strict=True))
    end = None
    if rtl.end_cycles != model.end_cycles:
        end = Difference("cycles", END, (rtl.end_cycles, model.end_cycles))
    elif rtl.end_bytes != model.end_bytes:
        end = Difference("bytes", END, (rtl.end_bytes, model.end_bytes), counter="program")
    return Comparison(layers, abs(rtl.end_cycles - model.end_cycles),
                      abs(rtl.end_bytes - model.end_bytes), end)


def _layer(rtl: LayerResult, model: LayerResult) -> LayerComparison:
    if rtl.name != model.name:
        raise UserError(f"Runs to compare must have the same layers, "
                        f"not {rtl.name!r} and {model.name!r}")
    a, b = rtl.activations, model.activations
    for what in ("output", "psum", "decision"):
        shapes = getattr(a, what).shape, getattr(b, what).shape
        if shapes[0] != shapes[1]:
            raise UserError(f"Runs to compare must have the same shapes, but the {what}s of layer "
                            f"{rtl.name} are {shapes[0]} and {shapes[1]}")
    if len(rtl.lanes) != len(model.lanes):
        raise UserError(f"Runs to compare must have the same lanes, "
                        f"not {len(rtl.lanes)} and {len(model.lanes)}")
    counters = tuple(_counters(rtl, model))
    first = _value(rtl, model) or next(iter(counters), None)
    return LayerComparison(
        name=rtl.name,
        mismatches=_count(a.output, b.output),
        psum_mismatches=_count(a.psum, b.psum) + _scores(a, b),
        decision_mismatches=_count(a.decision, b.decision),
        cycle_difference=_sum(counters, "cycles"),
        byte_difference=_sum(counters, "bytes"),
        counter_difference=_sum(counters, "counter"),
        first=first)


def _count(a: NDArray[Any], b: NDArray[Any]) -> int:
    return int(np.count_nonzero(a != b))


def _scores(a: Activations, b: Activations) -> int:
    """Psums of scores that differ."""
    if a.score is None or b.score is None:
        return 0
    return _count(a.score, b.score)


def _sum(differences: tuple[Difference, ...], kind: str) -> int:
    return sum(abs(d.values[0] - d.values[1]) for d in differences if d.kind == kind)


def _counters(rtl: LayerResult, model: LayerResult) -> Iterator[Difference]:
    """Differing cycles, bytes and lane counters of one layer."""
    if rtl.cycles != model.cycles:
        yield Difference("cycles", rtl.name, (rtl.cycles, model.cycles))
    for stream in STREAMS:
        pair = rtl.bytes.get(stream, 0), model.bytes.get(stream, 0)
        if pair[0] != pair[1]:
            yield Difference("bytes", rtl.name, pair, counter=stream)
    for lane, (a, b) in enumerate(zip(rtl.lanes, model.lanes, strict=True)):
        for counter in LANE_COUNTERS:
            pair = a.get(counter, 0), b.get(counter, 0)
            if pair[0] != pair[1]:
                yield Difference("counter", rtl.name, pair, lane=lane, counter=counter)


def _value(rtl: LayerResult, model: LayerResult) -> Difference | None:
    """First differing output; else the first differing accumulator, else decision."""
    a, b = rtl.activations, model.activations
    for kind in ("output", "score", "psum", "decision"):
        left, right = getattr(a, kind), getattr(b, kind)
        if left is None or right is None:
            continue
        where = np.argwhere(left != right)
        if len(where) == 0:
            continue
        image, channel, y, x = (int(i) for i in where[0])
        # Pooling windows never overlap, so the shapes give their edge.
        rows, columns = (n // m for n, m in zip(a.psum.shape[2:], a.output.shape[2:], strict=True))
        edge = min(rows, columns) if kind == "output" else 1
        sources = tuple(
            Source((r, c), (int(a.psum[image, channel, r, c]), int(b.psum[image, channel, r, c])),
                   (bool(a.decision[image, channel, r, c]), bool(b.decision[image, channel, r, c])))
            for r in range(y * edge, (y + 1) * edge) for c in range(x * edge, (x + 1) * edge)
            if kind != "score")
        values = int(left[image, channel, y, x]), int(right[image, channel, y, x])
        return Difference(kind, rtl.name, values, image, channel, (y, x), sources)
    return None
