"""The command line: what it prints and writes, and how it fails."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import hwgate
from hwgate.cli import main
from hwgate.files.networks import load_network, save_network
from hwgate.machine.config import preset
from hwgate.machine.driver import EngineError
from hwgate.show.report import Pictures
from hwgate.train.demo import Demo
from hwgate.train.training import Epoch
from support import fakes
from support.residency_cases import PLAIN, SMALL, banded_network

#: Of :data:`fakes.FIDELITY`, and of a network that has none.
MEASURED = ("Fidelity: 93.8% of 32 calibration images answered as by the float model; signal to "
            "noise 3.0 dB at the end, lowest of a layer 7.8 dB (conv1); below the limit, and "
            "ignored.")
UNKNOWN = "Fidelity: not measured; this network was not compared with a float model."


@pytest.fixture
def invoke(capsys):
    """Run the command line in this process; (exit status, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


@pytest.fixture
def network_file(tmp_path):
    path = tmp_path / "network.npz"
    save_network(path, fakes.network())
    return path


@pytest.fixture
def digits_file(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).normal(size=(3, 1, 8, 8)))
    return path


@pytest.fixture
def faked(monkeypatch):
    """Compiler, simulator and cost model that only make up numbers; returns the calls."""
    calls = []

    def compile(network, config, dense=False):
        calls.append(config)
        return SimpleNamespace(network=network, config=config, dense=dense)

    def runner(source):
        return lambda program, images, timing: fakes.run(
            program.network, len(images), source=source, dense=program.dense)

    monkeypatch.setitem(vars(hwgate), "compile", compile)
    monkeypatch.setitem(vars(hwgate), "simulate", runner("rtl"))
    monkeypatch.setitem(vars(hwgate), "estimate", runner("model"))
    return calls


def _demo(monkeypatch, **edits):
    evaluation = replace(fakes.evaluation(**edits), fidelity=fakes.FIDELITY)
    result = Demo(
        evaluation=evaluation, accuracy={"float": 1.0, "quantized": 0.75, "rtl": 0.75},
        test_accuracy={"float": 0.98, "quantized": 0.97}, test_images=360, train_images=1437,
        network=fakes.network(), pictures=Pictures(np.zeros((4, 1, 8, 8)), np.arange(4)))
    seen = {}

    def run_demo(config, *, step, progress, **options):
        seen.update(options, config=config)
        step("train the gated network")
        progress(Epoch(1, 2, loss=0.5, accuracy=0.9, density=0.3))
        return result

    monkeypatch.setattr("hwgate.train.demo.run_demo", run_demo)
    return seen


def test_demo_prints_tables_and_writes_files(invoke, monkeypatch, tmp_path):
    seen = _demo(monkeypatch)
    report, figures, saved = (tmp_path / "out" / name for name in ("r.html", "d.json", "n.npz"))
    status, out, _ = invoke("demo", "--images", 4, "--seed", 3, "--report", report,
                            "--json", figures, "--save", saved, "--lanes", 2)
    assert status == 0
    assert "Equal: hardware, golden model and cost model agree" in out
    assert "Gating efficiency" in out
    assert MEASURED in out
    assert report.read_text().startswith("<!DOCTYPE")
    content = json.loads(figures.read_text())
    assert content["accuracy"] == {"float": 1.0, "quantized": 0.75, "rtl": 0.75}
    assert content["totals"]["mismatches"] == 0
    assert content["fidelity"] == fakes.FIDELITY.to_dict()
    assert len(load_network(saved).layers) == 4
    assert (seen["images"], seen["seed"], seen["config"]) == (4, 3, preset("digits", lanes=2))


def test_demo_ends_with_1_and_the_first_difference(invoke, monkeypatch, tmp_path):
    _demo(monkeypatch, cycles=7)
    status, out, _ = invoke("demo", "--report", tmp_path / "r.html")
    assert status == 1
    assert "layer conv1: the cycles are 7 in the RTL" in out
    status, out, err = invoke("demo", "--report", tmp_path / "r.html", "--json", "-")
    assert status == 1
    assert json.loads(out)["equal"] is False
    assert "layer conv1: the cycles are 7 in the RTL" in err


def test_simulate_shows_cycles_and_bytes(invoke, faked, network_file, digits_file):
    status, out, _ = invoke("simulate", network_file, "--images", digits_file)
    assert status == 0
    assert "turnaround" in out
    assert "…" not in out
    status, out, _ = invoke("simulate", network_file, "--images", digits_file, "--json", "-",
                            "--lanes", "2", "--bus", 64)
    content = json.loads(out)
    assert (content["images"], content["source"], len(content["layers"])) == (3, "rtl", 4)
    assert (faked[-1].lanes, faked[-1].bus.data_bits) == (2, 64)


def test_compare_reports_equality(invoke, faked, network_file, digits_file, tmp_path):
    figures = tmp_path / "compare.json"
    status, out, _ = invoke("compare", network_file, "--images", digits_file, "--json", figures,
                            "--dense")
    assert status == 0
    assert "Equal: every output" in out
    content = json.loads(figures.read_text())
    assert (content["equal"], content["dense"], content["first"]) == (True, True, None)
    assert content["rtl"]["cycles"] == content["model"]["cycles"]


@pytest.mark.parametrize("command", ["simulate", "compare"])
@pytest.mark.parametrize("fidelity, line", [(fakes.FIDELITY, MEASURED), (None, UNKNOWN)])
def test_fidelity_stands_beside_a_run(invoke, faked, network_file, digits_file, command, fidelity,
                                      line):
    save_network(network_file, replace(fakes.network(), fidelity=fidelity))
    status, out, _ = invoke(command, network_file, "--images", digits_file)
    assert status == 0 and line in out
    out = invoke(command, network_file, "--images", digits_file, "--json", "-")[1]
    assert json.loads(out)["fidelity"] == (fidelity and fidelity.to_dict())


def test_an_engine_that_stops_is_one_sentence_and_1(invoke, faked, network_file, digits_file,
                                                    monkeypatch):
    def stop(program, images, timing):
        raise EngineError("The engine was not done after 9 cycles")

    monkeypatch.setitem(vars(hwgate), "simulate", stop)
    status, out, err = invoke("simulate", network_file, "--images", digits_file)
    assert (status, out) == (1, "")
    assert err.strip().splitlines()[-1] == "The engine was not done after 9 cycles"


def test_compare_ends_with_1_on_a_difference(invoke, faked, network_file, digits_file,
                                             monkeypatch):
    monkeypatch.setitem(vars(hwgate), "estimate", lambda program, images, timing: fakes.edit(
        fakes.run(program.network, len(images), source="model"), 0, cycles=5))
    status, out, _ = invoke("compare", network_file, "--images", digits_file)
    assert status == 1
    assert "layer stem: the cycles are" in out


def test_compile_shows_the_program_and_explains_it(invoke, tmp_path):
    path = tmp_path / "bands.npz"
    save_network(path, banded_network(SMALL))
    status, out, _ = invoke("compile", path, "--images", 3, "--map-kib", 0)
    assert status == 0
    assert "3 images on 2 lanes" in out and "off chip" in out and "on chip" not in out
    content = json.loads(invoke("compile", path, "--json", "-", "--map-kib", 16)[1])
    assert [layer["on_chip"] for layer in content["layers"]] == [True] * 4 + [False]
    assert {layer["tiles"] for layer in content["layers"]} == {4}

    status, out, _ = invoke("compile", path, "--explain", "--density", 0.25)
    assert status == 0
    for words in ("4 bands of 4 rows", "on chip", "25% of the gates", "The program:"):
        assert words in out
    assert max(map(len, out.splitlines())) <= 100
    slow = ("compile", path, "--explain", "--beat-interval", 8, "--shared-bus")
    assert "8 cycles per beat, shared by reads and writes." in invoke(*slow)[1]
    assert json.loads(invoke(*slow, "--json", "-")[1])["timing"]["shared"]
    content = json.loads(invoke("compile", path, "--explain", "--json", "-")[1])
    assert {"layer", "choice", "alternative", "bytes", "cycles", "exact", "chosen",
            "reason"} == set(content["alternatives"][0])
    assert (content["objective"], content["density"], content["images"]) == ("balanced", 0.25, 1)
    for options, sentence in (
            (("--images", 0), "A batch must have at least one image, not 0"),
            (("--explain", "--images", 0), "Image count must be at least 1, not 0"),
            (("--density", 2), "Density must be in 0..1, not 2.0"),
            (("--objective", "speed"),
             "There is no objective 'speed'; there are cycles, balanced, bytes")):
        assert invoke("compile", path, *options) == (2, "", sentence + "\n")


def test_compile_shows_how_closely_each_layer_follows(invoke, tmp_path):
    path, network = tmp_path / "bands.npz", banded_network(PLAIN)
    save_network(path, network)
    out = invoke("compile", path)[1]
    assert UNKNOWN in out and "Through" not in out
    assert json.loads(invoke("compile", path, "--json", "-")[1])["fidelity"] is None
    save_network(path, replace(network, fidelity=fakes.FIDELITY))
    out = invoke("compile", path)[1]
    assert MEASURED in out
    assert ["conv1", "7.8", "-3.5", "below", "10"] in [line.split() for line in out.splitlines()]
    assert max(map(len, out.replace(MEASURED, "").splitlines())) <= 100
    content = json.loads(invoke("compile", path, "--json", "-")[1])
    assert content["fidelity"] == fakes.FIDELITY.to_dict()


def test_compile_leaves_out_zero_bytes(invoke, tmp_path):
    path = tmp_path / "whole.npz"
    save_network(path, banded_network(preset("digits")))
    status, out, _ = invoke("compile", path, "--chunks", 128)
    assert status == 0 and out.count("off chip, compressed") == 4
    content = json.loads(invoke("compile", path, "--chunks", 128, "--json", "-")[1])
    assert [layer["compressed"] for layer in content["layers"]] == [True] * 4 + [False]
    out = invoke("compile", path, "--chunks", 128, "--explain")[1]
    assert "left out" in out and "every second byte of compressed maps zero" in out
    assert max(map(len, out.splitlines())) <= 100
    assert "compressed" not in invoke("compile", path, "--chunks", 0)[1]


@pytest.mark.parametrize("arguments, sentence", [
    (("compile", "good.npz", "--map-kib", "3"),
     "Bytes of on-chip map memory must be a power of two, not 3072"),
    (("compile", "good.npz", "--chunks", "48"),
     "Compressed chunk count must be a power of two, not 48"),
    (("simulate", "none.npz"),
     "Network file none.npz does not exist; `hwgate demo --save none.npz` writes one"),
    (("compare", "text.npz"), "File text.npz is no quantized network of hwgate"),
    (("compare", "arrays.npz"), "File arrays.npz is no quantized network of hwgate"),
    (("simulate", "good.npz", "--images", "none.npy"), "Image file none.npy does not exist"),
    (("simulate", "good.npz", "--images", "text.npz"),
     "File text.npz is no NumPy array; np.save writes one"),
    (("simulate", "good.npz", "--images", "arrays.npz"),
     "Image file arrays.npz must hold one array, not several"),
    (("simulate", "good.npz", "--images", "shape.npy"),
     "Images must have the shape (N, 1, 8, 8), not (2, 3, 8, 8)"),
    (("simulate", "good.npz", "--images", "empty.npy"),
     "A batch must have at least one image, not 0"),
    (("simulate", "good.npz", "--images", "kind.npy"), "Images must be float or int8, not int64"),
    (("verilog", "--lanes", "3"), "Lane count must be a power of two, not 3"),
    (("verilog", "--preset", "huge"),
     "There is no preset 'huge'; there are cifar, digits, resident, small, tiny, ulx3s, wide"),
    (("compare", "good.npz", "--images", "good.npy", "--read-latency", "1"),
     "Read latency must be in 2..1023, not 1"),
    (("simulate", "good.npz", "--images", "good.npy", "--bus", "32"),
     "Bus width must be 64 or 128 bits, not 32"),
    (("demo", "--images", "0"), "Image count must be at least 1, not 0"),
])
def test_bad_input_is_one_sentence_and_2(invoke, arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_network("good.npz", fakes.network())
    with open("text.npz", "w") as file:
        file.write("no archive")
    np.savez("arrays.npz", a=np.zeros(3))
    np.save("good.npy", np.zeros((2, 1, 8, 8)))
    np.save("shape.npy", np.zeros((2, 3, 8, 8)))
    np.save("empty.npy", np.zeros((0, 1, 8, 8)))
    np.save("kind.npy", np.zeros((2, 1, 8, 8), np.int64))
    before = sorted(path.name for path in tmp_path.iterdir())
    status, out, err = invoke(*arguments)
    assert (status, out) == (2, "")
    assert err.strip().splitlines()[-1] == sentence
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_unwritable_target_is_one_sentence(invoke, monkeypatch, tmp_path):
    monkeypatch.setitem(vars(hwgate), "verilog", lambda config: "module\n")
    (tmp_path / "file").write_text("")
    status, _, err = invoke("verilog", "-o", tmp_path / "file" / "top.v")
    assert status == 2
    assert err.startswith(f"File {tmp_path / 'file' / 'top.v'} cannot be written: ")


def test_verilog_goes_to_a_file_or_to_stdout(invoke, monkeypatch, tmp_path):
    monkeypatch.setitem(vars(hwgate), "verilog", lambda config: f"// {config.lanes} lanes\n")
    status, out, _ = invoke("verilog", "--lanes", 8)
    assert (status, out) == (0, "// 8 lanes\n")
    status, out, _ = invoke("verilog", "-o", tmp_path / "top.v", "--header", tmp_path / "regs.h")
    assert status == 0
    assert (tmp_path / "top.v").read_text() == "// 4 lanes\n"
    assert "#ifndef" in (tmp_path / "regs.h").read_text()
    assert "1 lines, 4 lanes x 36 multipliers" in out


def test_info_lists_tools_and_presets(invoke, monkeypatch):
    status, out, _ = invoke("info")
    assert status == 0
    for word in ("verilator", "cocotb", "preset cifar"):
        assert word in out
    content = json.loads(invoke("info", "--json", "-")[1])
    assert {"name", "version", "required", "install"} <= set(content["tools"][0])
    from hwgate.sim.toolchain import Tool

    monkeypatch.setattr("hwgate.sim.toolchain.tools", lambda: (
        Tool("C++ compiler", None, "apt install g++"),))
    status, out, _ = invoke("info")
    assert status == 2
    assert "missing" in out
    assert "apt install g++" in out


def test_networks_survive_a_file(tmp_path):
    network = fakes.network(preset("tiny"))
    save_network(tmp_path / "n.npz", network)
    loaded = load_network(tmp_path / "n.npz")
    assert loaded.config == network.config
    for ours, theirs in zip(network.layers, loaded.layers, strict=True):
        for name, value in vars(ours).items():
            np.testing.assert_array_equal(getattr(theirs, name), value, err_msg=name)
            assert isinstance(getattr(theirs, name), type(value))
    images = np.random.default_rng(0).normal(size=(2, 1, 8, 8))
    np.testing.assert_array_equal(loaded(images), network(images))


def test_help_loads_nothing_heavy():
    """Help appears at once: neither torch nor Amaranth nor NumPy is imported for it."""
    code = ("import sys\n"
            "from hwgate.cli.main import main\n"
            "try:\n    main(['demo', '--help'])\n"
            "except SystemExit:\n    pass\n"
            "print(sorted({'torch', 'amaranth', 'numpy', 'sklearn', 'jinja2'} & set(sys.modules)))")
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True,
                         text=True, check=True).stdout
    assert "held" not in out
    assert out.strip().splitlines()[-1] == "[]"
