"""WindowMemory against its golden model, on Verilator."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BufferConfig, BusConfig
from hwgate.rtl.window import WindowMemory
from hwgate.sim.block import run_block
from support.shares import rest_slow

BENCH = Path(__file__).with_name("bench_window.py")


@pytest.mark.parametrize("channels, window_words, bus", rest_slow(
    [(4, 256, 128), (2, 16, 64), (16, 64, 128)]))
def test_window(channels, window_words, bus):
    config = AcceleratorConfig(channels=channels, bus=BusConfig(data_bits=bus),
                               buffers=BufferConfig(window_words=window_words))
    run_block(WindowMemory(config), BENCH, parameters={"config": config.to_dict()})
