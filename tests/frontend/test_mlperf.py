"""The reference networks of MLPerf Tiny: built as they are, and read as they compute."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hwgate
from hwgate.frontend import read_torch, simplify
from support import mlperf

torch.set_num_threads(1)  # tests run in parallel

DATA = Path(os.environ.get("HWGATE_DATA", "nowhere"))
needs_networks = pytest.mark.skipif(
    not mlperf.FOLDER.is_dir(), reason="needs the variable HWGATE_DATA, a folder with mlperf_tiny")
needs_cifar = pytest.mark.skipif(
    not list(DATA.glob("cifar*/test_batch*")),
    reason="needs the variable HWGATE_DATA, a folder with cifar10/test_batch.bin or its beginning")

SHAPES = {"ic": ((3, 32, 32), 10), "vww": ((3, 96, 96), 2), "kws": ((1, 49, 10), 12),
          "ad": ((640,), 640)}


def images_of(key, count=3):
    """Numbers in the range of what a network takes."""
    drawn = torch.rand(count, *SHAPES[key][0], generator=torch.manual_seed(0))
    return {"ic": 255 * drawn, "vww": drawn, "kws": 100 * (drawn - 0.5), "ad": -60 * drawn}[key]


def conv(name, source, weight, stride, padding, groups=1, **options):
    top, bottom, left, right = padding
    return {"name": name, "op": "depthwise_conv2d" if groups > 1 else "conv2d", "inputs": [source],
            "kernel": weight[2:], "stride": [stride, stride], "groups": groups,
            "padding": {"top": top, "bottom": bottom, "left": left, "right": right},
            "weight_shape": weight, "batch_norm": None, "activation": None, **options}


def test_a_description_becomes_what_it_says():
    """Uneven padding, a bias besides a norm of its own eps, depthwise, and an addition."""
    layers = [
        conv("a", "input", [4, 2, 3, 3], 2, (0, 1, 0, 1), activation="relu",
             batch_norm={"name": "n", "eps": 1e-3}),
        conv("b", "a", [4, 1, 3, 3], 1, (1, 1, 1, 1), groups=4),
        {"name": "sum", "op": "add", "inputs": ["a", "b"], "activation": "relu"},
        {"name": "pool", "op": "avg_pool2d", "inputs": ["sum"], "kernel": [4, 4], "stride": [4, 4],
         "activation": None},
        {"name": "flat", "op": "flatten", "inputs": ["pool"]},
        {"name": "fc", "op": "linear", "inputs": ["flat"], "in_features": 4, "out_features": 3,
         "weight_shape": [3, 4], "batch_norm": {"name": "m", "eps": 1e-3}, "activation": None}]
    torch.manual_seed(0)
    model = mlperf.Reference(layers).double().eval()
    for norm in (model.n, model.m):
        norm.running_mean.normal_()
        norm.running_var.uniform_(1e-4, 1e-2)  # where eps matters
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)

    def scaled(y, norm):
        gain = norm.weight / (norm.running_var + 1e-3).sqrt()
        shape = (-1, 1, 1) if y.ndim == 4 else (-1,)
        return (y - norm.running_mean.view(shape)) * gain.view(shape) + norm.bias.view(shape)

    wide = torch.zeros(2, 2, 9, 9, dtype=torch.float64)
    wide[:, :, :8, :8] = x  # zeros below and to the right only
    a = scaled(F.conv2d(wide, model.a.weight, model.a.bias, 2), model.n).relu()
    b = torch.cat([F.conv2d(a[:, n:n + 1], model.b.weight[n:n + 1], model.b.bias[n:n + 1],
                            padding=1) for n in range(4)], 1)
    total = scaled(F.linear((a + b).relu().mean((2, 3)), model.fc.weight, model.fc.bias), model.m)
    torch.testing.assert_close(model(x), total)
    graph = read_torch(model, (2, 8, 8))
    torch.testing.assert_close(graph(x), model(x).detach())
    torch.testing.assert_close(simplify(graph)(x), model(x).detach())


@needs_networks
@pytest.mark.parametrize("key", mlperf.NETWORKS)
def test_shapes_and_work_are_those_of_the_file(key):
    shape, outputs = SHAPES[key]
    described = json.loads((mlperf.FOLDER / f"mlperf_tiny_{key}.json").read_text())
    model = mlperf.network(key)
    assert mlperf.image_shape(key) == shape and not model.training
    seen, macs = {}, {}

    def note(name):
        def hook(module, inputs, output):
            seen[name] = tuple(output.shape[1:])
            pixels = output[0, 0].numel() if output.ndim == 4 else 1
            macs[name] = module.weight.numel() * pixels if hasattr(module, "weight") else 0
        return hook

    for layer in described["layers"]:
        if layer["op"] not in ("add", "flatten"):
            model.get_submodule(layer["name"]).register_forward_hook(note(layer["name"]))
    with torch.no_grad():
        assert model(images_of(key)).shape == (3, outputs)
    for layer in described["layers"]:
        if layer["name"] in seen:
            wanted = layer.get("out_shape_chw") or layer.get("out_shape") or [layer["out_features"]]
            assert seen[layer["name"]] == tuple(wanted), layer["name"]
            assert macs[layer["name"]] == layer["macs"], layer["name"]
    assert sum(macs.values()) == described["macs_total"]


@needs_networks
@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "logits"])
@pytest.mark.parametrize("key", mlperf.NETWORKS)
def test_the_graph_computes_the_same(key, softmax):
    model, x = mlperf.network(key, softmax=softmax), images_of(key)
    with torch.no_grad():
        wanted = model(x)
    graph = read_torch(model, SHAPES[key][0])
    assert {"Conv" if isinstance(module, nn.Conv2d) else "Linear": None
            for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)
            }.keys() <= {node.op for node in graph.nodes}
    assert float(wanted.std()) > 1e-3
    scale = float(wanted.abs().max())
    torch.testing.assert_close(graph(x), wanted, atol=1e-6 * scale, rtol=0)
    torch.testing.assert_close(simplify(graph)(x), wanted, atol=1e-5 * scale, rtol=0)


@needs_networks
@needs_cifar
def test_image_classification_is_right_for_881_of_1000():
    images, labels = mlperf.cifar_images(1000)
    assert images.dtype == torch.float32 and images.min() == 0 and images.max() == 255
    model = mlperf.network("ic", softmax=False)
    graph = simplify(read_torch(model, SHAPES["ic"][0]))
    right = {"model": 0, "graph": 0}
    with torch.no_grad():
        for at in range(0, 1000, 250):
            part, true = images[at:at + 250], labels[at:at + 250]
            for name, run in (("model", model), ("graph", graph)):
                right[name] += int((run(part).argmax(1).numpy() == true).sum())
    assert right == {"model": 881, "graph": 881}


@needs_networks
@needs_cifar
def test_image_classification_answers_as_its_integers():
    """The reference kernels' logits of 20 test images, from int8, lie around the float ones."""
    integers = np.load(mlperf.FOLDER / "ic_int8_logits.npy").reshape(20, 10).astype(float)
    images, _ = mlperf.cifar_images(20)
    with torch.no_grad():
        floats = mlperf.network("ic", softmax=False)(images).double().numpy()
    assert np.corrcoef(integers.ravel(), floats.ravel())[0, 1] > 0.99


@pytest.fixture(scope="module")
def integers():
    """``ic`` in integers of 8 bits, calibrated on training images."""
    config = hwgate.preset("digits")
    return hwgate.quantize(mlperf.network("ic"), mlperf.calibration_images(), config)


@needs_networks
@needs_cifar
def test_image_classification_runs_whole_and_exact(integers):
    images, _ = mlperf.cifar_images(1)
    program = hwgate.compile(integers)
    model = hwgate.estimate(program, images)
    # The average over 8x8 pixels is part of the linear layer, which so multiplies 64 times.
    assert model.macs == 12_501_632 + 63 * 640 and integers.fidelity.worst.own > 25
    assert len(integers.layers) == 10  # its convolutions and its linear layer, and nothing else
    comparison = hwgate.compare(hwgate.simulate(program, images), model)
    assert comparison.equal, comparison.describe()


@pytest.mark.slow
@needs_networks
@needs_cifar
def test_image_classification_in_integers(integers):
    """At least 878 of the first 1,000 test images, as the reference's own integers."""
    images, labels = mlperf.cifar_images(1000)
    right = int((integers(images).argmax(1) == labels).sum())
    print(f"MLPerf Tiny ic: {right} of the first 1,000 CIFAR-10 test images in integers")
    assert right >= 878


@needs_networks
@pytest.mark.parametrize("key,obstacles", [("ic", 0), ("vww", 0), ("kws", 1), ("ad", 0)])
def test_what_runs(key, obstacles):
    """All but keyword spotting, whose first kernel is 10x4."""
    found = hwgate.check(mlperf.network(key), mlperf.image_shape(key), hwgate.preset("cifar"))
    assert len(found.obstacles) == obstacles, found.describe()
