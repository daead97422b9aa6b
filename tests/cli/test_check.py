"""`hwgate check`, and finding a user's model."""

import json
import sys

import pytest
import torch
from torch import nn

import hwgate
from hwgate.cli import main
from hwgate.cli.user_model import load_model, parse_shape
from hwgate.errors import UserError
from hwgate.files.tensors import write_safetensors

SOURCE = """
from torch import nn

class Network(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU())

class Broken(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 9), nn.SiLU(), nn.Conv2d(8, 8, 3, stride=3))

def wide():
    return nn.Conv2d(160, 8, 3, padding=1)

class Holder:
    ready = Network()

def needs(width):
    return nn.Conv2d(3, width, 3)

number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a user's modules, which is where the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "users_own").mkdir()
    (tmp_path / "users_own" / "networks.py").write_text(SOURCE)
    (tmp_path / "wrong.py").write_text("import no_such_module")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("users_own", "user_"))]:
        del sys.modules[name]


@pytest.fixture
def invoke(capsys):
    """Run the command line in this process; (exit status, stdout, stderr)."""
    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return stopped.value.code or 0, *capsys.readouterr()

    return run


def test_a_model_that_runs(folder, invoke):
    status, out, err = invoke("check", "users_own.networks:Network", "--input", "3x8x8",
                              "--lanes", "2")
    config = hwgate.preset("digits", lanes=2)
    assert (status, err) == (0, "")
    assert out == (f"users_own.networks:Network on {config.describe()}\n"
                   "Nothing keeps the network from running.\n"
                   "The smallest preset that runs it: tiny\n")


def test_obstacles_are_a_numbered_list_and_end_with_status_2(folder, invoke):
    status, out, _ = invoke("check", "mine.py:Broken", "--input", "3x20x20")
    lines = out.splitlines()
    assert status == 2
    assert lines[1] == "3 obstacles keep the network from running:"
    assert [line[:13] for line in lines[2:]] == ["1. Layer '0' ", "2. Layer '1' ", "3. Layer '2' "]


def test_the_printed_line_is_a_configuration_that_runs(folder, invoke):
    status, out, _ = invoke("check", "mine.py:wide", "--input", "160x30x30")
    assert status == 2
    line, = (line for line in out.splitlines() if "hwgate.preset(" in line)
    config = eval(line[line.index("hwgate.preset("):], {"hwgate": hwgate})
    assert hwgate.check(nn.Conv2d(160, 8, 3, padding=1), (160, 30, 30), config).fits
    assert "The smallest preset that runs it: cifar\n" in out
    assert invoke("check", "mine.py:wide", "--input", "160x30x30", "--preset", "cifar")[0] == 0


def test_json(folder, invoke):
    path = folder / "check.json"
    status, out, _ = invoke("check", "mine.py:wide", "--input", "160x30x30", "--json", path)
    shown = json.loads(path.read_text())
    found = hwgate.check(nn.Conv2d(160, 8, 3, padding=1), (160, 30, 30), hwgate.preset("digits"))
    assert status == 2 and "1 obstacle keeps" in out
    assert shown == found.to_dict()


@pytest.mark.parametrize("arguments, sentence", [
    (("mine.py", "--input", "3x8x8"),
     "A model is named package.module:Name or file.py:Name, not 'mine.py'"),
    (("mine.py:Other", "--input", "3x8x8"), "There is no 'Other' in mine.py; there are Broken, "
     "Holder, Network, needs, nn, number, wide"),
    (("mine.py:number", "--input", "3x8x8"),
     "mine.py:number must be or make a torch module, not a int"),
    (("mine.py:needs", "--input", "3x8x8"), "mine.py:needs cannot be called without arguments "
     "(needs() missing 1 required positional argument: 'width'); name a function that makes the "
     "model"),
    (("none.py:X", "--input", "3x8x8"), "There is no file none.py"),
    (("wrong.py:X", "--input", "3x8x8"),
     "wrong.py cannot be imported (No module named 'no_such_module')"),
    (("no_such:X", "--input", "3x8x8"), "no_such cannot be imported (No module named 'no_such')"),
    (("mine.py:Network", "--input", "3x8"),
     "The shape of an image is written CxHxW, as 3x32x32, or C of a vector, as 8, not '3x8'"),
    (("a" * 5000 + ".py:X", "--input", "3x8x8"), f"There is no file {'a' * 5000}.py"),
    (("mine.py:Network", "--input", "3x8x8", "--preset", "huge"), "There is no preset 'huge'; "
     "there are cifar, digits, resident, small, tiny, ulx3s, wide")])
def test_unusable_input_is_one_sentence(folder, invoke, arguments, sentence):
    assert invoke("check", *arguments) == (2, "", sentence + "\n")


@pytest.mark.parametrize("place", ["mine.py:Network", "mine.py:Holder.ready",
                                   "users_own.networks:Network"])
def test_models_are_found(folder, place):
    assert type(load_model(place)).__name__ == "Network"


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "nested.pth"])
def test_weights_are_loaded(folder, name):
    state = {"0.weight": torch.full((8, 3, 3, 3), 0.5), "0.bias": torch.arange(8.0)}
    if name.endswith(".safetensors"):
        write_safetensors(folder / name, state)
    else:
        torch.save({"state_dict": state, "epoch": 3} if name == "nested.pth" else state,
                   folder / name)
    model = load_model("mine.py:Network", folder / name)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_other_weights_are_refused(folder):
    write_safetensors("other.safetensors", {"0.weight": torch.zeros(8, 3, 3, 3)})
    (folder / "text.pt").write_text("text")
    with pytest.raises(UserError, match='^Weights other.safetensors are not those of Network: .*'
                                        '"0.bias"'):
        load_model("mine.py:Network", folder.relative_to(folder) / "other.safetensors")
    with pytest.raises(UserError, match="^Weights text.pt cannot be read "):
        load_model("mine.py:Network", folder.relative_to(folder) / "text.pt")


def test_weights_that_would_run_code_are_refused(folder):
    torch.save(nn.Conv2d(3, 8, 3), folder / "whole.pt")
    with pytest.raises(UserError, match="cannot be read"):
        load_model("mine.py:Network", folder / "whole.pt")


@pytest.mark.parametrize("text", ["", "0", "3x8", "3x8x8x8", "3x08x8", "3x-8x8", "0x8x8",
                                  "axbxc", "9" * 5000])
def test_shapes_are_checked(text):
    with pytest.raises(UserError, match="written CxHxW"):
        parse_shape(text)
    assert parse_shape("3x8x16") == (3, 8, 16) and parse_shape("8") == (8,)


def test_a_model_of_vectors(folder, invoke):
    (folder / "vectors.py").write_text("""
from __future__ import annotations
from dataclasses import dataclass
from torch import nn

@dataclass
class Options:
    width: int = 8

def make():
    return nn.Linear(Options().width, 4)
""")
    status, out, err = invoke("check", "vectors.py:make", "--input", "8")
    assert (status, err) == (0, "") and "Nothing keeps the network from running." in out


def test_the_log_of_an_export_is_not_shown(folder, capfd):
    (folder / "flow.py").write_text("""
from torch import nn

class Flow(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
""")
    with pytest.raises(SystemExit):
        main(["check", "flow.py:Flow", "--input", "3x8x8"])
    out, err = capfd.readouterr()
    assert "1. Model Flow cannot be exported" in out and err == ""
