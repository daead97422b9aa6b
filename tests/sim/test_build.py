"""Cache of compiled models, missing tools and failing builds."""

import logging
import os
import subprocess
import sys
import threading
import time
from importlib.metadata import version

import pytest

from hwgate.errors import ToolError
from hwgate.machine.config import AcceleratorConfig
from hwgate.sim import build, toolchain
from hwgate.sim.build import build_model, cache_folder, generated_verilog

COUNTER = """
module top #(parameter STEP = 1) (input clk, output reg [7:0] q);
  always @(posedge clk) q <= q + STEP;
endmodule
"""


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """A cache without models, in a folder with spaces; it shares the compiled run-time library."""
    build_model(COUNTER, "top")
    runtime, folder = cache_folder() / "runtime", tmp_path / "with a space"
    folder.mkdir()
    (folder / "runtime").symlink_to(runtime)  # only to save the time of compiling it
    monkeypatch.setenv("HWGATE_CACHE", str(folder))


def test_second_build_is_a_cache_hit(empty_cache, caplog):
    with caplog.at_level(logging.INFO, logger="hwgate"):
        first = build_model(COUNTER, "top")
        assert "Compiling the simulator of top" in caplog.text
        caplog.clear()
        begin = time.perf_counter()
        assert build_model(COUNTER, "top") == first and not caplog.text
    assert time.perf_counter() - begin < 1
    assert first.name == "top" and os.access(first, os.X_OK)
    assert first.is_relative_to(cache_folder())
    assert first != build_model(COUNTER, "top", parameters={"STEP": 2})


def test_builders_wait_for_each_other(empty_cache, caplog):
    models = []
    with caplog.at_level(logging.INFO, logger="hwgate"):
        threads = [threading.Thread(target=lambda: models.append(build_model(COUNTER, "top")))
                   for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(models) == 3 and len(set(models)) == 1
    assert caplog.text.count("Compiling") == 1


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HWGATE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("HWGATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hwgate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hwgate"


def test_cache_folder_must_be_writable(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HWGATE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ToolError, match=r"^The cache folder \S+/file/cache must be writable "
                                        r"\(Not a directory\); set HWGATE_CACHE to another one$"):
        build_model(COUNTER, "top")


def test_verilog_is_generated_once(monkeypatch, tmp_path):
    import hwgate.rtl.verilog

    calls = []
    monkeypatch.setattr(hwgate.rtl.verilog, "verilog", lambda c: calls.append(c) or f"// {c}\n")
    monkeypatch.setenv("HWGATE_CACHE", str(tmp_path))
    one, other = AcceleratorConfig(), AcceleratorConfig(lanes=2)
    for config in (one, other, one, other):
        assert generated_verilog(config) == f"// {config}\n"
    assert calls == [one, other]


def test_bad_verilog_shows_the_log():
    with pytest.raises(ToolError, match=r"(?s)^Verilator failed on the simulation with exit "
                                        r"status 1:\n.*syntax error"):
        build_model("module top(; endmodule", "top")


@pytest.mark.parametrize("variable,folder,sentence", [
    ("PATH", "", "A C++ compiler is missing; install g++ (Debian, Ubuntu: apt install g++)"),
    ("PATH", "c++", "GNU make is missing; install make (Debian, Ubuntu: apt install make)"),
    ("CXX", "no-such-c++",
     "The C++ compiler $CXX=no-such-c++ is missing; install it or unset CXX")])
def test_missing_tools_are_one_sentence(empty_cache, monkeypatch, tmp_path, variable, folder,
                                        sentence):
    real = toolchain.compiler()
    monkeypatch.delenv("CXX", raising=False)
    if variable == "PATH":
        if folder:
            (tmp_path / folder).symlink_to(real)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv(variable, folder)
    with pytest.raises(ToolError) as caught:
        build_model(COUNTER, "top")
    assert str(caught.value) == sentence
    missing = [tool.name for tool in toolchain.tools() if tool.required and tool.version is None]
    assert missing == {"": ["C++ compiler", "make"], "c++": ["make"]}.get(folder, ["C++ compiler"])


def test_waveforms_name_the_missing_header(monkeypatch):
    monkeypatch.setattr(toolchain, "_has_header", lambda header: header != "lz4.h")
    with pytest.raises(ToolError, match=r"^Waveforms need the header lz4.h; install liblz4-dev "):
        build_model(COUNTER, "top", waves=True)


def test_tools_are_listed_with_versions():
    found = {tool.name: tool for tool in toolchain.tools()}
    assert found["verilator"].version == version("verilator")
    assert found["cocotb"].version == version("cocotb")
    assert all(tool.version for tool in found.values() if tool.required)
    assert all(tool.hint for name, tool in found.items() if name != "python")


def test_environment_stays_as_it_was(empty_cache):
    before = dict(os.environ)
    build_model(COUNTER, "top")
    assert dict(os.environ) == before


def test_simulation_needs_no_torch():
    code = ("import sys, hwgate.sim.simulate, hwgate.sim.axi_bench, hwgate.sim.block; "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bench_error_is_an_assertion():
    assert issubclass(build.BenchError, AssertionError)
