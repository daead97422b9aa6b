"""The whole accelerator: equal to golden and cost model; its Verilog."""

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
from hwgate.machine.config import RESIDUAL_SHIFT, BufferConfig, MemoryTiming
from hwgate.machine.regs import ErrorCause
from hwgate.quant.layer import IMAGE, QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.comparison import compare
from hwgate.rtl.reader import OUTSTANDING
from hwgate.rtl.tiles import TILE_QUEUE
from hwgate.rtl.verilog import TOPLEVEL, verilog
from hwgate.sim import engine
from hwgate.sim.axi_bench import run_starts_with_timing, run_with_backpressure
from hwgate.sim.build import BenchError, build_model, generated_verilog, run_bench
from hwgate.sim.records import Start
from hwgate.sim.toolchain import verilator_root
from support.engine_cases import CONFIGS, MORE_CONFIGS, TIMINGS, Case, verify
from support.random_layers import Features, Limits, random_images, random_network
from support.residency_cases import SMALL
from support.shares import rest_slow

HERE = Path(__file__).parent


def assert_equal(cases):
    """Every bit, cycle, byte and counter; the message has the command that replays a case."""
    verdicts = verify(cases)
    wrong = [f"{verdict.command}\n{verdict.failure}" for verdict in verdicts if verdict.failure]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(cases)} differ; replay:", *wrong[:3]])
    return verdicts


#: The large one comes last, and that of maps on chip, whose kinds test_engine_residency and
#: test_engine_weights have.
_ORDER = sorted(CONFIGS, key=lambda name: name in ("8x18", "2x36chip"))


@pytest.mark.parametrize("name", rest_slow(_ORDER, quick=len(_ORDER) - 2))
def test_random_layers_match(name):
    """A share of what ``make exact`` runs, under the first memory and one of the others."""
    others = 1 + list(CONFIGS).index(name) % (len(TIMINGS) - 1)
    seeds = [seed for seed in range(32) if seed % len(TIMINGS) in (0, others)]
    verdicts = assert_equal([*(Case(name, "layers", seed) for seed in seeds),
                             *(Case(name, "network", seed) for seed in seeds[1:4:2])])
    assert sum(verdict.layers for verdict in verdicts) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS | MORE_CONFIGS)
def test_many_random_layers_match(name):
    assert_equal([*(Case(name, "layers", seed) for seed in range(1000, 1100)),
                  *(Case(name, "network", seed) for seed in range(1000, 1010))])


def assert_runs_equal(program, images, timing):
    """The same for one program; returns what the RTL did."""
    result, model = (run(program, images, timing) for run in (hwgate.simulate, hwgate.estimate))
    comparison = compare(result, model)
    assert comparison.equal, comparison.describe()
    return result


def plain_layer(name, in_shape, outputs, kernel=3, **options):
    """An ungated layer of ones."""
    return QuantizedLayer(
        name, np.ones((outputs, in_shape[0], kernel, kernel), np.int8),
        np.ones((outputs, in_shape[0]), bool), None, np.zeros((outputs, 2), np.int64),
        np.full((outputs, 2), 99), np.full(outputs, 9), in_shape, **options)


def test_windows_that_no_gate_needs():
    """The output is in memory long before the last plane; the layer ends when that has come."""
    config, channels = CONFIGS["1x18"], 8 * CONFIGS["1x18"].channels
    closed = replace(plain_layer("closed", (channels, 6, 6), 1, padding=1),
                     base=np.arange(channels)[None] < config.channels,
                     threshold=np.array([2**31 - 1]))
    network = QuantizedNetwork(config, (closed, plain_layer("after", (1, 6, 6), 1)))
    result = assert_runs_equal(hwgate.compile(network, config),
                               random_images(np.random.default_rng(4), network, 2),
                               MemoryTiming(read_latency=2, beat_interval=16))
    assert not result.layers[0].activations.decision.any()


@pytest.mark.parametrize("places", [
    (range(7), [0, 20, 40, 60, 70, 80, 99]), ([3], [*range(0, 99, 9), 99], [5, 6]),
    (range(6), range(93, 100)), (range(93, 100), range(93, 100)), (range(94, 100), [99])])
def test_a_pass_waits_for_images_to_count(places):
    """The only job of a lane follows its gate. The last image opens one gate beyond the limit late,
    and with it all its pixels become tasks; others open as many as the limit, or all at once."""
    config, size, edge = CONFIGS["4x36"], CONFIGS["4x36"].channels, 10 if len(places) < 3 else 8
    layer = plain_layer("tau", (2 * size, edge, edge), config.lanes, padding=1)
    weight = layer.weight.copy()
    weight[:, :size] = 0
    weight[:, 0, 1, 1] = 1
    layer = replace(layer, weight=weight, base=np.arange(2 * size)[None] < np.full((4, 1), size),
                    threshold=np.zeros(config.lanes, np.int64), limit=6)
    images = np.ones((len(places), 2 * size, edge, edge), np.int8)
    images[:, 0] = 0
    for image, opened in zip(images, places, strict=True):
        image[0].flat[[place for place in opened if place < edge**2]] = 1
    wanted = (images[:, 0].sum(axis=(1, 2)) > 6)[:, None, None] & (images[:, 0] == 1)
    program = hwgate.compile(QuantizedNetwork(config, (layer,)), images_per_tile=len(places))
    for timing in (MemoryTiming(read_latency=2), MemoryTiming()):
        result = assert_runs_equal(program, images, timing)
        assert (result.layers[0].activations.decision == wanted[:, None]).all()
        conditional = result.layers[0].bytes["conditional"]
        assert (conditional > 0) == wanted.any()


@pytest.mark.slow  # for its large accelerator
def test_more_requests_than_the_reader_holds():
    """Bands ask for one beat of each of their planes; a slow memory leaves many of them open."""
    config = CONFIGS["8x18"]
    shape = (9 * 16 * config.channels, 2, 4)
    added = plain_layer("added", shape, 64, 1)
    bands = plain_layer("bands", shape, 64, 1, source=IMAGE, residual=0,
                        mult_residual=np.full(64, 1 << RESIDUAL_SHIFT))
    network = QuantizedNetwork(config, (added, bands))
    program = hwgate.compile(network, config)
    images = random_images(np.random.default_rng(5), network, 3)
    fields = program.bind(images).steps[1].descriptor
    assert {fields[f"{name}_run_beats{which}"] for name in ("in", "res")
            for which in ("", "_last")} == {1}
    assert TILE_QUEUE + fields["res_runs"] > OUTSTANDING * (3 + 2 * config.lanes)
    assert_runs_equal(program, images, MemoryTiming(read_latency=1023, beat_interval=3))


@pytest.mark.parametrize("timing", [
    MemoryTiming(read_latency=2, write_latency=2), MemoryTiming(),
    MemoryTiming(read_latency=9, write_latency=5, beat_interval=3)],
    ids=["fast", "usual", "narrow"])
def test_both_memory_models_take_the_same_cycles(timing):
    """The one on cocotbext-axi's channels and the one in C++, with the same bits and counters."""
    config, starts = CONFIGS["4x36zeros"], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        network = random_network(rng, config, layers=3, gated=True, density="mixed",
                                 limits=Limits(size=7, channels=12), features=Features.every())
        binding = hwgate.compile(network, config).bind(random_images(rng, network, 3))
        starts.append(Start(program_address=binding.program_address, memory=binding.memory,
                            deadline=100_000))
    size = max(start.memory.size for start in starts)
    pairs = zip(run_starts_with_timing(config, starts, timing),
                engine.run_engine(config, starts, timing=timing, memory_bytes=size), strict=True)
    for other, ours in pairs:
        assert other.status == ours.status
        assert other.counters == ours.counters and ours.counters["cycles"] > 300
        assert np.array_equal(other.memory, ours.memory)


def test_public_run_under_back_pressure():
    config = CONFIGS["4x36zeros"]
    network = random_network(np.random.default_rng(6), config, layers=1,
                             limits=Limits(size=5, channels=8))
    images = random_images(np.random.default_rng(6), network, 1)
    program = hwgate.compile(network, config)
    memory = run_with_backpressure(program, images, seed=1)
    found = program.bind(images).read_output(memory, 0)
    assert np.array_equal(found, network.run(images)[0].output)


def test_polling_without_interrupt():
    config = CONFIGS["4x36zeros"]
    run_bench(build_model(generated_verilog(config), TOPLEVEL), "bench_engine", search=[HERE])


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
    """In this process, in one of another hash seed, and in the one that filled the cache."""
    config = CONFIGS["1x18"]
    program = ("from hwgate.machine.config import preset\nfrom hwgate.rtl.verilog import verilog\n"
               "print(verilog(preset('tiny')), end='')")
    done = subprocess.run([sys.executable, "-c", program], text=True, check=True,
                          capture_output=True, env={**os.environ, "PYTHONHASHSEED": "0"})
    assert done.stdout == verilog(config) == generated_verilog(config)


def test_verilog_is_short():
    config = CONFIGS["4x36"]
    assert config.multipliers == 144
    text = generated_verilog(config)
    assert len(lines_without_memory(text)) < 30_000
    assert set(re.findall(r"^module (\w+)", text, re.MULTILINE)) >= {TOPLEVEL, "hwgate_lane"}


@pytest.mark.parametrize("config", rest_slow(
    {"small": SMALL} | {name: CONFIGS[name] for name in _ORDER}, quick=len(_ORDER) - 1))
def test_verilog_passes_lint(config, tmp_path):
    design = tmp_path / f"{TOPLEVEL}.v"
    design.write_text(generated_verilog(config))
    waivers = HERE.parents[1] / "sim" / "lint.vlt"
    done = subprocess.run(
        [verilator_root() / "bin" / "verilator_bin", "--lint-only", "-Wall", "--top-module",
         TOPLEVEL, waivers, design], text=True, check=False, capture_output=True,
        env={**os.environ, "VERILATOR_ROOT": str(verilator_root())})
    assert (done.returncode, done.stderr) == (0, "")
