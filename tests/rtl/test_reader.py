"""Reader on Verilator, against a scoreboard that knows its contract for every cycle."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BufferConfig, BusConfig
from hwgate.rtl.reader import Reader
from hwgate.sim.block import run_block
from support.shares import rest_slow


@pytest.mark.parametrize("sources, bus, kept", rest_slow([
    (4, BusConfig(address_bits=20), 0), (3, BusConfig(data_bits=64, burst_beats=16), 1 << 10),
    (2, BusConfig(data_bits=64, burst_beats=16), 0), (10, BusConfig(burst_beats=64), 0),
    (10, BusConfig(), 1 << 12),
], quick=2), ids=lambda value: value if isinstance(value, int) else f"{value.data_bits}bit")
def test_reader_on_verilator(sources, bus, kept):
    config = AcceleratorConfig(bus=bus, buffers=BufferConfig(weight_bytes=kept))
    run_block(Reader(config, sources), Path(__file__).with_name("bench_reader.py"),
              parameters={"config": config.to_dict(), "sources": sources})
