"""Training: deterministic, quick, and it learns."""

import numpy as np
import pytest
import torch

from hwgate.digits import TEST_SHARE, load_digits, train_digits
from hwgate.errors import UserError
from hwgate.macs import mac_summary
from hwgate.nn import gated_layers
from hwgate.training import Recipe, accuracy, train

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


def test_progress_hears_every_epoch():
    heard = []
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    images, labels = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0])
    history = train(model, images, labels, Recipe(epochs=3, batch=4), heard.append)
    assert tuple(heard) == history and [e.number for e in heard] == [1, 2, 3]
    assert heard[0].density == 1 and heard[0].epochs == 3
    assert heard[0].describe().startswith("epoch 1/3: loss ")


@pytest.mark.parametrize("images,labels,epochs,sentence", [
    (1, 1, 1, "Training needs two images or more and as many labels, not 1 images and 1 labels"),
    (4, 3, 1, "Training needs two images or more and as many labels, not 4 images and 3 labels"),
    (4, 4, 0, "Epoch count must be at least 1, not 0"),
])
def test_errors(images, labels, epochs, sentence):
    with pytest.raises(UserError) as error:
        train(torch.nn.Flatten(), torch.rand(images, 1, 2, 2), torch.zeros(labels).long(),
              Recipe(epochs=epochs))
    assert str(error.value) == sentence
