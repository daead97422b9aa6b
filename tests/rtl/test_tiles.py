"""TileQueue on Verilator, against the addresses that its layout describes."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BusConfig
from hwgate.rtl.tiles import TileQueue
from hwgate.sim.block import run_block
from support.shares import rest_slow


@pytest.mark.parametrize("config", rest_slow([
    AcceleratorConfig(), AcceleratorConfig(lanes=8, channels=2),
    AcceleratorConfig(lanes=2, channels=8, bus=BusConfig(data_bits=64)),
]), ids=lambda c: f"lanes{c.lanes}-R{c.channels}-{c.bus.data_bits}bit")
def test_tiles_on_verilator(config):
    run_block(TileQueue(config), Path(__file__).with_name("bench_tiles.py"),
              parameters={"config": config.to_dict()})
