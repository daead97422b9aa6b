"""What keeps a network from running, all at once, and the buffers that let it run."""

import re
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import hwgate
from hwgate.errors import UserError
from hwgate.machine.config import (
    PRESETS,
    AcceleratorConfig,
    BufferConfig,
    FormatConfig,
    preset,
    preset_line,
)
from hwgate.nn import GatedConv2d, PaddingShortcut, resnet20, settle_norms
from hwgate.plan.fitting import FIELDS, changed_fields

CONFIG = AcceleratorConfig()
torch.set_num_threads(1)  # tests run in parallel


def network(**modules):
    """Modules one after the other, by their names."""
    return nn.Sequential(OrderedDict(modules))


def with_buffers(**buffers):
    return replace(CONFIG, buffers=replace(CONFIG.buffers, **buffers))


def test_a_network_that_runs():
    found = hwgate.check(resnet20(), (3, 32, 32), preset("cifar"))
    assert found == hwgate.Check((), preset("cifar"), "tiny")
    assert found.fits and found.line == 'hwgate.preset("cifar")'
    assert found.describe() == ("Nothing keeps the network from running.\n"
                                "The smallest preset that runs it: tiny")


def test_all_operators_that_do_not_run_are_listed_with_layers_that_do_not_fit():
    model = network(
        wide=nn.Conv2d(4, 8, 3, padding=1), large=nn.Conv2d(8, 8, 8), act=nn.Sigmoid(),
        depthwise=nn.Conv2d(8, 8, 3, stride=(1, 2), groups=8), clamp=nn.Hardtanh(0.5, 1),
        pool=nn.MaxPool2d(3, 2), deep=nn.Conv2d(8, 160, 1), far=nn.Conv2d(160, 4, 3),
        flat=nn.Flatten(), linear=nn.Linear(4 * 5 * 145, 4))
    found = hwgate.check(model, (4, 25, 600), CONFIG)
    named = [re.match("Layer '(.+?)'", text)[1] for text in found.obstacles]
    assert named == ["large", "act", "depthwise", "clamp", "pool", "linear", "wide", "deep",
                     "far"]
    assert not found.fits and found.config is None and found.line is None and found.preset is None
    for text in found.obstacles:
        assert re.fullmatch(r"Layer '[a-z.]+'[^;]+; [^;]+", text), text


def test_every_obstacle_is_what_quantize_says_first():
    model = network(large=nn.Conv2d(4, 8, 8), act=nn.Sigmoid(),
                    last=nn.Conv2d(8, 8, 3, dilation=4, padding=4))
    found = hwgate.check(model, (4, 12, 12), CONFIG)
    assert len(found.obstacles) == 3
    with pytest.raises(hwgate.UserError) as refused:
        hwgate.quantize(model, torch.rand(2, 4, 12, 12), CONFIG)
    assert str(refused.value) == found.obstacles[0]


def test_a_layer_that_lacks_buffers_says_which_and_how_much():
    found = hwgate.check(network(conv=nn.Conv2d(160, 8, 3, padding=1)), (160, 30, 30), CONFIG)
    assert found.obstacles == (
        "Layer 'conv', a 3x3 convolution of 160x30x30, does not fit buffers.window_words=256 and "
        "buffers.passes=32 even for the smallest band of rows; raise them to 1024 and 64, or take "
        "preset 'cifar'",)
    assert found.config == with_buffers(window_words=1024, passes=64)
    assert found.preset == "cifar"
    assert found.describe() == (
        f"1 obstacle keeps the network from running:\n1. {found.obstacles[0]}\n"
        "The smallest buffers that hold it: "
        'hwgate.preset("digits", buffers={"window_words": 1024, "passes": 64})\n'
        "The smallest preset that runs it: cifar")


@pytest.mark.parametrize("base", ["digits", "tiny", "wide"])
def test_the_configuration_that_is_printed_compiles_and_no_smaller_one_does(base):
    torch.manual_seed(0)
    shape = (6, 40, 70)
    model = settle_norms(network(
        first=nn.Conv2d(6, 72, 3, padding=1), norm=nn.BatchNorm2d(72), relu=nn.ReLU(),
        pool=nn.MaxPool2d(2), second=nn.Conv2d(72, 300, 3, 2, 1), relu2=nn.ReLU(),
        third=nn.Conv2d(300, 24, 1), average=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(),
        linear=nn.Linear(24, 10)), torch.randn(2, *shape)).eval()
    start = preset(base, buffers={"window_words": 16, "pixels": 16, "output_words": 16,
                                  "passes": 8})
    found = hwgate.check(model, shape, start)
    pasted = eval(found.line, {"hwgate": hwgate})
    assert pasted == found.config and not found.fits
    images = torch.randn(2, *shape)

    def compiled(config):
        return hwgate.compile(hwgate.quantize(model, images, config, check="warn"))

    program = compiled(pasted)
    assert len(program.bind(images[:1].numpy()).memory) > 0
    assert hwgate.check(model, shape, pasted).fits
    changes = changed_fields(start, pasted)
    assert set(changes) == set(FIELDS)
    network_of = program.network
    for name, value in changes.items():
        smaller = replace(pasted, buffers=replace(pasted.buffers, **{name: value // 2}))
        with pytest.raises(UserError, match=rf"raise buffers\.{name}"):
            hwgate.compile(replace(network_of, config=smaller))
        assert not hwgate.check(model, shape, smaller).fits


def test_the_smallest_preset_is_the_smallest():
    model = network(conv=nn.Conv2d(160, 8, 3, padding=1))
    fits = {name: hwgate.check(model, (160, 30, 30), config).fits
            for name, config in PRESETS.items()}
    assert fits == {"digits": False, "tiny": False, "cifar": True, "resident": True, "wide": True,
                    "ulx3s": False, "small": False}


def test_layers_that_no_buffers_hold():
    found = hwgate.check(network(
        conv=nn.Conv2d(8, 8, 3, padding=1)
    ), (8, 3, 60000), CONFIG)
    assert found.obstacles == (
        "Layer 'conv', a 3x3 convolution of 8x3x60000, needs 40,002 window memory words even for "
        "the smallest band of rows, but buffers.window_words ends at 16,384; use smaller maps or "
        "fewer input channels",)
    assert found.config is None and found.preset is None


def test_bands_that_a_descriptor_cannot_tell_of():
    def told(name):
        return (f"Layer {name!r}, a 3x3 convolution of 2x256x256, has bands too large for a "
                "descriptor (256 input rows of 256 pixels; the loader counts 65,534 pixels of a "
                "channel group); use smaller maps, or smaller buffers.pixels for smaller bands")

    large = nn.Conv2d(2, 2, 3, 2, 1)
    roomy = with_buffers(window_words=8192, pixels=16384, output_words=16384)
    found = hwgate.check(network(conv=large), (2, 256, 256), roomy)
    assert found.obstacles == (told("conv"),) and found.config is None
    # Alone it runs in bands, and with the buffers of a layer behind it no more.
    gated = GatedConv2d(16, 16, 3, padding=1, gate_groups=2, tau=0.1)
    model = network(conv=nn.Conv2d(2, 16, 3, 2, 1), gated=gated)
    found = hwgate.check(model, (2, 256, 256), CONFIG)
    assert [text.split("'")[1] for text in found.obstacles] == ["gated", "conv"]
    assert found.obstacles[1] == told("conv") and found.config is None


def test_tau_needs_all_rows_at_once():
    torch.manual_seed(0)
    gated = GatedConv2d(8, 8, 3, padding=1, gate_groups=2, tau=0.1)
    model = settle_norms(network(gated=gated), torch.randn(2, 8, 24, 24)).eval()
    found = hwgate.check(model, (8, 24, 24), CONFIG)
    assert found.obstacles == (
        "Layer 'gated', a 3x3 convolution of 8x24x24, does not fit buffers.pixels=256 with all its "
        "rows, which its tau needs; raise it to 1024, or take preset 'cifar'",)
    hwgate.compile(hwgate.quantize(model, torch.randn(2, 8, 24, 24), found.config, check="warn"))


def test_gates_and_sums_that_do_not_fit_groups_are_listed_together():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = GatedConv2d(12, 12, 3, padding=1, gate_groups=2)
            self.two = nn.Conv2d(12, 15, 3, padding=1)
            self.shortcut = PaddingShortcut(12, 15, 1)
            self.three = GatedConv2d(15, 12, 3, padding=1, gate_groups=5)

        def forward(self, x):
            x = self.one(x)
            return self.three(self.two(x) + self.shortcut(x))

    found = hwgate.check(Net(), (12, 8, 8), preset("tiny", channels=4))
    assert [text.split("'")[1] for text in found.obstacles] == ["one", "three", "two"]
    assert "6 input channels" in found.obstacles[0] and "; choose" in found.obstacles[0]
    assert found.config is None


def test_a_preset_with_other_groups_is_named():
    gated = GatedConv2d(12, 12, 3, padding=1, gate_groups=2)
    found = hwgate.check(network(gated=gated), (12, 8, 8), CONFIG)
    assert len(found.obstacles) == 1 and "multiple of the 4 channels" in found.obstacles[0]
    assert (found.config, found.preset) == (None, "tiny")


def test_what_cannot_be_exported_is_an_obstacle():
    class Net(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    found = hwgate.check(Net(), (3, 8, 8), CONFIG)
    assert len(found.obstacles) == 1
    assert found.obstacles[0].startswith("Model Net cannot be exported for images of the shape "
                                         "3x8x8")


@pytest.mark.parametrize("shape", [(), (8, 8), (3, 0, 8), (1, 3, 8, 8)])
def test_a_wrong_shape_is_refused(shape):
    with pytest.raises(UserError, match="three positive integers"):
        hwgate.check(nn.ReLU(), shape, CONFIG)


@pytest.mark.parametrize("edge", [10**9, 10**30])
def test_images_too_large_to_look_at(edge):
    found = hwgate.check(network(conv=nn.Conv2d(3, 8, 3)), (3, edge, edge), CONFIG)
    assert found.obstacles == (f"Images of the shape 3x{edge}x{edge} are too large to export model "
                               "Sequential with; use smaller ones",)


@pytest.mark.parametrize("left, right, fits", [(0.1, 0.1, True), (1, 0.01, False)])
def test_sums_over_maps_side_by_side_are_left_to_quantize(left, right, fits):
    """Steps of the second map are a hundred times as coarse."""
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Conv2d(4, 8, 3, padding=1) for _ in range(2))
            self.c = nn.Conv2d(16, 8, 3, padding=1)
            for name, value in self.a.named_parameters():
                self.b.get_parameter(name).data = value.data * 100
            self.c.weight.data[:, :8], self.c.weight.data[:, 8:] = left, right

        def forward(self, x):
            return self.c(torch.cat([self.a(x).relu(), self.b(x).relu()], 1))

    torch.manual_seed(0)
    model, config = Net(), replace(CONFIG, formats=FormatConfig(accumulator=22))
    assert hwgate.check(model, (4, 8, 8), config).fits
    if fits:
        hwgate.quantize(model, torch.rand(8, 4, 8, 8), config, check="warn")
    else:
        with pytest.raises(UserError, match="^Layer 'c' can reach partial sums of "):
            hwgate.quantize(model, torch.rand(8, 4, 8, 8), config, check="warn")


def test_an_exported_program():
    model = network(conv=nn.Conv2d(3, 8, 3), large=nn.Conv2d(8, 8, 8, padding=2)).eval()
    program = torch.export.export(model, (torch.zeros(2, 3, 8, 8),))
    found = hwgate.check(program, (3, 8, 8), CONFIG)
    assert found == hwgate.check(model, (3, 8, 8), CONFIG) and len(found.obstacles) == 1
    with pytest.raises(UserError, match="^The model was exported for images of 3x8x8, not 3x9x9$"):
        hwgate.check(program, (3, 9, 9), CONFIG)


def test_what_is_no_model_is_refused():
    with pytest.raises(UserError, match="^A model must be a torch module"):
        hwgate.check("resnet20", (3, 8, 8), CONFIG)


def test_the_model_is_not_changed():
    model = network(conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), drop=nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert hwgate.check(model, (3, 8, 8), CONFIG).fits
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_plain_values_for_json():
    found = hwgate.check(network(conv=nn.Conv2d(160, 8, 3)), (160, 9, 9), CONFIG)
    values = found.to_dict()
    assert values["fits"] is False and values["obstacles"] == list(found.obstacles)
    assert AcceleratorConfig.from_dict(values["config"]) == found.config
    assert (values["line"], values["preset"]) == (found.line, "cifar")


@pytest.mark.parametrize("seed", range(8))
def test_the_line_of_any_configuration_makes_it(seed):
    rng = np.random.default_rng(seed)
    config = PRESETS[str(rng.choice(list(PRESETS)))]
    for name, values in (("buffers", {"passes": 1 << int(rng.integers(3, 10))}),
                         ("bus", {"data_bits": 128, "burst_beats": 32}),
                         ("formats", {"weight": int(rng.integers(2, 9))})):
        if rng.random() < 0.5:
            config = replace(config, **{name: replace(getattr(config, name), **values)})
    config = replace(config, lanes=int(rng.choice([1, 2, 16])))
    assert eval(preset_line(config), {"hwgate": hwgate}) == config


def test_nested_changes_of_a_preset():
    assert preset("cifar", buffers={"passes": 256}).buffers == replace(
        preset("cifar").buffers, passes=256)
    assert preset("cifar", buffers=BufferConfig()) == AcceleratorConfig()
    with pytest.raises(hwgate.ConfigError, match="^Preset 'cifar' cannot be changed so .*depth"):
        preset("cifar", buffers={"depth": 3})
    with pytest.raises(hwgate.ConfigError, match="^Configuration has no field 'rows'; there are "
                                                 "lanes, channels, formats, buffers, bus$"):
        preset("cifar", rows=3)
    with pytest.raises(hwgate.ConfigError, match="^Preset 'cifar' cannot be changed so "):
        preset("cifar", lanes={"passes": 256})
    with pytest.raises(hwgate.ConfigError, match="^Part 'buffers' of a configuration must be a "
                                                 "BufferConfig, not 3$"):
        preset("cifar", buffers=3)


@pytest.mark.parametrize("seed", range(4))
def test_random_networks_run_exactly_if_nothing_keeps_them_from_it(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    channels, modules = 4, []
    for _ in range(int(rng.integers(1, 4))):
        outputs, kernel = int(rng.choice([6, 24, 70])), int(rng.choice([1, 3, 5]))
        modules += [nn.Conv2d(channels, outputs, kernel, int(rng.choice([1, 2])), kernel // 2),
                    nn.BatchNorm2d(outputs), nn.ReLU()]
        modules += [nn.MaxPool2d(2)] * int(rng.integers(2))
        channels = outputs
    if rng.random() < 0.5:
        modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]
    images = torch.randn(2, 4, 48, 40)
    model = settle_norms(nn.Sequential(*modules), images).eval()
    quantized = hwgate.quantize(model, images, CONFIG, check="warn")
    for config in (CONFIG, with_buffers(window_words=32, passes=8)):
        found = hwgate.check(model, (4, 48, 40), config)
        try:
            hwgate.compile(replace(quantized, config=config))
            compiles = True
        except UserError:
            compiles = False
        assert found.fits == compiles
