"""Sequencer on Verilator, against the log of events that each run's inputs call for."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BusConfig
from hwgate.rtl.sequencer import Sequencer
from hwgate.sim.block import run_block
from support.shares import rest_slow


@pytest.mark.parametrize("config", rest_slow([
    AcceleratorConfig(), AcceleratorConfig(lanes=2, bus=BusConfig(data_bits=64)),
    AcceleratorConfig(channels=2, bus=BusConfig(address_bits=20)),
]), ids=lambda c: f"{c.bus.data_bits}bit-{c.bus.address_bits}addr")
def test_sequencer_on_verilator(config):
    run_block(Sequencer(config), Path(__file__).with_name("bench_sequencer.py"),
              parameters={"config": config.to_dict()})
