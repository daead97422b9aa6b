"""Assembly of a run's result, with the stand-in as accelerator and copies as layers."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import hwgate
from hwgate.compiler.program import Step
from hwgate.errors import UserError
from hwgate.machine.config import MemoryTiming, preset
from hwgate.machine.counters import LANE_COUNTERS, STREAMS
from hwgate.machine.driver import EngineError
from hwgate.machine.regs import ErrorCause
from hwgate.plan.geometry import Band, Tiling
from hwgate.plan.layer import LayerPlan
from hwgate.quant.layer import QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from hwgate.sim import engine
from hwgate.sim.simulate import _scatter, _scores, simulate, simulate_each
from support.copier import CONFIG, DATA, Copy, image, verilog
from support.random_layers import Limits, random_images, random_network

CHANNELS, EDGE, IMAGES = 4, 4, 3
PIXELS = EDGE * EDGE
#: Every output of a layer is one copied beat, so one event.
BEATS = IMAGES * CHANNELS * PIXELS


def layer(name, inputs):
    base = np.zeros((CHANNELS, inputs), bool)
    base[:, :2] = True
    return QuantizedLayer(
        name=name, weight=np.zeros((CHANNELS, inputs, 3, 3), np.int8), base=base,
        threshold=np.zeros(CHANNELS, np.int64), bias=np.zeros((CHANNELS, 2), np.int64),
        mult=np.ones((CHANNELS, 2), np.int64), shift=np.ones(CHANNELS, np.int64),
        in_shape=(inputs, EDGE, EDGE), padding=1)


NETWORK = QuantizedNetwork(CONFIG, (layer("conv1", 8), layer("conv2", CHANNELS)))


def steps(per_tile):
    """A descriptor per layer."""
    tiling = Tiling((Band(0, EDGE),), IMAGES, per_tile)
    return [Step(LayerPlan(of, of, tiling.bands, (), (), (), b"", {}), tiling,
                 {"slot_pixels": PIXELS}) for of in NETWORK.layers]


@dataclass(frozen=True)
class Binding:
    memory: Any
    steps: Any
    program_address: int = 0

    def read_output(self, memory, index, chip):
        at = [2 * DATA, 2 * DATA + BEATS * CONFIG.bus.bytes][index]
        words = memory[at:at + BEATS * CONFIG.bus.bytes].view(np.int8)[::CONFIG.bus.bytes]
        return words.reshape(IMAGES, CHANNELS, EDGE, EDGE)


class Program(hwgate.Program):
    """A program whose layers are copies."""

    def __init__(self, copies, per_tile=1):
        super().__init__(NETWORK, CONFIG, ())
        vars(self).update(copies=copies, per_tile=per_tile)

    def bind(self, images):
        return Binding(image(self.copies, size=4 * DATA), steps(self.per_tile))


FIRST = Copy(beats=BEATS, burst=64)
SECOND = replace(FIRST, target=2 * DATA + BEATS * CONFIG.bus.bytes)
INPUTS = np.zeros((IMAGES, 8, EDGE, EDGE), np.int8)


@pytest.fixture
def stand_in(monkeypatch):
    def choose(**options):
        text = verilog(**options)
        monkeypatch.setattr(engine, "generated_verilog", lambda config: text)
    choose(channels=CHANNELS, pixels=PIXELS)
    return choose


def test_result_has_everything_the_monitor_saw(stand_in):
    result = simulate(Program((FIRST, SECOND)), INPUTS, MemoryTiming(read_latency=11))
    words = image([])[DATA:DATA + BEATS * CONFIG.bus.bytes].view("<i4")[::4]
    psum = words.astype(np.int64).reshape(IMAGES, CHANNELS, EDGE, EDGE)
    assert result.source == "rtl" and [x.name for x in result.layers] == ["conv1", "conv2"]
    for found, inputs in zip(result.layers, (8, CHANNELS), strict=True):
        assert np.array_equal(found.activations.psum, psum)
        assert np.array_equal(found.activations.decision, psum & 1 == 1)
        assert np.array_equal(found.activations.output, psum.astype(np.int8))
        assert (found.activations.psum.dtype, found.activations.decision.dtype) == (np.int64, bool)
        opened = int((psum & 1).sum())
        assert found.macs == IMAGES * CHANNELS * PIXELS * 2 * 9 + opened * (inputs - 2) * 9
        assert found.macs_dense == BEATS * inputs * 9 and found.gated
        assert found.bytes == {"program": 32, "windows": BEATS * 16, "base": 0, "conditional": 0,
                               "output": BEATS * 16, "residual": 0}
        assert list(found.bytes) == list(STREAMS)
        assert [list(lane) for lane in found.lanes] == [list(LANE_COUNTERS)] * CONFIG.lanes
        assert found.cycles > 2 * BEATS
    assert result.layers[0].cycles == result.layers[1].cycles
    assert result.end_bytes == 32 and result.end_cycles > 0
    assert result.outputs.shape == (IMAGES, CHANNELS, EDGE, EDGE)
    assert result.seconds > 0 and result.multipliers == CONFIG.multipliers


def test_images_of_a_tile_are_told_apart(stand_in):
    """One tile with all images, whose channels hold image after image."""
    stand_in(channels=CHANNELS, pixels=IMAGES * PIXELS)
    result = simulate(Program((FIRST, SECOND), IMAGES), INPUTS)
    words = image([])[DATA:DATA + BEATS * CONFIG.bus.bytes].view("<i4")[::4]
    psum = words.reshape(CHANNELS, IMAGES, EDGE, EDGE).swapaxes(0, 1)
    for found in result.layers:
        assert np.array_equal(found.activations.psum, psum)
        assert np.array_equal(found.activations.decision, psum & 1 == 1)


@pytest.mark.parametrize("copies,options,sentence", [
    ((FIRST, Copy(opcode=9)), {},
     "The engine stopped with error OPCODE in layer 'conv2' (2 of 2): a descriptor has an "
     "unknown opcode"),
    ((Copy(source=64 * DATA), SECOND), {},
     "The engine stopped with error READ in layer 'conv1' (1 of 2): the memory answered a read "
     "with an error"),
    ((FIRST,), {}, "The engine must finish 2 layers, but reports 1 and signalled 1"),
    ((FIRST, SECOND), {"deadline": 700},
     "The engine was not done after 700 cycles; it was in layer 'conv2' (2 of 2)"),
    ((FIRST, replace(SECOND, source=DATA + 2064)), {},
     "The engine broke the bus protocol in layer 'conv2' (2 of 2): Read at 0x1c10 of 64 beats "
     "crosses a 4 KB boundary"),
    ((FIRST, replace(SECOND, beats=BEATS - 1)), {},
     "Layer 'conv2' must produce every output once, but it produced image 2, channel 3, "
     "pixel 15 0 times"),
    ((FIRST, replace(SECOND, beats=BEATS + 1)), {},
     "Layer 'conv2' must have events of image 0..2, but the monitor saw image 3"),
])
def test_errors_are_one_sentence(stand_in, copies, options, sentence):
    with pytest.raises(EngineError) as caught:
        simulate(Program(copies), INPUTS, **options)
    assert str(caught.value) == sentence
    stopped = "stopped with error" in sentence
    assert (caught.value.cause is not ErrorCause.NONE) == stopped


@pytest.mark.parametrize("options,sentence", [
    ({"channels": 2, "pixels": 16}, "Layer 'conv1' must have events of image 0..2, but the "
                                    "monitor saw image 3"),
    ({"channels": 8, "pixels": 16}, "Layer 'conv1' must have events of channel 0..3, but the "
                                    "monitor saw channel 4"),
    ({"channels": 2, "pixels": 64}, "Layer 'conv1' must have events of pixel 0..15, but the "
                                    "monitor saw pixel 16"),
])
def test_misplaced_events_are_named(stand_in, options, sentence):
    stand_in(**options)
    with pytest.raises(EngineError) as caught:
        simulate(Program((FIRST, SECOND)), INPUTS)
    assert str(caught.value) == sentence


def scatter(limit, *events):
    """Psums and decisions of a layer of one output, from events (psum, decision)."""
    layer = replace(NETWORK.layers[0], limit=limit, in_shape=(8, 1, 1), pool=1)
    layer = replace(layer, **{name: getattr(layer, name)[:1] for name in (
        "weight", "base", "threshold", "bias", "mult", "shift")})
    found = np.zeros(len(events), [("psum", np.int32), ("decision", np.uint8)])
    found[:] = list(events)
    psum, decision = _scatter(np.zeros((len(events), 3), np.int64), found, layer, 1)
    return int(psum.item()), bool(decision.item())


def test_an_open_output_takes_the_place_of_a_closed_one():
    assert scatter(1, (5, 0)) == (5, False) and scatter(1, (9, 1)) == (9, True)
    assert scatter(1, (5, 0), (9, 1)) == (9, True)
    for limit, events in ((1, ((9, 1), (5, 0))), (1, ((5, 0), (5, 0))), (1, ((9, 1), (9, 1))),
                          (0, ((5, 0), (9, 1)))):
        with pytest.raises(EngineError, match="must produce every output once, but it produced "
                           "image 0, channel 0, pixel 0 2 times"):
            scatter(limit, *events)


def test_scores_come_alike_from_every_lane():
    """Two channels of one gate, on two lanes: every pixel once or more, with one psum."""
    layer = NETWORK.layers[0]
    gate = np.zeros(len(layer.weight), np.int64)
    layer = replace(layer, in_shape=(8, 1, 2), pool=1, gate=gate)
    found = np.zeros(4, [("psum", np.int32)])
    where = np.array([(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)])
    found["psum"] = 3, 4, 3, 4
    scores = _scores(where, found, layer, 1)
    assert scores.shape[:2] == (1, 1) and scores.ravel().tolist() == [3, 4]
    assert _scores(where[:0], found[:0], replace(layer, gate=None), 1) is None
    found["psum"] = 3, 4, 3, 5
    for places, events in ((where, found), (where[:1], found[:1])):
        with pytest.raises(EngineError, match="must compute every score, and the same in every"):
            _scores(places, events, layer, 1)
    with pytest.raises(EngineError, match="must have no score, but the monitor saw one"):
        _scores(where, found, replace(layer, gate=None), 1)


def test_parts_are_the_runs_that_simulate_makes(monkeypatch):
    """Seven images two at a time: four runs, in two processes of two runs each."""
    rng, processes = np.random.default_rng(3), []
    network = random_network(rng, preset("tiny"), layers=2, gated=True, density="mixed",
                             limits=Limits(size=5, channels=6))
    program, images = hwgate.compile(network), random_images(rng, network, 7)
    timing, original = MemoryTiming(read_latency=5), engine.run_engine
    monkeypatch.setattr("hwgate.sim.simulate.run_engine",
                        lambda config, starts, **more: processes.append(len(starts))
                        or original(config, starts, **more))
    runs = list(simulate_each(program, images, timing, batch=2, jobs=2))
    assert processes == [2, 2]
    for number, found in enumerate(runs):
        part = images[2 * number:2 * number + 2]
        assert hwgate.compare(found, hwgate.estimate(program, part, timing)).equal
        if number in (1, 3):
            assert hwgate.compare(found, simulate(program, part, timing)).equal
    assert [len(run.outputs) for run in runs] == [2, 2, 2, 1]


def test_parts_that_fail_raise(stand_in):
    with pytest.raises(EngineError, match=r"^The engine stopped with error OPCODE in layer"):
        list(simulate_each(Program((FIRST, Copy(opcode=9))), INPUTS, batch=3, jobs=2))


@pytest.mark.parametrize("options,sentence", [
    ({"batch": 0}, "Batch must be at least 1, not 0"),
    ({"jobs": -1}, "Number of jobs must be at least 1, not -1")])
def test_parts_need_images_and_jobs(options, sentence):
    with pytest.raises(UserError) as caught:
        simulate_each(Program((FIRST, SECOND)), INPUTS, **options)
    assert str(caught.value) == sentence
