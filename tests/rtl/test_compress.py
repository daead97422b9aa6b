"""Compress and Decompress on Verilator, against the golden model."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BusConfig
from hwgate.rtl.compress import Compress
from hwgate.rtl.decompress import Decompress
from hwgate.rtl.tiles import TILE_QUEUE
from hwgate.sim.block import run_block
from support.shares import rest_slow

each_config = pytest.mark.parametrize("config", rest_slow([
    AcceleratorConfig(), AcceleratorConfig(lanes=2, channels=8, bus=BusConfig(data_bits=64)),
]), ids=lambda c: f"{c.bus.data_bits}bit")


@each_config
def test_compress_on_verilator(config):
    run_block(Compress(config), Path(__file__).with_name("bench_compress.py"),
              parameters={"config": config.to_dict()})


@each_config
@pytest.mark.parametrize("depth", rest_slow([TILE_QUEUE, 16]))
def test_decompress_on_verilator(config, depth):
    run_block(Decompress(config, depth), Path(__file__).with_name("bench_decompress.py"),
              parameters={"config": config.to_dict(), "depth": depth})
