"""Training: deterministic, quick, and it learns."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from hwgate import zoo
from hwgate.data.datasets import load_dataset
from hwgate.data.digits import TEST_SHARE, load_digits
from hwgate.errors import UserError
from hwgate.files.tensors import write_safetensors
from hwgate.nn.gated import ChannelShuffle
from hwgate.nn.gates import force_open, gated_layers
from hwgate.nn.losses import distillation_loss, incoherence, kept_gates
from hwgate.nn.macs import mac_summary
from hwgate.train import training
from hwgate.train.digits import train_digits
from hwgate.train.recipe import Recipe, load_recipe
from hwgate.train.recipe_parts import NETWORKS, OptimizerPart
from hwgate.train.trained import build, load_model, load_teacher, save_model, start_from
from hwgate.train.training import accuracy, learning_rate, train

torch.set_num_threads(1)  # tests run in parallel


@pytest.fixture(scope="module")
def trained():
    return train_digits(seed=3, epochs=2)


def test_one_seed_gives_one_network(trained):
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    again = train_digits(seed=3, epochs=2)
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert again.history == trained.history
    assert torch.equal(torch.random.get_rng_state(), state)


def test_other_seed_gives_another_split():
    assert not np.array_equal(load_digits(0)[3], load_digits(1)[3])


def test_digits_learn_and_thresholds_rise(trained):
    images, labels = torch.from_numpy(trained.test_images), torch.from_numpy(trained.test_labels)
    assert accuracy(trained.model, images, labels) > 0.8
    assert trained.history[-1].loss < trained.history[0].loss
    assert trained.history[-1].density < trained.history[0].density < 0.6
    assert all((layer.delta > 0).all() for _, layer in gated_layers(trained.model))
    assert mac_summary(trained.model, images).reduction > 1.5
    assert not trained.model.training


def test_digits_are_split_by_class():
    train_images, train_labels, test_images, test_labels = load_digits()
    assert train_images.shape == (1347, 1, 8, 8) and test_images.shape == (450, 1, 8, 8)
    assert len(test_labels) / 1797 == pytest.approx(TEST_SHARE, abs=1e-3)
    assert train_images.min() == 0 and train_images.max() == 1
    shares = np.bincount(test_labels) / np.bincount(np.concatenate([train_labels, test_labels]))
    assert np.ptp(shares) < 0.02


def small(count=40, validation=0):
    """The digits with fewer training images."""
    data = load_dataset("digits", validation=validation)
    return replace(data, train=data.train.first(count), test=data.test.first(100),
                   validation=data.validation.first(10), shift=1)


def recipe(**changes):
    values = {"optimizer.epochs": 2, "optimizer.batch": 16, "data.augment": True, "seed": 3}
    return load_recipe("digits").changed(values | {
        name.replace("__", "."): value for name, value in changes.items()})


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_progress_hears_every_epoch_and_step():
    heard, steps = [], []
    history = train(build(recipe()), small(33, validation=10), recipe(), report=heard.append,
                    step=lambda done, all_steps: steps.append((done, all_steps)))
    assert tuple(heard) == history and [e.number for e in heard] == [1, 2]
    assert heard[0].epochs == 2 and heard[0].validation.images == 10
    assert steps == [(1, 2), (2, 2)] * 2  # a last single image is left out
    text = heard[1].describe()
    assert text.startswith("epoch 2/2: loss ") and text.endswith("x fewer MACs")
    dense = recipe(gate__groups=0, optimizer__epochs=1)
    assert train(build(dense), small(), dense)[0].density == 1
    assert train(build(dense), small(), dense)[0].validation is None


class Killed(Exception):
    pass


def test_a_killed_training_ends_as_if_it_was_not(tmp_path):
    """Killed after the first of two epochs."""
    path, whole, model = tmp_path / "checkpoint.safetensors", build(recipe()), build(recipe())
    history = train(whole, small(), recipe())

    def die(_):
        raise Killed

    with pytest.raises(Killed):
        train(model, small(), recipe(), checkpoint=path, report=die)
    model, heard = build(recipe()), []  # a new process knows nothing
    torch.manual_seed(99)
    again = train(model, small(), recipe(), checkpoint=path, resume=True, report=heard.append)
    assert [epoch.number for epoch in heard] == [2]
    assert again == history and same(weights(model), weights(whole))


def test_steps_between_checkpoints_do_not_matter(tmp_path, monkeypatch):
    """Killed in the middle of the second epoch, behind a checkpoint that was written there."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1)
    path, calls = tmp_path / "checkpoint.safetensors", []

    def die(done, steps):
        calls.append(done)
        if len(calls) == 6:
            raise Killed

    whole, model = build(recipe()), build(recipe())
    history = train(whole, small(48), recipe())
    with pytest.raises(Killed):
        train(model, small(48), recipe(), checkpoint=path, step=die)
    assert calls == [1, 2, 3, 1, 2, 3]
    model, calls = build(recipe()), []
    torch.manual_seed(99)
    again = train(model, small(48), recipe(), checkpoint=path, resume=True, step=die)
    assert calls == [3]  # the checkpoint has the first two steps
    assert again == history and same(weights(model), weights(whole))


def test_checkpoints_of_others_are_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    train(build(recipe()), small(), recipe(), checkpoint=path)
    other = recipe(loss__target=2.0)
    with pytest.raises(UserError, match=r"^Checkpoint .* was made with loss.target = 1.4, not 2.0; "
                       "give another folder or the same recipe$"):
        train(build(other), small(), other, checkpoint=path, resume=True)
    path.write_bytes(b"x" * 20)
    with pytest.raises(UserError, match="no safetensors file"):
        train(build(other), small(), other, checkpoint=path, resume=True)
    save_model(path, build(other), other)
    with pytest.raises(UserError, match="^File .* is no checkpoint of this network$"):
        train(build(other), small(), other, checkpoint=path, resume=True)


@pytest.mark.parametrize("schedule,rates", [
    ("onecycle", [0.04, 1.0, 0.5, 4e-6]), ("cosine", [0, 1.0, 0.5, 4e-6]),
    ("steps", [1, 1, 0.1, 0.01]), ("constant", [1, 1, 1, 1])])
def test_learning_rates(schedule, rates):
    part = OptimizerPart(rate=1.0, schedule=schedule, warmup=0.25)
    found = [learning_rate(part, at) for at in (0, 0.25, 0.625, 1)]
    assert found == pytest.approx(rates)


def test_low_precision_learns_the_same_again():
    found = []
    for precision in ("bfloat16", "bfloat16", "float32"):
        chosen = recipe(optimizer__precision=precision, optimizer__epochs=1)
        model = build(chosen)
        found.append((train(model, small(200), chosen)[-1].loss, weights(model)))
    (loss, once), (_, again), (exact, other) = found
    assert same(once, again) and not same(once, other)
    assert loss == pytest.approx(exact, rel=0.1)


@pytest.mark.slow
def test_low_precision_learns_nearly_the_same_again_and_again():
    """One seed gives one network; the losses of some seeds are on average those of float32."""
    data, losses = load_dataset("digits", seed=2), {"bfloat16": [], "float32": []}
    for seed in (0, 1, 2):
        runs = []
        for precision in ("bfloat16", "bfloat16", "float32")[seed > 0:]:
            chosen = recipe(**{"seed": seed, "optimizer.precision": precision})
            model = build(chosen)
            runs.append((train(model, data, chosen), weights(model)))
            losses[precision].append(runs[-1][0][-1].loss)
        if seed == 0:
            assert same(runs[0][1], runs[1][1]) and not same(runs[0][1], runs[2][1])
            assert all(tensor.dtype == torch.float32 for tensor in runs[0][1].values()
                       if tensor.is_floating_point())
    low, high = (sum(losses[precision][-3:]) for precision in ("bfloat16", "float32"))
    assert low == pytest.approx(high, rel=0.05)


def test_thresholds_start_where_the_recipe_says():
    model = build(recipe(**{"gate.threshold": 0.75}))
    assert all((layer.delta == 0.75).all() for _, layer in gated_layers(model))


def test_a_teacher_is_imitated():
    imitate = recipe(loss__distill=1.0, loss__temperature=2.0, loss__penalty=0.0,
                     data__augment=False, optimizer__epochs=1, optimizer__rate=0.0)
    teacher = build(recipe(seed=9, gate__groups=0)).eval()
    model = build(imitate)
    own = train(copy.deepcopy(model), small(), imitate, teacher=copy.deepcopy(model))
    other = train(model, small(), imitate, teacher=teacher)
    assert 0 < own[0].loss < other[0].loss  # batch statistics differ from the running ones
    logits, soft = torch.randn(5, 10), torch.randn(5, 10)
    wanted = (soft.div(3).softmax(1) * (soft.div(3).log_softmax(1) - logits.div(3).log_softmax(1))
              ).sum(1).mean() * 9
    torch.testing.assert_close(distillation_loss(logits, soft, 3.0), wanted)


def test_further_terms_see_the_decisions():
    """A term that only asks for open gates opens them."""
    def closed(model):
        return torch.stack([(1 - layer.gates).mean() for _, layer in gated_layers(model)]).sum()

    plain, eager = (recipe(optimizer__epochs=3, loss__penalty=0.0) for _ in range(2))
    densities = []
    for terms in ((), (lambda model: 30 * closed(model),)):
        model = build(plain)
        densities.append(train(model, small(200), eager, terms=terms)[-1].density)
        assert all(layer.gates is None for _, layer in gated_layers(model))
    assert densities[1] > densities[0] + 0.2


def test_incoherence_falls_when_channels_agree():
    model = build(recipe())
    with kept_gates(model):
        model(torch.rand(4, 1, 8, 8))
        for _, layer in gated_layers(model):
            layer.gates = torch.zeros(2, 8, 3, 3)
            layer.gates[:, ::2] = 1
        assert float(incoherence(model)) == 1 and float(incoherence(model, 2)) == 1
        for _, layer in gated_layers(model):
            layer.gates = layer.gates.sort(dim=1).values
        assert float(incoherence(model)) == 1 and float(incoherence(model, 4)) == 0
    assert float(incoherence(model)) == 0

    losses = []
    for weight in (0.0, 1.0):
        coherent = recipe(loss__coherence=weight, loss__coherence_slice=4, loss__penalty=0.0,
                          optimizer__epochs=6)
        model = build(coherent)
        train(model, small(200), coherent)
        with kept_gates(model), torch.no_grad():
            model(small().normalize(small().test.images))
            losses.append(float(incoherence(model, 4)))
    assert losses[1] < 0.8 * losses[0]


def test_layers_are_left_ungated():
    whole, some = recipe(), recipe(gate__skip="gated1.*, gated3.conv")
    model, plain = build(some), build(whole)
    assert [name for name, _ in gated_layers(model)] == ["gated2.conv", "gated4.conv"]
    for name in ("gated1.conv", "gated4.conv"):
        assert torch.equal(model.get_submodule(name).weight, plain.get_submodule(name).weight)
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(force_open(model.eval())(images),
                                   force_open(plain.eval())(images))
    with pytest.raises(UserError, match="^There is no gated layer 'conv9' to skip; there are "):
        build(recipe(gate__skip="conv9"))
    assert not list(gated_layers(build(recipe(gate__skip="gated1.*", gate__groups=0))))


def test_networks_are_kept_with_their_recipes(tmp_path):
    path = tmp_path / "model.safetensors"
    made = recipe(gate__granularity="pixel")
    model = build(made).eval()
    save_model(path, model, made)
    loaded, found = load_model(path)
    assert found == made and same(weights(model), weights(loaded)) and not loaded.training
    assert not any(p.requires_grad for p in load_teacher(str(path)).parameters())
    assert same(weights(load_teacher("mnist")), weights(load_model(zoo.path("mnist")
                                                                   / "model.safetensors")[0]))
    dense = recipe(gate__groups=0, network__name="resnet20", network__width=0.25)
    save_model(path, build(dense), dense)
    with pytest.raises(UserError, match="^Network .* has other layers than the one to train; take "
                       "one of the same name and width, gated or not$"):
        start_from(build(recipe(network__name="lenet", gate__grouping=False)), str(path))
    write_safetensors(path, {"a": torch.zeros(1)})
    with pytest.raises(UserError, match="^File .* is no network that `hwgate train` wrote$"):
        load_model(path)


@pytest.mark.parametrize("of", [{"gate__groups": 0}, {"gate__groups": 2}, {"gate__grouping": False},
                                {"gate__skip": "gated2.conv"}, {"gate__shuffle": False}])
@pytest.mark.parametrize("into", [{}, {"gate__groups": 0}, {"gate__grouping": False},
                                  {"gate__skip": "gated3.conv"}, {"gate__granularity": "pixel"},
                                  {"gate__groups": 8, "gate__base_channels": 8}])
def test_a_start_computes_the_same_with_open_gates(tmp_path, of, into):
    """Whatever the gates of both: their layers, groups, sharing and shuffles."""
    path = tmp_path / "model.safetensors"
    given = build(recipe(seed=8, **of))
    for number, (_, layer) in enumerate(gated_layers(given)):
        torch.nn.init.constant_(layer.delta, 0.25 + number)
    save_model(path, given, recipe(seed=8, **of))
    model = build(recipe(**into)).eval()
    start_from(model, str(path))
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(force_open(model)(images), force_open(given.eval())(images))
    layers = {name.split(".")[0]: layer for name, layer in gated_layers(given)}
    for name, layer in gated_layers(model):
        other = layers.get(name.split(".")[0])
        kept = other is not None and other.share == layer.share
        assert torch.equal(layer.delta, other.delta if kept else torch.zeros_like(layer.delta))


def test_every_network_of_the_recipes_is_built():
    for name in NETWORKS:
        made = Recipe().changed({"network.name": name, "gate.groups": 2, "data.name": "mnist",
                                 "network.width": 1.0 if name == "digits" else 0.25})
        assert any(gated_layers(build(made)))
        assert not any(gated_layers(build(made.changed({"gate.base_channels": 1000}))))
        grouped = made.changed({"gate.grouping": True})
        shuffles = [sum(isinstance(m, ChannelShuffle) for m in build(grouped.changed(
            {"gate.shuffle": shuffle})).modules()) for shuffle in (True, False)]
        assert shuffles[1] == 0 and (shuffles[0] > 0) == (name not in ("resnet18", "resnet20"))
    with pytest.raises(UserError, match="^Network 'digits' has a width of 1, not 2.0$"):
        build(recipe(network__width=2.0))


def test_errors():
    with pytest.raises(UserError, match="^Training needs two images or more, not 1$"):
        train(build(recipe()), small(1), recipe())
    with pytest.raises(UserError, match="^Epoch count must be at least 1, not 0$"):
        train_digits(epochs=0)
