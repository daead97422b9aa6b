"""Store on Verilator, against max pooling and the layout of feature maps."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BusConfig
from hwgate.rtl.store import Store
from hwgate.sim.block import run_block
from support.shares import rest_slow


@pytest.mark.parametrize("config", rest_slow([
    AcceleratorConfig(lanes=4, channels=4), AcceleratorConfig(lanes=8, channels=2),
    AcceleratorConfig(lanes=2, channels=8, bus=BusConfig(data_bits=64)),
    AcceleratorConfig(lanes=1, channels=2, bus=BusConfig(data_bits=64)),
]), ids=lambda c: f"lanes{c.lanes}-R{c.channels}-{c.bus.data_bits}bit")
def test_store_on_verilator(config):
    run_block(Store(config), Path(__file__).with_name("bench_store.py"),
              parameters={"config": config.to_dict()})
