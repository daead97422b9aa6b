"""Public networks: ten small ones on their way in, and how ``make networks`` counts and keeps."""

import json
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import hwgate
import networks
from hwgate.errors import CompileError
from hwgate.machine.config import preset
from hwgate.show.docs import render
from support import way_in
from support.public_networks import Definition, definitions, random_images, settle
from support.refusals import OPERATORS, OTHER, operator_of, refusals
from support.way_in import WayIn, compile_fitting, take_in
from support.way_in_tables import network_table, page_parts, refusal_table, sentences, totals

EXCITE = {"table activation", "multiplication, squeeze-and-excite"}

#: Small networks, and the operators that stop them.
SMALL = {
    "densenet_cifar/densenet40_k12_bc_cifar10": set(),
    "diaresnet_cifar/diaresnet20_cifar10": EXCITE | {
        "attention, layer norm, tokens", "values moved about"},
    "nin_cifar/nin_cifar10": {"max pooling of other windows"},
    "preresnet_cifar/preresnet20_cifar10": set(),
    "resnet_cifar/resnet20_cifar10": set(),
    "ror_cifar/ror3_56_cifar10": {"stride 3 and more"},
    "sepreresnet_cifar/sepreresnet20_cifar10": EXCITE,
    "seresnet_cifar/seresnet20_cifar10": EXCITE,
    "shakedropresnet_cifar/shakedropresnet20_cifar10": set(),
    "shakeshakeresnet_cifar/shakeshakeresnet20_2x16d_cifar10": {"values moved about"},
}


@pytest.fixture
def one_thread():
    """As each network has it in ``make networks``: the tests fill the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def taken_in(name, **options):
    pytest.importorskip("pytorchcv", reason="pytorchcv is not installed (make test installs it)")
    definition, = (found for found in definitions() if found.name == f"pytorchcv/{name}")
    return take_in(definition, preset("cifar"), **options)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name):
    """Each gets in, or is refused in sentences that name the place and the way out."""
    found = taken_in(name, rtl=0)
    assert not found.crash
    assert {operator_of(sentence).title for sentence in found.obstacles} == SMALL[name]
    for sentence in found.obstacles:
        assert re.match(r"Layer '[^']+' .+; .+", sentence)
    assert found.macs > 10_000_000
    assert found.inside == (not found.obstacles)
    if found.inside:
        assert found.worst > 20 and found.median >= found.worst
        assert found.cycles > found.macs / preset("cifar").multipliers
        assert found.bytes > 0


@pytest.mark.slow
def test_a_whole_network_in_rtl():
    found = taken_in("resnet_cifar/resnet20_cifar10")
    assert found.stage == "simulated" and found.differences == 0


def test_the_list_names_each_network_once():
    known = definitions()
    assert len({found.name for found in known}) == len(known) > 100
    assert {found.name.partition("/")[0] for found in known} == {"torchvision", "timm", "pytorchcv"}
    assert all(len(found.shape) == 3 and found.shape[1] == found.shape[2] for found in known)


def test_norms_settle_on_the_mean_of_the_passes():
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.BatchNorm1d(3)).eval()
    model[1].forward = lambda x: x
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[1].weight, 2)
    batches = [random_images((3, 8, 8), 4, seed) * (1 + seed) for seed in (0, 1)]
    settle(model, *batches)
    wanted = torch.stack([batch.var(dim=(0, 2, 3)) for batch in batches]).mean(0)
    assert torch.allclose(model[0].running_var, wanted)
    assert model[0].weight.tolist() == [1] * 3 and model[1].weight.tolist() == [2] * 3
    assert model[0].momentum == 0.3 and not model[0].training


def quantized(channels, edge, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(),
                              nn.Conv2d(channels, 8, 3, padding=1))
    return hwgate.quantize(model, random_images((3, edge, edge), 4, 0), config)


def test_buffers_grow_until_a_network_fits():
    config = preset("cifar")
    small = replace(config, buffers=replace(config.buffers, passes=8, pixels=16))
    program = compile_fitting(quantized(64, 8, small))
    assert program.config.buffers.passes == 16
    assert program.config.buffers.window_words == config.buffers.window_words
    assert hwgate.estimate(program, random_images((3, 8, 8), 1, 1).numpy()).cycles > 0


def test_no_buffer_is_large_enough(monkeypatch):
    network = quantized(4, 8, preset("cifar"))

    def refuse(network):
        raise CompileError("Layer 'a' needs much; raise buffers.passes or take a larger preset")

    monkeypatch.setattr(way_in.hwgate, "compile", refuse)
    with pytest.raises(CompileError, match=r"raise buffers.passes"):
        compile_fitting(network)


class Fixed(Definition):
    """A definition of one of these models."""

    MODELS = {
        "rounds": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ELU(), nn.Conv2d(4, 4, 5, dilation=2)),
        "spikes": nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)),
    }

    def build(self):
        if self.name not in self.MODELS:
            raise RuntimeError("no such model\nat all")
        return self.MODELS[self.name].eval()


def test_every_obstacle_is_told():
    told = []
    found = take_in(Fixed("rounds", (3, 16, 16)), preset("cifar"), told.append)
    assert [row.stage for row in told] == ["exported", "exported"] and told[-1] == found
    assert found.macs == 3 * 9 * 4 * 14 * 14 + 4 * 25 * 4 * 6 * 6
    assert [operator_of(sentence).title for sentence in found.obstacles] == [
        "table activation", "kernels beyond 7x7, dilation"]


def test_small_networks_run_in_rtl():
    spikes = Fixed("spikes", (3, 16, 16))
    found = take_in(spikes, preset("digits"))
    assert found.stage == "simulated" and found.differences == 0 and found.buffers == {}
    assert take_in(spikes, preset("digits"), rtl=found.macs - 1) == replace(
        found, stage="compiled", differences=None, seconds=pytest.approx(0, abs=60))


def test_integers_that_do_not_follow_stop_a_network(monkeypatch):
    monkeypatch.setattr("hwgate.quant.fidelity.ERROR_DB", 100)
    found = take_in(Fixed("spikes", (3, 16, 16)), preset("cifar"))
    assert found.stage == "lowered" and not found.inside and found.worst > 20
    sentence, = found.obstacles
    assert operator_of(sentence).title == "integers that do not follow"


def test_errors_that_are_no_sentence_are_crashes():
    found = take_in(Fixed("none", (3, 16, 16)), preset("cifar"))
    assert found.obstacles == ("RuntimeError: no such model",) and found.stage == "none"
    assert "in build" in found.crash and operator_of(found.obstacles[0]).title == "crash"


@pytest.mark.parametrize("sentence,title", [
    ("Layer 'features.mul_1' multiplies tensors of the shapes 8x4x4 and 8x1x1; supported are "
     "Conv2d, additions, concatenations and MaxPool2d", "multiplication, squeeze-and-excite"),
    ("Layer 'a' calls upsample_nearest2d(); supported are concatenations and MaxPool2d",
     "upsampling, transposed convolution"),
    ("Layer 'a' needs 9 output pixels, but the accelerator has 4; raise buffers.pixels",
     "size of a buffer"),
    ("Layer 'pool' is a max pooling of kernel 3, stride 2 and padding 1; use MaxPool2d(k) with "
     "equal edges and stride, without padding, dilation or ceil_mode",
     "max pooling of other windows"),
    ("Layer 'a' is a linear layer on 8x8 pixels, and supported are up to 7x7; put "
     "AdaptiveAvgPool2d(1) or poolings before it", "kernels beyond 7x7, dilation"),
    ("Stopped after 9 s; the last stage that it reached is: none", "time is up"),
    ("Layer 'a' does what nobody has heard of; leave it out", OTHER.title),
])
def test_operators_are_told_by_their_sentences(sentence, title):
    assert operator_of(sentence).title == title


POOL = "Layer 'a' is a max pooling of kernel 3, stride 2 and padding 1; use another"
STRIDE = "Layer '{}' has stride 4, and supported is 1 or 2; use stride 2"
ROWS = (
    WayIn("one/in", 41_000_000, "simulated", 30.0, 33.25, 301_123, 833_632, 0, {"passes": 256}),
    WayIn("one/pool", 7_000_000, "exported",
          obstacles=(POOL, STRIDE.format("b"), STRIDE.format("c"))),
    WayIn("two/cat", obstacles=(STRIDE.format("b"),), stage="exported"),
    WayIn("two/late", obstacles=("Stopped after 9 s; the last stage that it reached is: none",),
          stopped=9.0),
)


def test_refusals_are_counted_once_a_network():
    found = {stop.operator.title: (stop.first, stop.all, stop.alone) for stop in refusals(ROWS)}
    assert found == {"stride 3 and more": (1, 2, 1), "max pooling of other windows": (1, 1, 0),
                     "time is up": (1, 1, 1)}
    assert next(iter(found)) == "stride 3 and more"
    assert totals(ROWS) == (
        "1 of 4 networks get in; 1 of them ran in RTL, and 1 were equal to the models. Of the "
        "other 3, 2 need hardware that is planned, and 1 what is open. 1 ran out of time.")
    assert refusal_table(refusals(ROWS), len(ROWS)).row_count == 3
    assert network_table(ROWS, "cifar").row_count == 4


def test_the_page_has_every_sentence():
    parts = page_parts(ROWS, "cifar")
    text = render("".join(f"<!-- generated: {name} -->\n<!-- end -->\n" for name in parts),
                  {name: (lambda part=part: part) for name, part in parts.items()})
    assert ("| one/in | 41 | simulated | 30.0 / 33.2 | 301,123 | 834 | equal | passes=256 | - |"
            in text)
    assert f"| {POOL}<br>{STRIDE.format('b')} (and 1 more) |" in text
    assert "| stride 3 and more | hardware | 1 (25%) | 2 (50%) | 1 (25%) |" in text
    assert sentences(ROWS)[2] == f"two/cat: {STRIDE.format('b')}"
    different = replace(ROWS[0], differences=1234, buffers={})
    assert "| 1,234 DIFFER | cifar | - |" in page_parts([different], "cifar")["public"]


def test_results_are_kept_until_they_may_change(tmp_path, monkeypatch):
    known = {row.name: Definition(row.name, (3, 32, 32)) for row in ROWS}
    file = tmp_path / "results" / "networks.json"
    for row in ROWS:
        networks.Results(file).put(known[row.name], row)
    kept = networks.Results(file)
    assert [kept.get(definition, 9) for definition in known.values()] == list(ROWS)
    assert kept.get(known["two/late"], 10) is None  # more time may be enough
    assert kept.get(replace(known["one/in"], shape=(3, 64, 64)), 9) is None
    monkeypatch.setattr(networks, "_sources", lambda: b"other code")
    assert networks.Results(file).get(known["one/in"], 9) is None


def ran(monkeypatch, tmp_path, *arguments, rows=ROWS):
    """Exit status of a run in which these rows come out, and the networks that were measured."""
    asked = []

    def apart(definition, limit):
        asked.append(definition.name)
        return next(row for row in rows if row.name == definition.name)

    monkeypatch.setattr(networks, "definitions", lambda: [
        Definition(row.name, (3, 32, 32)) for row in rows])
    monkeypatch.setattr(Definition, "missing", "")
    monkeypatch.setattr(networks, "apart", apart)
    return networks.main(["--results", str(tmp_path / "results.json"), *arguments]), asked


def test_a_run_goes_on_where_it_was(monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: public -->\n<!-- end -->\n"
                    "<!-- generated: refusals -->\n<!-- end -->\nafter\n")
    assert ran(monkeypatch, tmp_path, "--only", "one/", "--page", str(page)) == (
        0, ["one/in", "one/pool"])
    assert "one/in" not in page.read_text()
    status, asked = ran(monkeypatch, tmp_path, "--limit", "9", "--page", str(page),
                        "--json", str(tmp_path / "all.json"))
    assert status == 0 and sorted(asked) == ["two/cat", "two/late"]
    assert "| two/cat | - | exported |" in page.read_text()
    found = json.loads((tmp_path / "all.json").read_text())
    assert [row["name"] for row in found["networks"]] == [row.name for row in ROWS]
    assert found["refusals"][0] == {"operator": "stride 3 and more", "needs": "hardware",
                                    "first": 1, "all": 2, "alone": 1}
    assert "1 of 4 networks get in" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"differences": 3}, {"crash": "Traceback"}])
def test_differences_and_crashes_fail_a_run(change, monkeypatch, tmp_path):
    assert ran(monkeypatch, tmp_path, rows=[replace(ROWS[0], **change)])[0] == 1


def test_unusable_input(monkeypatch, tmp_path, capsys):
    assert ran(monkeypatch, tmp_path, "--only", "three/")[0] == 2
    assert "There is no network 'three/'" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(networks, "definitions", lambda: [Definition("no_library/a", (3, 8, 8))])
    assert networks.main(["--results", str(tmp_path / "none.json")]) == 2
    assert "no_library/a needs no_library, which is not installed" in capsys.readouterr().err


def test_networks_run_in_processes_of_their_own():
    """One ends by itself, the other one when its time is up."""
    found = networks.apart(Definition("no_library/a", (3, 8, 8)), 120)
    assert found.obstacles == ("KeyError: 'no_library'",) and "in build" in found.crash
    late = networks.apart(Definition("no_library/a", (3, 8, 8)), 0)
    assert late.stopped == 0
    assert late.obstacles == ("Stopped after 0 s; the last stage that it reached is: none",)


def test_kinds_have_names_of_their_own():
    titles = [operator.title for operator in (*OPERATORS, OTHER)]
    assert len(set(titles)) == len(titles)
