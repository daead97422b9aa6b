"""Whole runs of a recipe: what a folder holds, kills, and the command line around them."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import typer

from hwgate.cli.training import register
from hwgate.data.datasets import load_dataset
from hwgate.errors import UserError
from hwgate.evaluation.scoring import score_network
from hwgate.files.networks import load_network
from hwgate.files.tensors import read_safetensors
from hwgate.train.recipe import load_recipe
from hwgate.train.runs import FILES, run_recipe
from hwgate.train.trained import load_model

torch.set_num_threads(1)  # tests run in parallel

QUICK = {"optimizer.epochs": 2, "data.images": 300, "data.validation": 50, "seed": 4,
         "quantize.epochs": 1, "quantize.calibration": 64}


def recipe(**changes):
    return load_recipe("digits").changed(
        QUICK | {name.replace("__", "."): value for name, value in changes.items()})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    heard = []
    return folder, run_recipe(recipe(), folder, stage=heard.append), heard


def test_a_folder_says_how_its_network_was_made(finished):
    folder, run, heard = finished
    assert {path.name for path in folder.iterdir()} == set(FILES.values())
    assert heard == ["load digits", "train", "fine-tune the integers",
                     "count what the integers get right"]
    assert load_recipe(folder / "recipe.toml") == recipe() == load_model(
        folder / "model.safetensors")[1]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [(line["number"], line["epochs"]) for line in lines] == [(1, 2), (2, 2), (1, 1)]
    assert lines[0]["validation"]["images"] == 50
    results = json.loads((folder / "results.json").read_text())
    assert set(results["versions"]) == {"hwgate", "python", "torch", "numpy"}
    assert results["recipe"]["seed"] == 4 and results["seconds"] > 0
    assert set(results["scores"]) == {"validation", "test", "integers", "integers_validation"}
    assert results["fidelity"] is None  # of the fine-tuned network
    assert results["notes"] == list(run.notes) == [
        "Trained against folded: 256 images: same class 100.00%, equal logits 100.00%, at most 0 "
        "steps apart, equal decisions 100.0000%."]


def test_the_network_takes_pixels(finished):
    folder, run, _ = finished
    network = load_network(folder / "network.npz")
    data = load_dataset("digits", seed=4, validation=50)
    found, held = (score_network(network, data.unit(split.images).numpy(), split.labels.numpy())
                   for split in (data.test, data.validation))
    assert found == run.scores["integers"] and held == run.scores["integers_validation"]
    assert held.images == 50
    float_test = run.scores["test"]
    assert found.images == 450 and found.accuracy > float_test.accuracy - 0.05
    assert found.reduction == pytest.approx(float_test.reduction, rel=0.15)
    assert 0 < found.loss < 3 and 0 < found.density < 1


def test_a_finished_folder_is_not_overwritten(finished):
    folder, run, _ = finished
    with pytest.raises(UserError, match="^Folder .* holds a training; --resume continues it, and "
                       "another --output keeps it$"):
        run_recipe(recipe(), folder)
    before = (folder / "network.npz").read_bytes()
    again = run_recipe(recipe(), folder, resume=True)
    assert (again.history, again.scores) == (run.history, run.scores)
    assert (folder / "network.npz").read_bytes() == before


def test_tau_reaches_the_integers(tmp_path):
    """The budget of bytes knows it; the integers close the same channels."""
    run = run_recipe(recipe(gate__tau=0.2, optimizer__epochs=1, quantize__epochs=1,
                            hardware__budget="bytes", hardware__share=0.6), tmp_path)
    limits = {layer.limit for layer in run.network.layers if layer.gated}
    assert limits == {int(0.2 * 64), int(0.2 * 16)} and "equal decisions 100.0000%" in run.notes[0]
    assert 0 < run.scores["integers"].density < 1


@pytest.mark.parametrize("granularity,grouping,share", [("pixel", False, 64), ("slice", True, 4)])
def test_shared_gates_reach_the_integers(tmp_path, granularity, grouping, share):
    run = run_recipe(recipe(gate__granularity=granularity, gate__slice=4, gate__tau=0.05,
                            gate__grouping=grouping, optimizer__epochs=1, quantize__epochs=1,
                            hardware__budget="cycles", hardware__share=0.6), tmp_path)
    shared = [layer for layer in run.network.layers if layer.gated]
    assert len(shared) == 4 and "equal decisions 100.0000%" in run.notes[0]
    for layer in shared:
        size = len(layer.gate) if granularity == "pixel" else share
        assert np.bincount(layer.gate).tolist() == [size] * len(layer.score)
    layer = load_model(tmp_path / "model.safetensors")[0].get_submodule("gated4.conv")
    assert (layer.share, layer.tau, layer.delta.shape) == (share, 0.05, (64 // share,))


def test_fewer_bits_and_no_gates(tmp_path):
    run = run_recipe(recipe(gate__groups=0, optimizer__epochs=1, quantize__weight=4,
                            quantize__activation=4, quantize__epochs=0), tmp_path)
    assert run.network.config.formats.weight == 4
    assert np.abs(run.network.layers[1].weight).max() == 7
    assert run.scores["integers"].reduction == 1 == run.scores["integers"].density


#: The command line with the two commands, as a program.
PROGRAM = """
import sys
import typer
from hwgate.cli.training import register
app = typer.Typer(pretty_exceptions_enable=False)
register(app)
app(sys.argv[1:])
"""


def start(folder, *more):
    changes = [f"--set={name}={value}" for name, value in (QUICK | {
        "data.images": 200, "optimizer.epochs": 3, "quantize.epochs": 0}).items()]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, "train", "digits", "-o", str(folder),
                             *changes, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_a_killed_program_ends_with_the_same_network(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(killed)
    deadline = time.monotonic() + 200
    while not (killed / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len((killed / "log.jsonl").read_text().splitlines()) < 3
    finish(start(killed, "--resume"))
    assert "integers, test" in finish(start(whole))
    first, second = (read_safetensors(folder / "model.safetensors")[0]
                     for folder in (whole, killed))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    for name in ("log.jsonl", "network.npz", "recipe.toml"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


@pytest.fixture
def invoke(capsys):
    """Run one of the two commands in this process; (exit status, stdout, stderr)."""
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            app([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


def test_options_change_the_recipe(invoke):
    status, out, _ = invoke("train", "resnet20", "--show", "--groups", 8, "--target", 1.5, "--bits",
                            4, "--granularity", "slice", "--slice", 2, "--no-grouping",
                            "--budget", "bytes", "--set", "loss.teacher=runs/a b",
                            "--set", "optimizer.schedule=\"cosine\"")
    assert status == 0
    for line in ("groups = 8", "target = 1.5", "activation = 4", "weight = 4", "slice = 2",
                 'granularity = "slice"', 'budget = "bytes"', 'teacher = "runs/a b"',
                 'schedule = "cosine"', "grouping = false", 'name = "resnet20"'):
        assert line in out.splitlines()


def test_help_teaches(invoke):
    _, out, _ = invoke("train", "--help")
    flat = " ".join(out.split())
    assert "compares, for each output of a convolution" in flat and "Examples" in flat
    assert "an ungated teacher" in flat


def test_train_writes_json_and_tells_what_is_wrong(invoke, tmp_path):
    changes = [f"--set={name}={value}" for name, value in (QUICK | {"quantize.epochs": 0}).items()
               if name != "optimizer.epochs"]
    status, out, err = invoke("train", "digits", "-o", tmp_path, *changes, "--epochs", 1,
                              "--json", "-")
    content = json.loads(out)
    assert status == 0 and content["scores"]["integers"]["images"] == 450
    kept = load_network(tmp_path / "network.npz").fidelity
    assert kept is not None and content["fidelity"] == kept.to_dict()
    assert "epoch 1/1: loss" in err
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    for arguments, sentence in (
            (["digits", "--set", "seed"], "A change of a recipe must be NAME=VALUE, not 'seed'"),
            (["digits", "--groups", "-1"], "Gate group count must be at least 2, not -1")):
        with pytest.raises(UserError) as error:
            app(["train", *arguments, "-o", str(tmp_path / "other")])
        assert str(error.value) == sentence
