"""Wrong types for the public functions: one sentence, never a traceback from deep inside."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import nn

import hwgate
from hwgate.compiler import balance, explain
from hwgate.data import load_dataset
from hwgate.errors import UserError
from hwgate.files.tensors import write_safetensors
from hwgate.machine.config import BufferConfig, BusConfig, FormatConfig
from hwgate.nn import (
    ChannelShuffle,
    GatedConv2d,
    PaddingShortcut,
    distillation_loss,
    fitting_groups,
    gated_layers,
    load_cgconv,
    mac_summary,
    parameter_groups,
    read_cgconv,
    set_density,
    settle_norms,
    threshold_loss,
)
from hwgate.plan import Goal
from hwgate.train import (
    BudgetLoss,
    FakeQuantized,
    agreement,
    build,
    load_model,
    load_recipe,
    load_teacher,
    measure_costs,
    run_demo,
    run_recipe,
    save_model,
    score,
    start_from,
    train,
    train_digits,
)
from hwgate.zoo import networks as zoo
from support import fakes

CONFIG = hwgate.preset("digits")
IMAGES = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
NO_CONFIG = "must be an AcceleratorConfig, not {}; hwgate.preset makes one"


class Model(nn.Sequential):
    """A class where an instance is wanted."""


@cache
def network():
    return fakes.network(hwgate.preset("tiny"))


@cache
def program():
    return hwgate.compile(network())


@cache
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                         nn.Linear(144, 3)).eval()


@cache
def recipe():
    return load_recipe("digits")


def case(function, sentence):
    return pytest.param(function, sentence, id=sentence)


def quantize(*first, **named):
    return lambda: hwgate.quantize(*first, *(model(), IMAGES, CONFIG)[len(first):], **named)


def gate(**named):
    return lambda: hwgate.gate(named.pop("model", None) or model(), **named)


def compiled(**named):
    return lambda: hwgate.compile(network(), **named)


@pytest.mark.parametrize("call, sentence", [
    # Front end
    case(quantize("resnet20"), "A model must be a torch module or an exported program, not "
         "'resnet20'"),
    case(quantize(Model), "A model must be a torch module or an exported program, not the class "
         "Model"),
    case(quantize(None), "A model must be a torch module or an exported program, not None"),
    case(lambda: hwgate.quantize(model(), IMAGES, "digits"),
         "Configuration " + NO_CONFIG.format("'digits'")),
    case(lambda: hwgate.quantize(model(), IMAGES, None),
         "Configuration " + NO_CONFIG.format("None")),
    case(lambda: hwgate.quantize(model(), IMAGES, hwgate.AcceleratorConfig),
         "Configuration " + NO_CONFIG.format("the class AcceleratorConfig")),
    case(lambda: hwgate.quantize(model(), None, CONFIG), "Calibration images must be an array, a "
         "tensor or batches of them, not None"),
    case(lambda: hwgate.quantize(model(), "images.npy", CONFIG), "Calibration images must be an "
         "array, a tensor or batches of them, not 'images.npy'"),
    case(lambda: hwgate.quantize(model(), torch.Tensor, CONFIG), "Calibration images must be an "
         "array, a tensor or batches of them, not the class Tensor"),
    case(lambda: hwgate.quantize(model(), [[1.0, 2.0]], CONFIG), "Calibration images must be an "
         "array, a tensor or batches of them, not 1.0"),
    case(lambda: hwgate.quantize(model(), 1j * IMAGES, CONFIG),
         "Calibration images must be float or uint8, not complex64"),
    case(lambda: hwgate.quantize(model(), np.array([["a"]]), CONFIG),
         "Calibration images must be float or uint8, not <U1"),
    case(quantize(normalize=0.5), "A normalization must be a mean and a standard deviation, not "
         "0.5"),
    case(quantize(normalize=(0, 1, 2)), "A normalization must be a mean and a standard deviation, "
         "not a tuple"),
    case(quantize(normalize=("a", 1)), "A normalization must have numbers, not 'a'"),
    case(quantize(normalize=(0, 0)), "A normalization must have standard deviations other than 0"),
    case(quantize(check=np.zeros(2)), "Check must be a text, not a NumPy array"),
    case(quantize(check=None), "Check must be a text, not None"),
    case(lambda: hwgate.check(model(), (1, 8, 8), "digits"),
         "Configuration " + NO_CONFIG.format("'digits'")),
    case(lambda: hwgate.check(model(), (1, 8, 8), hwgate.AcceleratorConfig),
         "Configuration " + NO_CONFIG.format("the class AcceleratorConfig")),
    case(lambda: hwgate.check(model(), "1x8x8", CONFIG), "Shape of an image must be a tuple or a "
         "list, not '1x8x8'"),
    case(lambda: hwgate.check(model(), (1, 8.0, 8), CONFIG), "Size of an image must be an integer, "
         "not 8.0"),
    case(lambda: hwgate.check(model(), (True, 8, 8), CONFIG), "Size of an image must be an "
         "integer, not True"),
    case(gate(model=Model), "Model to gate must be a torch module, not the class Model"),
    case(gate(model="resnet"), "Model to gate must be a torch module, not 'resnet'"),
    case(gate(groups=4.0), "Gate group count must be an integer, not 4.0"),
    case(gate(groups=True), "Gate group count must be an integer, not True"),
    case(gate(groups=None), "Gate group count must be an integer, not None"),
    case(gate(skip="0"), "Modules to skip must be a list or a tuple or a set or a frozenset, not "
         "'0'"),
    case(gate(images="images"), "Calibration images must be an array, a tensor or "
         "batches of them, not 'images'"),
    case(gate(images=IMAGES, density="half"), "Density must be a number, not 'half'"),
    case(gate(config="digits"), "Configuration " + NO_CONFIG.format("'digits'")),
    case(gate(share=2.5), "Share must be an integer, not 2.5"),
    case(gate(tau=None), "Tau must be a number, not None"),
    case(gate(grouping=1), "Grouping must be true or false, not 1"),
    case(lambda: GatedConv2d(8.0, 8, 3), "Input channel count of a gated layer must be an "
         "integer, not 8.0"),
    case(lambda: GatedConv2d(8, "8", 3), "Output channel count of a gated layer must be an "
         "integer, not '8'"),
    case(lambda: GatedConv2d(8, 8, 3, gate_groups=None), "Gate group count of a gated layer must "
         "be an integer, not None"),
    case(lambda: GatedConv2d(8, 8, 3, alpha="steep"), "Alpha of a gate must be a number, not "
         "'steep'"),
    case(lambda: GatedConv2d(8, 8, "3"), "Kernel size of a gated layer must be an integer or a "
         "tuple or a list, not '3'"),
    case(lambda: GatedConv2d(8, 8, (3, 3, 3)), "Kernel size of a gated layer must be one number or "
         "two, not 3"),
    case(lambda: GatedConv2d(8, 8, 3, (1, 0.5)), "Stride of a gated layer must be an integer, not "
         "0.5"),
    case(lambda: GatedConv2d(8, 8, 3, padding="foo"), "Padding of a gated layer must be same or "
         "valid, or numbers, not 'foo'"),
    case(lambda: GatedConv2d(8, 8, 3, 2, "same"), "Stride of a gated layer with padding 'same' "
         "must be 1, not 2"),
    case(lambda: GatedConv2d(-8, 8, 3), "Input channel count of a gated layer must be positive, "
         "not -8"),
    case(lambda: GatedConv2d(8, 8, 3, grouping="no"), "Grouping of a gate must be true or false, "
         "not 'no'"),
    case(lambda: PaddingShortcut("a", 2), "Input channel count of a padding shortcut must be an "
         "integer, not 'a'"),
    case(lambda: ChannelShuffle("a"), "Group count of a shuffle must be an integer, not 'a'"),
    case(lambda: ChannelShuffle(3)(torch.zeros(1, 4, 2, 2)), "Group count of a shuffle must divide "
         "the 4 channels, which 3 does not"),
    case(lambda: mac_summary("m", IMAGES), "Model must be a torch module, not 'm'"),
    case(lambda: mac_summary(model(), "x"), "Images must be a tensor, not 'x'; torch.as_tensor "
         "makes one of an array"),
    case(lambda: parameter_groups("m", 1), "Model must be a torch module, not 'm'"),
    case(lambda: threshold_loss(model(), "a"), "Target of thresholds must be a number, not 'a'"),
    case(lambda: distillation_loss(1, 2, 3), "Logits must be a tensor, not 1"),
    case(lambda: fitting_groups("a", 2, 3), "Gate group count must be an integer, not 'a'"),
    case(lambda: set_density(model(), torch.zeros(1, 4, 8, 8), 0.5), "The model does not run on "
         "images of the shape (1, 4, 8, 8): Given groups=1, weight of size [4, 1, 3, 3], expected "
         "input[1, 4, 8, 8] to have 1 channels, but got 4 channels instead"),
    case(gate(skip=[["0"]]), "Module to skip must be a text, not a list"),
    case(lambda: read_cgconv(None), "State of a layer must be a mapping, not None"),
    case(lambda: read_cgconv({}, 3), "Prefix of a layer must be a text, not 3"),
    case(lambda: read_cgconv({"mask": IMAGES}), "Tensor 'mask' of the state must be a tensor, not "
         "a NumPy array"),
    case(lambda: load_cgconv("m", {}), "Model must be a torch module, not 'm'"),
    case(lambda: load_cgconv(model(), None), "State of a network must be a mapping, not None"),
    case(lambda: set_density(model(), IMAGES, 0.5), "Images must be a tensor, not a NumPy array; "
         "torch.as_tensor makes one of an array"),
    case(lambda: set_density(model(), torch.as_tensor(IMAGES), "0.5"),
         "Density must be a number, not '0.5'"),
    case(lambda: settle_norms(Model, torch.as_tensor(IMAGES)),
         "Model must be a torch module, not the class Model"),
    case(lambda: list(gated_layers("model")), "Model must be a torch module, not 'model'"),
    # Compiler and runs
    case(lambda: hwgate.compile("net.npz"), "Network to compile must be a QuantizedNetwork, not "
         "'net.npz'; hwgate.quantize makes one"),
    case(lambda: hwgate.compile(model()), "Network to compile must be a QuantizedNetwork, not a "
         "Sequential; hwgate.quantize makes one"),
    case(compiled(config="cifar"), "Configuration " + NO_CONFIG.format("'cifar'")),
    case(compiled(dense="yes"), "Dense must be true or false, not 'yes'"),
    case(compiled(images_per_tile=2.0), "Images per tile must be a positive integer or None, not "
         "2.0"),
    case(compiled(objective=["bytes"]), "Objective must be a text, not a list"),
    case(compiled(density="low"), "Density must be a number or a mapping, not 'low'"),
    case(compiled(density=True), "Density must be a number or a mapping, not True"),
    case(compiled(density={"conv1": "low"}), "Density of layer 'conv1' must be a number, not "
         "'low'"),
    case(compiled(timing=30), "Timing must be a MemoryTiming, not 30"),
    case(lambda: Goal(timing=None), "Timing must be a MemoryTiming, not None"),
    *(case(partial(call, network(), IMAGES), "Program must be a Program, not a QuantizedNetwork; "
           "hwgate.compile makes one") for call in (hwgate.estimate, hwgate.simulate)),
    *(case(lambda call=call: call(program(), IMAGES, "slow"), "Timing must be a MemoryTiming, not "
           "'slow'") for call in (hwgate.estimate, hwgate.simulate)),
    *(case(lambda images=images: hwgate.estimate(program(), images),
           f"Images must be an array or a tensor, not {what}")
      for images, what in ((None, "None"), ("images.npy", "'images.npy'"),
                           (torch.Tensor, "the class Tensor"), (object(), "an object"))),
    case(lambda: hwgate.estimate(program(), [[1.0], [2.0, 3.0]]), "Images must be an array, or a "
         "tensor on the CPU of a type that NumPy has, not a list"),
    case(lambda: hwgate.estimate(program(), torch.zeros(1, 1, 8, 8).bfloat16()), "Images must be "
         "an array, or a tensor on the CPU of a type that NumPy has, not a tensor"),
    case(lambda: hwgate.estimate(program(), 3), "Images must be float or int8, not int64"),
    case(lambda: hwgate.simulate(program(), IMAGES, deadline=1.5), "Deadline must be an integer, "
         "not 1.5"),
    case(lambda: hwgate.simulate(program(), IMAGES, waves=3), "Path of waveforms must be a text or "
         "a path, not 3"),
    case(lambda: hwgate.compare(program(), fakes.run(network())), "Run to compare must be a "
         "RunResult, not a Program; hwgate.simulate and hwgate.estimate make one"),
    case(lambda: hwgate.compare(fakes.run(network()), None), "Run to compare must be a RunResult, "
         "not None; hwgate.simulate and hwgate.estimate make one"),
    case(lambda: hwgate.verilog("digits"), "Configuration " + NO_CONFIG.format("'digits'")),
    case(lambda: explain(network()), "Program must be a Program, not a QuantizedNetwork; "
         "hwgate.compile makes one"),
    case(lambda: explain(program(), 1.0), "Image count must be an integer, not 1.0"),
    case(lambda: balance(program(), IMAGES), "Network to balance must be a QuantizedNetwork, not a "
         "Program; hwgate.quantize makes one"),
    # Files
    case(lambda: hwgate.save(network(), "net.npz"), "Path of a network file must be a text or a "
         "path, not a QuantizedNetwork"),
    case(lambda: hwgate.save("net.npz", model()), "Network to save must be a QuantizedNetwork, not "
         "a Sequential; hwgate.quantize makes one"),
    case(lambda: hwgate.load(None), "Path of a network file must be a text or a path, not None"),
    case(lambda: hwgate.load(3), "Path of a network file must be a text or a path, not 3"),
    # Configurations
    case(lambda: hwgate.preset(None), "There is no preset None; there are cifar, digits, resident, "
         "small, tiny, ulx3s, wide"),
    case(lambda: hwgate.preset(["digits"]), "There is no preset a list; there are cifar, digits, "
         "resident, small, tiny, ulx3s, wide"),
    case(lambda: hwgate.preset("digits", speed=3), "Configuration has no field 'speed'; there are "
         "lanes, channels, formats, buffers, bus"),
    case(lambda: hwgate.preset("digits", lanes=4.0), "Lane count must be a power of two, not 4.0"),
    case(lambda: hwgate.AcceleratorConfig(lanes="4"), "Lane count must be a power of two, not "
         "'4'"),
    case(lambda: hwgate.AcceleratorConfig(channels=None), "Channel count of a group must be a "
         "power of two, not None"),
    case(lambda: hwgate.AcceleratorConfig(bus=128), "Part 'bus' of a configuration must be a "
         "BusConfig, not 128"),
    case(lambda: hwgate.AcceleratorConfig(formats=FormatConfig), "Part 'formats' of a "
         "configuration must be a FormatConfig, not the class FormatConfig"),
    case(lambda: hwgate.AcceleratorConfig.from_dict("digits"), "Configuration must be a "
         "dictionary, not 'digits'"),
    case(lambda: hwgate.AcceleratorConfig.from_dict({"bus": 128}), "Part 'bus' of a configuration "
         "must be a dictionary, not 128"),
    case(lambda: FormatConfig(weight=8.0), "Weight width must be in 2..8, not 8.0"),
    case(lambda: BufferConfig(map_bytes=False), "Bytes of on-chip map memory must be a power of "
         "two, not False"),
    case(lambda: BufferConfig(passes=None), "Pass count of a job must be a power of two, not "
         "None"),
    case(lambda: BusConfig(data_bits=64.0), "Bus width must be 64 or 128 bits, not 64.0"),
    case(lambda: hwgate.MemoryTiming(read_latency="30"), "Read latency must be in 2..1023, not "
         "'30'"),
    case(lambda: hwgate.MemoryTiming(shared=1), "Shared bus must be true or false, not 1"),
    case(lambda: replace(network(), config="digits"), "Configuration of a network must be an "
         "AcceleratorConfig, not 'digits'"),
    case(lambda: replace(network(), layers=()), "A network must have at least one layer, not 0"),
    case(lambda: replace(network(), layers=[*network().layers]), "Layers of a network must be a "
         "tuple, not a list"),
    case(lambda: replace(network(), layers=(model(),)), "Layer 0 of a network must be a "
         "QuantizedLayer, not a Sequential"),
    case(lambda: replace(network(), fidelity=1.0), "Fidelity of a network must be a Fidelity, not "
         "1.0"),
    case(lambda: replace(network(), image_std="a"), "Field 'image_std' of a network must be one "
         "finite number, or one of each of 1 channels, and not 0"),
    # Zoo
    *(case(partial(call, name), f"Name of a network must be a text, not {what}")
      for call in (zoo.load, zoo.results, zoo.path, zoo.epochs, zoo.baseline)
      for name, what in ((None, "None"), (np.zeros(2), "a NumPy array"))),
    # Training
    case(lambda: train(Model, None, recipe()), "Model to train must be a torch module, not the "
         "class "
         "Model"),
    case(lambda: train(model(), IMAGES, recipe()), "Data to train on must be a DataSet, not a "
         "NumPy array; load_dataset reads one"),
    case(lambda: train(model(), load_dataset("digits"), "digits"), "Recipe must be a Recipe, not "
         "'digits'; load_recipe reads one"),
    case(lambda: score(model(), load_dataset("digits"), IMAGES), "Images to score on must be a "
         "Split, not a NumPy array; a data set has them as train and test"),
    case(lambda: load_recipe(3), "Recipe to load must be a text or a path, not 3"),
    case(lambda: build("digits"), "Recipe must be a Recipe, not 'digits'; load_recipe reads one"),
    case(lambda: build(recipe(), 10.0), "Class count must be an integer, not 10.0"),
    case(lambda: run_recipe("digits", "runs"), "Recipe must be a Recipe, not 'digits'; load_recipe "
         "reads one"),
    case(lambda: run_recipe(recipe(), None), "Folder of a run must be a text or a path, not None"),
    case(lambda: save_model("m", network(), recipe()), "Model to save must be a torch module, "
         "not a QuantizedNetwork"),
    case(lambda: load_model(None), "Path of a model file must be a text or a path, not None"),
    case(lambda: load_teacher(model()), "Network to take must be a text, not a Sequential"),
    case(lambda: start_from("mnist", "mnist"), "Model to start must be a torch module, not "
         "'mnist'"),
    case(lambda: train_digits(seed="one"), "Seed must be an integer, not 'one'"),
    case(lambda: train_digits(epochs=1.5), "Epoch count must be an integer, not 1.5"),
    case(lambda: run_demo("digits"), "Configuration " + NO_CONFIG.format("'digits'")),
    case(lambda: run_demo(CONFIG, images=2.5), "Image count must be an integer, not 2.5"),
    case(lambda: FakeQuantized(Model, IMAGES, CONFIG), "Model to fine-tune must be a torch "
         "module, not "
         "the class Model"),
    case(lambda: FakeQuantized(model(), IMAGES, "digits"),
         "Configuration " + NO_CONFIG.format("'digits'")),
    case(lambda: agreement(model(), network(), IMAGES), "Model must be a FakeQuantized, not a "
         "Sequential"),
    case(lambda: measure_costs(model(), None, CONFIG), "Images must be a tensor or a NumPy "
         "array, not "
         "None"),
    case(lambda: BudgetLoss("cycles", 3.0, 0.5), "Cost must be a NetworkCost, not 3.0; "
         "measure_costs makes one"),
])
def test_wrong_types_are_one_sentence(call, sentence):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value) == sentence


@pytest.mark.parametrize("call", [
    hwgate.load, lambda path: hwgate.save(path, network()), load_model, load_recipe,
    lambda path: save_model(path, model(), recipe())])
def test_a_folder_is_no_file(call, tmp_path):
    with pytest.raises(UserError) as error:
        call(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for call in (lambda path: run_recipe(recipe(), path),
                 lambda path: hwgate.save(path / "net.npz", network())):
        with pytest.raises(UserError):
            call(tmp_path / "file")


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000], ids=["zero", "long"])
@pytest.mark.parametrize("call", [
    hwgate.load, lambda path: hwgate.save(path, network()), load_model, load_teacher, load_recipe,
    lambda path: save_model(path, model(), recipe())])
def test_names_that_no_file_can_have(call, name):
    with pytest.raises(UserError, match="does not exist|cannot be (read|written)|There is no "):
        call(name)


@pytest.mark.parametrize("text", ["3", "[]", "{", '{"network": 3}'])
def test_a_model_file_of_another_kind(text, tmp_path):
    write_safetensors(tmp_path / "net", {"a": torch.zeros(1)}, {"recipe": text})
    with pytest.raises(UserError, match="is no network that `hwgate train` wrote$"):
        load_model(tmp_path / "net")


def test_what_is_alike_is_taken():
    """NumPy's integers and floats, tensors for arrays, lists for tuples."""
    assert isinstance(GatedConv2d(np.int64(8), 8, 3, alpha=np.float32(2), gate_groups=4),
                      nn.Conv2d)
    wanted = hwgate.estimate(program(), IMAGES)
    assert hwgate.compare(hwgate.estimate(program(), torch.as_tensor(IMAGES)), wanted).equal
    assert hwgate.compare(hwgate.estimate(program(), IMAGES.tolist()), wanted).equal
    assert hwgate.compile(network(), density=np.float64(0.5)).goal.density == 0.5
