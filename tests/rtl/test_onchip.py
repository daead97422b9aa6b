"""On-chip map memory on Verilator, against a scoreboard that knows its contract for every cycle."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BufferConfig, BusConfig
from hwgate.rtl.onchip import MapMemory
from hwgate.sim.block import run_block
from support.shares import rest_slow


@pytest.mark.parametrize("sources, size, bits", rest_slow([
    (2, 1 << 12, 128), (1, 1 << 12, 64), (2, 1 << 14, 64), (3, 1 << 16, 128)], quick=2))
def test_map_memory_on_verilator(sources, size, bits):
    config = AcceleratorConfig(buffers=BufferConfig(map_bytes=size), bus=BusConfig(data_bits=bits))
    run_block(MapMemory(config, sources), Path(__file__).with_name("bench_onchip.py"),
              parameters={"config": config.to_dict(), "sources": sources})
