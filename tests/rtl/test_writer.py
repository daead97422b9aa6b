"""Writer on Verilator, against a scoreboard that knows its contract for every cycle."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BusConfig
from hwgate.rtl.writer import Writer
from hwgate.sim.block import run_block
from support.shares import rest_slow


@pytest.mark.parametrize("bus", rest_slow([
    BusConfig(), BusConfig(data_bits=64, burst_beats=16), BusConfig(burst_beats=64,
                                                                    address_bits=16),
]), ids=lambda bus: f"{bus.data_bits}bit-{bus.burst_beats}beats")
def test_writer_on_verilator(bus):
    config = AcceleratorConfig(bus=bus)
    run_block(Writer(config), Path(__file__).with_name("bench_writer.py"),
              parameters={"config": config.to_dict()})
