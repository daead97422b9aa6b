"""The names that users import."""

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

import hwgate
from hwgate.show.packages import LEVELS

ROOT = Path(__file__).resolve().parents[1]

#: What users import, by the package that they import it from.
NAMES = {
    "hwgate": "AcceleratorConfig Check Comparison ConfigError Conversion MemoryTiming Program "
              "UserError check compare compile estimate gate load preset quantize save simulate "
              "verilog",
    "hwgate.bench": "MACS PEERS Peer SHAPES dense_layer main",
    "hwgate.boards": "Netlist PARTS Part Resources Routing Synthesis Timing estimate route "
                     "synthesize",
    "hwgate.cli": "app main",
    "hwgate.compiler": "Alternative Binding Choice Explanation Program Step balance compile "
                       "densities explain",
    "hwgate.cost": "estimate",
    "hwgate.data": "DATASETS DataSet Split load_dataset load_digits load_images",
    "hwgate.evaluation": "Accuracy DEFINITIONS Evaluation Figures Pair Point Scores evaluate "
                         "measure score_network simulate_and_estimate sweep",
    "hwgate.files": "load_network read_safetensors save_network write_atomic write_safetensors",
    "hwgate.frontend": "Block Check Graph Node check lower quantize read_torch simplify",
    "hwgate.machine": "AcceleratorConfig BufferConfig Bus BusConfig ConfigError Driver EngineError "
                      "ErrorCause FormatConfig LANE_COUNTERS MemoryTiming PRESETS STREAMS Status "
                      "descriptor_layout engine_registers header_layout preset",
    "hwgate.nn": "BasicBlock ChannelShuffle Conversion GatedConv2d Gating LayerMacs LeftLayer "
                 "MacCounter MacSummary PaddingShortcut ResNet VGG count_macs digits_network "
                 "distillation_loss fitting_groups force_open gate gated_layers incoherence "
                 "kept_gates lenet load_cgconv load_reference_resnet20 mac_summary "
                 "parameter_groups read_cgconv resnet18 resnet20 set_density settle_norms "
                 "threshold_loss vgg16",
    "hwgate.plan": "Candidate DENSITY Goal Job LayerPlan Lifetime OBJECTIVES StoredMap Tiling "
                   "candidates plan_layer split_rows",
    "hwgate.results": "Comparison Difference LayerComparison LayerResult RunResult compare",
    "hwgate.schedule": "LayerSchedule OpenPixels end_cycles schedule_layer",
    "hwgate.show": "Line Panel Pictures console new_table write_report",
    "hwgate.train": "Agreement BudgetLoss Demo Epoch FakeQuantized NetworkCost Recipe Run "
                    "TrainedDigits agreement build load_model load_recipe load_teacher "
                    "measure_costs recipe_names run_demo run_recipe save_model score start_from "
                    "train train_digits",
    "hwgate.zoo": "baseline epochs load names path results trained",
}


def _stub(package):
    """Module that defines each name, as the stub beside a package's ``__init__`` says."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.pyi").read_text())
    return {alias.name: f"{package}.{node.module}" for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) for alias in node.names}


@pytest.mark.parametrize("name", hwgate.__all__)
def test_no_public_name_is_a_module(name):
    # Importing a submodule sets it as attribute of the package, and would replace the function.
    assert find_spec(f"hwgate.{name}") is None


@pytest.mark.parametrize("name", hwgate.__all__)
def test_public_names_lead_to_their_modules(name):
    value = getattr(hwgate, name)
    assert value is getattr(import_module(_stub("hwgate")[name]), name)
    assert getattr(hwgate, name) is value


@pytest.mark.parametrize("package", NAMES)
def test_packages_export_what_users_import(package):
    module, names = import_module(package), NAMES[package].split()
    assert sorted(module.__all__) == sorted(names) == sorted(_stub(package))
    for name, home in _stub(package).items():
        # A function may be named like its module, which may be imported before or after it.
        assert getattr(module, name) is getattr(import_module(home), name)
        assert getattr(module, name) is getattr(import_module(home), name)


def test_all_packages_are_listed():
    folders = {f"hwgate.{name}" for level in LEVELS for name in level}
    assert folders - {"hwgate.errors", "hwgate.quant", "hwgate.rtl", "hwgate.sim"} | {
        "hwgate"} == set(NAMES)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="^No hwgate attribute simulator$"):
        hwgate.simulator  # noqa: B018


def test_the_console_script_is_the_command_line():
    script, = entry_points(group="console_scripts", name="hwgate")
    assert script.load() is import_module("hwgate.cli.main").main


@pytest.mark.parametrize("module", [
    "hwgate.bench", "hwgate.bench.accuracy", "hwgate.cli", "hwgate.show.docs", "hwgate.zoo"])
def test_programs_explain_themselves(module):
    done = subprocess.run([sys.executable, "-W", "error", "-m", module, "--help"],
                          capture_output=True, text=True, check=True)
    assert "usage" in done.stdout.lower() and not done.stderr
