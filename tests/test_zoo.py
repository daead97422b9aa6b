"""The zoo's networks: what they score is what their results say, and the hardware runs them."""

import os
from pathlib import Path

import numpy as np
import pytest

import hwgate
from hwgate import zoo
from hwgate.comparison import compare
from hwgate.datasets import load_dataset
from hwgate.errors import UserError

needs_mnist = pytest.mark.skipif(
    not [*Path(os.environ.get("HWGATE_DATA", "nowhere")).glob("mnist*")],
    reason="needs the variable HWGATE_DATA, a folder with MNIST")


def test_unknown_networks_are_named():
    with pytest.raises(UserError, match=r"^The zoo has no network 'alexnet'; it has mnist$"):
        zoo.load("alexnet")


@pytest.mark.parametrize("name", zoo.names())
def test_a_network_runs_as_modelled(name):
    network = zoo.load(name)
    rng = np.random.default_rng(0)
    images = rng.integers(-128, 128, (2, *network.image_shape)).astype(np.int8)
    program = hwgate.compile(network)
    comparison = compare(hwgate.simulate(program, images), hwgate.estimate(program, images))
    assert comparison.equal, comparison.describe()


@needs_mnist
@pytest.mark.slow
def test_mnist_scores_what_its_results_say():
    """On all 10,000 test images, with the integers."""
    network, scores = zoo.load("mnist"), zoo.results("mnist")["scores"]["integers"]
    data = load_dataset("mnist")
    images, labels = data.unit(data.test.images).numpy(), data.test.labels.numpy()
    assert scores["images"] == len(labels) == 10_000
    right = sum(int((network(images[at:at + 500]).argmax(axis=1) == labels[at:at + 500]).sum())
                for at in range(0, len(labels), 500))
    assert right / len(labels) == scores["accuracy"] == 0.9922
