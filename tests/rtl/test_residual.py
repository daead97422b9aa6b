"""ResidualLoader on Verilator, against the place of every output in the columns."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BusConfig
from hwgate.rtl.residual import ResidualLoader
from hwgate.sim.block import run_block
from support.shares import rest_slow


@pytest.mark.parametrize("config", rest_slow([
    AcceleratorConfig(), AcceleratorConfig(lanes=2, channels=8, bus=BusConfig(data_bits=64)),
    AcceleratorConfig(lanes=8, channels=2, bus=BusConfig(data_bits=64)),
]), ids=lambda c: f"lanes{c.lanes}-R{c.channels}-{c.bus.data_bits}bit")
def test_residual_on_verilator(config):
    run_block(ResidualLoader(config), Path(__file__).with_name("bench_residual.py"),
              parameters={"config": config.to_dict()})
