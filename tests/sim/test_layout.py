"""Waveforms on request: the trace opens, and its layouts name only signals that it has."""

import re
from pathlib import Path

import numpy as np
import pytest

import hwgate
from hwgate.errors import ToolError, UserError
from hwgate.machine.config import preset
from hwgate.machine.counters import LANE_COUNTERS, STREAMS
from hwgate.sim import toolchain
from hwgate.sim.build import generated_verilog
from hwgate.sim.layout import groups, gtkwave, surfer
from support.random_layers import Limits, random_images, random_network

CONFIG = preset("tiny")


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A short gated run with a VCD trace: its result, its file and the same run without."""
    rng = np.random.default_rng(5)
    network = random_network(rng, CONFIG, layers=1, gated=True, density="mixed",
                             limits=Limits(size=5, channels=6))
    program, images = hwgate.compile(network), random_images(rng, network, 1)
    path = tmp_path_factory.mktemp("waves") / "new" / "run.vcd"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWGATE_QUICK", "-O0")  # it runs shortly, and is much to compile
        found = hwgate.simulate(program, images, waves=path)
    return found, path, hwgate.simulate(program, images)


def declared(path):
    """Width of every signal of a VCD file, by path, as a viewer sees it (IEEE 1800, 21.7.2)."""
    scopes, found = [], {}
    with path.open() as file:
        for line in file:
            match line.split():
                case ["$scope", _, name, "$end"]:
                    scopes.append(name)
                case ["$upscope", "$end"]:
                    scopes.pop()
                case ["$var", _, width, _, name, *_]:
                    found[".".join([*scopes, name])] = int(width)
                case ["$enddefinitions", "$end"]:
                    return found
    raise AssertionError("the trace has no end of its definitions")


def test_tracing_changes_nothing(traced):
    found, _, plain = traced
    assert hwgate.compare(found, plain).equal


def test_layouts_name_what_the_trace_has(traced):
    _, path, _ = traced
    known = declared(path)
    named = re.findall(r"^(harness\.\S+?)(?:\[(\d+):0\])?$", path.with_suffix(".gtkw").read_text(),
                       re.MULTILINE)
    assert len(named) > 6 + len(LANE_COUNTERS) + len(STREAMS)
    for name, high in named:
        assert known[name] == int(high or 0) + 1, name
    command = path.with_suffix(".sucl").read_text().splitlines()
    assert [line.split()[1] for line in command if line.startswith("variable_add")] \
        == [name for name, _ in named]
    assert all(re.fullmatch(r"(variable_add|divider_add) \S+|zoom_fit", line) for line in command)
    assert '[dumpfile] "run.vcd"' in path.with_suffix(".gtkw").read_text()


@pytest.mark.parametrize("name", ["tiny", "digits"])
def test_decisions_task_lists_and_counters_are_shown(name):
    config = preset(name)
    shown = {group.name: [wave.path.rsplit(".", 1)[1] for wave in group.waves]
             for group in groups(config, generated_verilog(config))}
    for lane in range(config.lanes):
        assert "decision" in shown[f"lane {lane}: outputs and their decisions"]
        assert {"threshold", "open"} <= set(shown[f"lane {lane}: gate"])
        assert {"append", "count", "next"} <= set(shown[f"lane {lane}: tasks"])
    assert len(shown["counters"]) == 1 + len(STREAMS) + config.lanes * len(LANE_COUNTERS)


def test_an_unknown_design_still_has_what_the_harness_names():
    shown = groups(CONFIG, "module other (clk);\n  input clk;\nendmodule\n")
    assert [group.name for group in shown] == ["run", "lane 0: outputs and their decisions"]
    assert gtkwave(shown, Path("a.fst")).count("harness.") == 13
    assert surfer(shown).count("variable_add") == 13


def test_waves_must_be_writable_and_of_a_known_format(traced, tmp_path, monkeypatch):
    network = random_network(np.random.default_rng(0), CONFIG, layers=1)
    program, images = hwgate.compile(network), random_images(np.random.default_rng(1), network, 1)
    with pytest.raises(UserError, match=r"^Waveform file \S+run.txt must end in .fst or .vcd$"):
        hwgate.simulate(program, images, waves=tmp_path / "run.txt")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^Waveform file \S+ cannot be written: "):
        hwgate.simulate(program, images, waves=tmp_path / "file" / "run.vcd")
    monkeypatch.setattr(toolchain, "_has_header", lambda header: False)
    with pytest.raises(ToolError, match=r"^Waveforms need the header lz4.h; .* or write \.vcd$"):
        hwgate.simulate(program, images, waves=tmp_path / "run.fst")
