"""Lane against the golden model of a layer, with random weights, gates and delays."""

from pathlib import Path

import pytest

from hwgate.rtl.lane import Lane
from hwgate.sim.block import run_block
from support.control import CONFIGS, Together
from support.shares import rest_slow

#: All tests of the bench but the longest, for which random layers on the engine stand.
MOST = r"(?!gates_of_slices$|slices_of_any_layer$|residual_operands$)\w+"


@pytest.mark.parametrize("config,tests", rest_slow(
    {"1x18-most": (CONFIGS["1x18"], MOST)} | {name: (config, None)
                                              for name, config in CONFIGS.items()}))
def test_lane_on_verilator(config, tests):
    run_block(Together(u=Lane(config)), Path(__file__).with_name("bench_lane.py"),
              test_case=tests, parameters={"config": config.to_dict()})
