"""Reader on Verilator, against a scoreboard that knows its contract for every cycle."""

from pathlib import Path

import pytest

from hwgate.config import AcceleratorConfig, BusConfig
from hwgate.rtl.reader import Reader
from hwgate.sim.block import run_block


@pytest.mark.parametrize("sources, bus", [
    (2, BusConfig(data_bits=64, burst_beats=16)), (4, BusConfig(address_bits=20)),
    (10, BusConfig(burst_beats=64)),
], ids=lambda value: value if isinstance(value, int) else f"{value.data_bits}bit")
def test_reader_on_verilator(sources, bus):
    config = AcceleratorConfig(bus=bus)
    run_block(Reader(config, sources), Path(__file__).with_name("bench_reader.py"),
              parameters={"config": config.to_dict(), "sources": sources})
