"""Lane against the golden model of a layer, with random weights, gates and delays."""

from pathlib import Path

import pytest

from hwgate.rtl.lane import Lane
from hwgate.sim.block import run_block
from support.control import CONFIGS, Together
from support.shares import rest_slow


@pytest.mark.parametrize("config", rest_slow(CONFIGS))
def test_lane_on_verilator(config):
    run_block(Together(u=Lane(config)), Path(__file__).with_name("bench_lane.py"),
              parameters={"config": config.to_dict()})
