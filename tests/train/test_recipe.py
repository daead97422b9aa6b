"""Recipes: what comes with hwgate, files, overrides, and mistakes."""

import tomllib

import pytest

from hwgate import zoo
from hwgate.errors import UserError
from hwgate.train.recipe import Recipe, load_recipe, recipe_names


def test_recipes_that_come_with_hwgate():
    assert recipe_names() == ("digits", "mnist", "resnet18", "resnet20", "resnet20-postact",
                              "vgg16")
    for name in recipe_names():
        recipe = load_recipe(name)
        assert Recipe.from_dict(tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize("name", zoo.names())
def test_recipes_of_the_zoo_are_found_by_name(name):
    made = load_recipe(name)
    if name not in recipe_names():
        assert made == Recipe.from_dict(zoo.results(name)["recipe"])


def test_a_recipe_survives_its_file(tmp_path):
    recipe = Recipe().changed({"gate.granularity": "slice", "gate.slice": 8, "seed": 5,
                               "loss.teacher": 'a "quoted" \\ name', "optimizer.rate": 1})
    path = tmp_path / "mine.toml"
    path.write_text(recipe.to_toml())
    assert load_recipe(path) == recipe and load_recipe(str(path)).optimizer.rate == 1.0
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert (recipe.gate.share, load_recipe("digits").gate.share) == (8, 1)


@pytest.mark.parametrize("values,sentence", [
    ({"gate.group": 4}, "There is no recipe entry 'gate.group'; there are gate.groups, "
     "gate.base_channels, gate.grouping, gate.shuffle, gate.alpha, gate.sparse_bp, "
     "gate.granularity, gate.slice, gate.tau, gate.threshold, gate.skip"),
    ({"gate.base_channels": -1}, "Base channel count must be at least 0, not -1"),
    ({"gates.groups": 4}, "There is no recipe entry 'gates.groups'; there are network.*, data.*, "
     "gate.*, loss.*, optimizer.*, hardware.*, quantize.*, seed, threads"),
    ({"sed": 4}, "There is no recipe entry 'sed'; there are network, data, gate, loss, optimizer, "
     "hardware, quantize, seed, threads"),
    ({"gate.groups": "4"}, "Recipe entry 'gate.groups' must be an integer, not '4'"),
    ({"gate.grouping": 1}, "Recipe entry 'gate.grouping' must be true or false, not 1"),
    ({"seed": True}, "Recipe entry 'seed' must be an integer, not True"),
    ({"seed": -1}, "Seed must be at least 0, not -1"),
    ({"optimizer.epochs": 0}, "Epoch count must be at least 1, not 0"),
    ({"loss.smoothing": 2}, "Label smoothing must be in 0..1, not 2.0"),
    ({"loss.temperature": 0}, "Temperature must be positive, not 0.0"),
    ({"hardware.preset": "big"}, "There is no preset 'big'; there are cifar, digits, resident, "
     "small, tiny, ulx3s, wide"),
    ({"hardware.budget": "money"}, "Budget must be one of '', bytes, cycles, not 'money'"),
    ({"gate.granularity": "row"}, "Gate granularity must be one of activation, pixel, slice, not "
     "'row'"),
    ({"network.name": "alexnet"}, "Network must be one of digits, lenet, resnet18, "
     "resnet18-postact, resnet20, resnet20-postact, vgg16, not 'alexnet'"),
], ids=lambda v: next(iter(v)) if isinstance(v, dict) else "")
def test_mistakes(values, sentence):
    with pytest.raises(UserError) as error:
        Recipe().changed(values)
    assert str(error.value) == sentence


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(UserError, match="^There is no recipe or recipe file 'nope'; there are "
                       "digits, mnist, resnet18, resnet20, resnet20-postact, vgg16$"):
        load_recipe("nope")
    path = tmp_path / "bad.toml"
    path.write_text("seed =")
    with pytest.raises(UserError, match="^Recipe file .*bad.toml is no TOML file: "):
        load_recipe(path)
    path.write_text("gate = 4")
    with pytest.raises(UserError, match="^Recipe entry 'gate' must be a section, not 4$"):
        load_recipe(path)
