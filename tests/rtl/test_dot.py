"""DotProduct against its golden model, on Verilator."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, FormatConfig
from hwgate.rtl.dot import DotProduct
from hwgate.sim.block import run_block
from support.shares import rest_slow

BENCH = Path(__file__).with_name("bench_dot.py")


@pytest.mark.parametrize("channels, activation, weight", rest_slow(
    [(4, 8, 8), (2, 4, 8), (8, 8, 3)], quick=2))
def test_dot(channels, activation, weight):
    config = AcceleratorConfig(channels=channels, formats=FormatConfig(activation=activation,
                                                                       weight=weight))
    run_block(DotProduct(config), BENCH, parameters={"config": config.to_dict()})
