"""What comes in is compared with the user's model, and refused where it does not follow."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hwgate
from hwgate.data.typical import typical_images
from hwgate.errors import CompileError, FidelityWarning, UserError
from hwgate.files.networks import load_network, save_network
from hwgate.machine.config import AcceleratorConfig, FormatConfig
from hwgate.nn.gated import GatedConv2d
from hwgate.nn.gates import set_density, settle_norms
from hwgate.quant.fidelity import limits

CONFIG = AcceleratorConfig()
torch.set_num_threads(1)  # tests run in parallel


def model(seed=0):
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5))
    return made.eval()


def images(count=16):
    return torch.rand(count, 4, 8, 8, generator=torch.manual_seed(1))


def test_ratios_are_those_of_the_layers():
    network = hwgate.quantize(model(), images(), CONFIG)
    found = network.fidelity
    assert [layer.name for layer in found.layers] == ["0", "3", "7"] and found.images == 16
    assert all(30 < layer.own < 60 and 25 < layer.through < 60 for layer in found.layers)
    assert found.layers[0].own == found.layers[0].through  # fed with the image both times
    with torch.no_grad():
        wanted = model()(images()).numpy()
    logits = network(images()) * network.layers[-1].out_scale
    ratio = 10 * np.log10(wanted.var() / np.square(wanted - logits).mean())
    assert found.layers[-1].through == pytest.approx(ratio, abs=1e-3)
    assert found.answers == (logits.argmax(1) == wanted.argmax(1)).mean()
    assert "of 16 calibration images answered as by the float model" in found.describe()


def test_a_layer_that_breaks_is_named(monkeypatch):
    """The second layer's integers are spoilt after folding."""
    fold = hwgate.frontend.fold.fold

    def spoilt(*args):
        network = fold(*args)
        layers = list(network.layers)
        weight = np.roll(layers[1].weight, 1, axis=1)
        layers[1] = hwgate.frontend.fold.replace(layers[1], weight=weight)
        return hwgate.frontend.fold.replace(network, layers=tuple(layers))

    monkeypatch.setattr(hwgate.frontend.fold, "fold", spoilt)
    with pytest.raises(CompileError, match=r"^Layer '3' keeps -?[0-9.]+ dB of signal to noise in "
                                           "integers, fed with what the float layer takes, and a "
                                           "layer must keep 10 dB at 8 bits; "):
        hwgate.quantize(model(), images(), CONFIG)
    with pytest.warns(FidelityWarning, match="^Layer '3' keeps"):
        network = hwgate.quantize(model(), images(), CONFIG, check="warn")
    assert network.fidelity.ignored and "ignored" in network.fidelity.describe()
    assert network.fidelity.worst.name == "3"


def test_few_bits_are_told_from_broken_ones():
    config = AcceleratorConfig(formats=FormatConfig(activation=4, weight=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FidelityWarning)
        network = hwgate.quantize(model(), images(), config, check="warn")
    ratios = [layer.own for layer in network.fidelity.layers]
    assert limits(config.formats) == (5.0, 7.5)
    assert all(limits(config.formats)[0] < ratio < 30 for ratio in ratios)


def test_the_archive_remembers(tmp_path):
    network = hwgate.quantize(model(), images(), CONFIG)
    save_network(tmp_path / "net.npz", network)
    assert load_network(tmp_path / "net.npz").fidelity == network.fidelity


def test_a_reading_that_differs_is_refused(monkeypatch):
    with pytest.raises(CompileError, match="^The model computes something else than was read"):
        hwgate.quantize(Alternating(), images(), CONFIG)


class Alternating(nn.Module):
    """Computes something else for a large batch, which no export can see."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.conv(x) * (2 if len(x) > 2 else 1)


def centred(made):
    """Each output is 0 on the mean, so that images differ in their class."""
    outputs = made(images()).detach()
    made[-1].bias.data -= outputs.mean((0, *range(2, outputs.ndim)))
    return made


def rules_out(made):
    """A class whose bias takes the range of all."""
    centred(made)[-1].bias.data[4] = -1e4
    return made


def of_a_map(made):
    made = centred(nn.Sequential(*list(made)[:3], nn.Conv2d(8, 4, 1)))
    made[-1].bias.data[0] = -1e4
    return made.eval()


@pytest.mark.parametrize("change", [rules_out, of_a_map])
def test_other_answers_are_told(change):
    """Where the ratios see signal: outputs far apart in every image."""
    with pytest.warns(FidelityWarning, match=r"follow the model loosely: \d"):
        network = hwgate.quantize(change(model()), images(), CONFIG)
    assert network.fidelity.answers < 0.9 and network.fidelity.worst.own > 20


class Gated(nn.Module):
    """A gated layer whose state its forward sets."""

    def __init__(self, sets):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.sets = GatedConv2d(8, 8, 3, padding=1, gate_groups=2), sets
        self.before = nn.Conv2d(4, 8, 3, padding=1)
        set_density(settle_norms(self, images()), images(), 0.4)

    def forward(self, x):
        return self.sets(self.conv, self.before(x).relu())


@pytest.mark.parametrize("sets", [
    lambda conv, x: setattr(conv, "force_open", True) or conv(x),
    lambda conv, x: setattr(conv, "force_open", True) or conv.forward(x),
    lambda conv, x: setattr(conv, "tau", 0.9) or conv(x),
    lambda conv, x: torch.func.functional_call(conv, {"delta": conv.delta + 3}, (x,))],
    ids=["open", "open, no hooks", "tau", "thresholds"])
def test_gates_that_the_forward_sets_are_refused(sets):
    made = Gated(lambda conv, x: conv(x))
    hwgate.quantize(made, images(), CONFIG)
    made.sets = sets
    with pytest.raises(CompileError, match="^Layer 'conv' runs with other thresholds or gates than "
                       "it has before the model runs; set them outside of its forward$"):
        hwgate.quantize(made, images(), CONFIG)


class Merges(nn.Linear):
    """Adds a matrix to its weights while it evaluates."""

    merged = False

    def train(self, mode=True):
        if mode == self.merged:
            self.weight.data += -1.0 if mode else 1.0
            self.merged = not mode
        return super().train(mode)


def test_weights_are_those_of_evaluation_mode():
    made = model()
    made[-1] = Merges(8, 5)
    wanted = hwgate.quantize(made.eval(), images(), CONFIG).layers[-1]
    found = hwgate.quantize(made.train(), images(), CONFIG).layers[-1]
    assert np.array_equal(found.weight, wanted.weight) and found.out_scale == wanted.out_scale
    assert made.training and not made[-1].merged


@pytest.mark.parametrize("form", [
    lambda x: x.numpy(), lambda x: x.double().numpy().astype(">f8"), lambda x: list(x),
    lambda x: [part.numpy() for part in x.split(5)], lambda x: x.split(7),
    lambda x: DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=6),
    lambda x: (part for part in x.split(4)), lambda x: x.to_sparse(),
    lambda x: torch.complex(x, -x).conj().imag],
    ids=["array", "big endian", "list", "arrays", "batches", "loader", "generator", "sparse",
         "negated"])
def test_images_in_any_form(form):
    np.testing.assert_array_equal(typical_images(form(images())), images().numpy())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_narrow_types_and_layouts():
    x = images()
    np.testing.assert_allclose(typical_images(x.to(torch.float8_e4m3fn)), x, rtol=0.1, atol=0.01)
    np.testing.assert_array_equal(typical_images(x[:, :, 0, 0].to_sparse_csr()), x[:, :, 0, 0])


def test_bytes_beside_floats():
    x = images(6)
    pixels = (x * 255).byte()
    found = typical_images([x[:2], pixels[2:4].numpy(), x[4:].double()])
    np.testing.assert_array_equal(found[2:4], pixels[2:4].numpy() / np.float32(255))
    np.testing.assert_array_equal(found[[0, 1, 4, 5]], x[[0, 1, 4, 5]])


@pytest.mark.parametrize("normalize, sentence", [
    ((float("nan"), 1), "A normalization must have finite numbers, not NaN or infinite"),
    ((0, [1, 1, 1, np.inf]), "A normalization must have finite numbers, not NaN or infinite"),
    (([0, 0], 1), "A normalization must have one number, or one of each of 4 channels, not 2"),
    ((0, 1e-45), "A normalization must keep images finite, which these standard deviations are "
     "too small for"),
    ((0, 1e-36), "The model's results on the calibration images are not finite; look at the range "
     "and the normalization of these")])
@pytest.mark.filterwarnings("ignore::hwgate.errors.FidelityWarning")
def test_normalizations_that_are_none(normalize, sentence):
    large = model()
    large[0].weight.data.mul_(1e6)
    with pytest.raises(UserError) as error:
        hwgate.quantize(large, images(), CONFIG, normalize=normalize)
    assert str(error.value) == sentence


def test_bytes_and_normalization():
    pixels = torch.randint(0, 256, (8, 4, 8, 8), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3, 0.2), (0.2, 0.3, 0.4, 0.5)
    floats = (pixels / 255 - torch.tensor(mean).view(4, 1, 1)) / torch.tensor(std).view(4, 1, 1)
    np.testing.assert_allclose(typical_images(pixels, (mean, std)), floats.numpy(), atol=1e-6)
    network = hwgate.quantize(model(), pixels, CONFIG, normalize=(mean, std))
    plain = hwgate.quantize(model(), floats, CONFIG)
    assert network.layers[0].in_scale == pytest.approx(plain.layers[0].in_scale, rel=1e-4)
    np.testing.assert_array_equal(network(pixels.numpy() / 255.0), plain(floats.double()))


def test_a_normalization_before_that_of_the_model():
    """An image passes both, in their order."""
    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model()

        def forward(self, x):
            return self.inner((x - 0.3) / 0.5)

    built = Normalized().eval()
    network = hwgate.quantize(built, images(), CONFIG, normalize=(0.2, 0.4))
    with torch.no_grad():
        wanted = built((images() - 0.2) / 0.4).numpy() / network.layers[-1].out_scale
    assert np.abs(network(images()) - wanted).max() < 4


@pytest.mark.parametrize("given, sentence", [
    (torch.zeros(2, 4, 8, 8), "Calibration images are all zero"),
    (torch.rand(2, 4, 8, 8) * 255, "Calibration images reach 25"),
    (torch.rand(1, 4, 8, 8), "Calibration images are a single image, "),
    (torch.rand(1, 4, 8, 8).expand(5, -1, -1, -1), "Calibration images are a single image, or "),
    (torch.rand(5, 4, 1, 1).expand(-1, -1, 8, 8), "Calibration images have no structure: "),
    (torch.rand(5, 4, 8, 8) * 1e-30, "Calibration images reach .*e-3. only; ")])
def test_ranges_that_look_wrong_are_said(given, sentence):
    with pytest.warns(FidelityWarning, match=f"^{sentence}"):
        typical_images(given)


@pytest.mark.parametrize("given, sentence", [
    ("images.npy", "Calibration images must be an array, a tensor or batches of them, not "
     "'images.npy'"),
    (3, "Calibration images must be an array, a tensor or batches of them, not 3"),
    ([], "A batch must have at least one image, not 0"),
    ([torch.zeros(4, 8, 8), torch.zeros(4, 9, 8)], "Calibration images must have one shape, not "),
    ([torch.zeros(2, 4, 8, 8), torch.zeros(3, 4, 8, 8), torch.zeros(2, 4, 9, 8)], "Calibration "
     "images must have one shape, not (4, 8, 8) and (4, 9, 8)"),
    ([(torch.zeros(4, 8, 8), torch.zeros(4, 8, 8))], "A batch of calibration images must be one "
     "array or tensor, with labels behind it, not several of the shape (4, 8, 8); stack them"),
    ([[]], "A batch must have at least one image, not 0"),
    ([torch.tensor(1.0)], "Calibration images must have the shape (N, C, H, W), or (N, C)"),
    (torch.zeros(2, 4, 8, 8, device="meta"), "Calibration images must be a tensor that NumPy can "
     "hold, not one of torch.float32 on the device meta"),
    (np.zeros((2, 4, 8, 8), np.int64), "Calibration images must be float or uint8, not int64")])
def test_images_that_are_none(given, sentence):
    with pytest.raises(UserError) as error:
        typical_images(given)
    assert str(error.value).startswith(sentence)
