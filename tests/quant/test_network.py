"""Networks whose layers are no chain: sources, residuals, and what does not fit together."""

from dataclasses import replace

import numpy as np
import pytest

from hwgate.errors import CompileError
from hwgate.files.networks import load_network, save_network
from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.golden import run_layer
from hwgate.quant.layer import IMAGE, QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from support.random_layers import Features, random_images, random_network

CONFIG = AcceleratorConfig()


def make(name, in_shape, outputs, kernel=3, **options):
    """A layer of random weights."""
    rng = np.random.default_rng(len(name))
    weight = rng.integers(-9, 10, (outputs, in_shape[0], kernel, kernel)).astype(np.int8)
    if options.get("residual") is not None:
        options.setdefault("mult_residual", np.full(outputs, 1 << 8))
    return QuantizedLayer(name, weight, np.ones(weight.shape[:2], bool), None,
                          np.zeros((outputs, 2), np.int64), np.ones((outputs, 2), np.int64),
                          np.full(outputs, 9), in_shape, **{"padding": kernel // 2, **options})


def layers():
    """Input, a strided block with a projection that takes it in, and a padding shortcut."""
    return [make("stem", (3, 7, 6), 4), make("conv", (4, 7, 6), 8, stride=2),
            make("project", (4, 7, 6), 8, 1, stride=2, source=0, residual=1, relu_first=True),
            make("pad", (8, 4, 3), 12, residual=0, residual_stride=2, residual_offset=8)]


def test_run_follows_the_graph():
    network = QuantizedNetwork(CONFIG, tuple(layers()))
    images = random_images(np.random.default_rng(0), network, 3)
    found = network.run(images)
    assert [network.inputs(n) for n in range(4)] == [(IMAGE,), (0,), (0,), (2,)]
    assert [network.shape(n) for n in (IMAGE, 0, 1, 3)] == [(3, 7, 6), (4, 7, 6), (8, 4, 3),
                                                           (12, 4, 3)]
    outputs = [result.output for result in found]
    for index, (x, added) in enumerate([(images, None), (outputs[0], None),
                                        (outputs[0], outputs[1]), (outputs[2], outputs[0])]):
        wanted = run_layer(network.layers[index], x, CONFIG.formats, added)
        np.testing.assert_array_equal(outputs[index], wanted.output)
    assert (outputs[3][:, :8] != run_layer(replace(network.layers[3], residual=None),
                                           outputs[2]).output[:, :8]).sum() == 0
    assert (outputs[3][:, 8:] != run_layer(replace(network.layers[3], residual=None),
                                           outputs[2]).output[:, 8:]).any()


def test_logits_of_many_images_are_those_of_each():
    network = QuantizedNetwork(CONFIG, tuple(layers()))
    images = random_images(np.random.default_rng(0), network, 35)
    np.testing.assert_array_equal(network(images), network.run(images)[-1].output.reshape(35, -1))


def test_forced_open_keeps_the_graph():
    for seed in range(9):
        rng = np.random.default_rng(seed)
        network = random_network(rng, CONFIG, features=Features.every(), gated=True)
        for layer, dense in zip(network.layers, network.force_open().layers, strict=True):
            assert replace(dense, threshold=layer.threshold, base=layer.base,
                           limit=layer.limit) == layer


def test_networks_survive_a_file(tmp_path):
    network = QuantizedNetwork(CONFIG, tuple(layers()))
    save_network(tmp_path / "net.npz", network)
    loaded = load_network(tmp_path / "net.npz")
    images = random_images(np.random.default_rng(0), network, 2)
    for wanted, found in zip(network.run(images), loaded.run(images), strict=True):
        np.testing.assert_array_equal(wanted.output, found.output)


FACTORS = "Layer 'pad' must have 12 residual factors of 24 bits that are multiples of 256"


@pytest.mark.parametrize("index,changes,sentence", [
    (0, {"source": 0}, "Layer 'stem' is number 0 and takes its input from layer 0, which must be "
     "before it"),
    (1, {"source": -2}, "Layer 'conv' is number 1 and takes its input from layer -2, which must "
     "be before it"),
    (1, {"source": IMAGE}, "Layer 'conv' takes 4x7x6 inputs, but its source has 3x7x6 outputs"),
    (2, {"residual": 2}, "Layer 'project' is number 2 and adds the output of layer 2, which must "
     "be before it"),
    (2, {"residual": None}, "Layer 'project' has parameters of a residual but adds none"),
    (1, {"relu_first": True}, "Layer 'conv' has parameters of a residual but adds none"),
    (3, {"residual_stride": 3}, "Layer 'pad' adds a residual of stride 3, but a convolution can "
     "add one of stride 1 or 2"),
    (3, {"residual_stride": 1}, "Layer 'pad' adds a residual of 7x6 pixels to 4x3"),
    (3, {"residual_offset": 2}, "Layer 'pad' adds 4 channels from channel 2 on to its 12, but "
     "they must fit and begin at a multiple of 4"),
    (3, {"residual_offset": 12}, "Layer 'pad' adds 4 channels from channel 12 on to its 12, but "
     "they must fit and begin at a multiple of 4"),
    (3, {"residual_offset": -4}, "Layer 'pad' adds 4 channels from channel -4 on to its 12, but "
     "they must fit and begin at a multiple of 4"),
    (3, {"mult_residual": None}, FACTORS),
    (3, {"mult_residual": np.full(11, 256)}, FACTORS),
    (3, {"mult_residual": np.full(12, 255)}, FACTORS),
    (3, {"mult_residual": np.full(12, 1 << 23)}, FACTORS),
    (3, {"padding": 3}, "Layer 'pad' has stride 1 and padding 3, but a 3x3 kernel takes a stride "
     "of 1 or 2 and a padding of 0..2, below and on the right of 0..2"),
    (3, {"padding": (0, 0, 0, 3)}, "Layer 'pad' has stride 1 and padding (0, 0, 0, 3), but a 3x3 "
     "kernel takes a stride of 1 or 2 and a padding of 0..2, below and on the right of 0..2"),
    (3, {"stride": 3}, "Layer 'pad' has stride 3 and padding 1, but a 3x3 kernel takes a stride "
     "of 1 or 2 and a padding of 0..2, below and on the right of 0..2"),
    (3, {"fan_in": 71, "weight": np.ones((12, 8, 3, 3), np.int8)},
     "Layer 'pad' has up to 72 weights of an output channel that are not zero, "
     "and a fan-in of 71, which must be at least as many, in a layer without gates"),
    (3, {"source": (0, 2)}, "Layer 'pad' takes 8x4x3 inputs, but its source has 4x7x6 and 8x4x3 "
     "outputs"),
    (3, {"weight": np.ones((12, 8, 4, 4), np.int8)}, "Layer 'pad' has weights 12x8x4x4 for 8 "
     "input channels, but kernels must be square, of edge 1, 3, 5, 7, one per input channel"),
    (3, {"weight": np.ones((12, 6, 3, 3), np.int8)}, "Layer 'pad' has weights 12x6x3x3 for 8 "
     "input channels, but kernels must be square, of edge 1, 3, 5, 7, one per input channel"),
    (3, {"pool": 4}, "Layer 'pad' makes a 12x4x3 map of its 8x4x3 input and pools it by 4, which "
     "leaves nothing"),
    (3, {"limit": 1}, "Layer 'pad' closes channels of at most 1 open gates, which must be in "
     "0..65535, and 0 without gates"),
    (3, {"reduce": True}, "Layer 'pad' sums its pixels, so its kernel, stride and pooling must be "
     "1, not 3, 1 and 1"),
], ids=lambda v: "-".join(v) if isinstance(v, dict) else "")
def test_what_does_not_fit_is_named(index, changes, sentence):
    made = layers()
    made[index] = replace(made[index], **changes)
    with pytest.raises(CompileError) as error:
        QuantizedNetwork(CONFIG, tuple(made))
    assert str(error.value) == sentence


def test_maps_that_cannot_lie_side_by_side_are_named():
    """The second layer wants them in another order than the first one."""
    made = [layers()[0], make("wide", (4, 7, 6), 4), make("one", (8, 7, 6), 4, source=(0, 1)),
            make("two", (8, 7, 6), 4, source=(1, 0))]
    with pytest.raises(CompileError) as error:
        QuantizedNetwork(CONFIG, tuple(made))
    assert str(error.value) == ("Layer 'two' takes several outputs, each of which must lie beside "
                                "the same one for all layers; copy one")
    made[3] = replace(made[3], source=(2, 0))
    with pytest.raises(CompileError, match="^Layer 'two' takes several outputs"):
        QuantizedNetwork(CONFIG, (*made[:3], replace(made[3], source=(0, 2))))
    network = QuantizedNetwork(CONFIG, tuple(made))
    assert network.inputs(3) == (2, 0)
    assert network.chains == {IMAGE: (IMAGE,), **dict.fromkeys((0, 1, 2), (2, 0, 1)), 3: (3,)}


def test_a_layer_takes_maps_side_by_side():
    made = [layers()[0], make("wide", (4, 7, 6), 5), make("one", (12, 7, 6), 4,
                                                          source=(1, 0, IMAGE))]
    network = QuantizedNetwork(CONFIG, tuple(made))
    images = random_images(np.random.default_rng(0), network, 2)
    stem, wide, one = (layer.output for layer in network.run(images))
    wanted = run_layer(made[2], np.concatenate([wide, stem, images], axis=1), CONFIG.formats)
    np.testing.assert_array_equal(one, wanted.output)


def test_a_sum_of_pixels_takes_no_residual():
    linear = make("linear", (4, 7, 6), 10, 1, reduce=True, residual=0)
    with pytest.raises(CompileError, match="^Layer 'linear' adds a residual of stride 1, but a "
                       "convolution can add one of stride 1 or 2$"):
        QuantizedNetwork(CONFIG, (layers()[0], linear))
