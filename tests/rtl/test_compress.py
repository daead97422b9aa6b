"""Compress and Decompress on Verilator, against the golden model."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BusConfig
from hwgate.rtl.compress import Compress
from hwgate.rtl.decompress import Decompress
from hwgate.rtl.tiles import TILE_QUEUE
from hwgate.sim.block import run_block

CONFIGS = pytest.mark.parametrize("config", [
    AcceleratorConfig(), AcceleratorConfig(lanes=2, channels=8, bus=BusConfig(data_bits=64)),
], ids=lambda c: f"{c.bus.data_bits}bit")


@CONFIGS
def test_compress_on_verilator(config):
    run_block(Compress(config), Path(__file__).with_name("bench_compress.py"),
              parameters={"config": config.to_dict()})


@CONFIGS
@pytest.mark.parametrize("depth", [16, TILE_QUEUE])
def test_decompress_on_verilator(config, depth):
    run_block(Decompress(config, depth), Path(__file__).with_name("bench_decompress.py"),
              parameters={"config": config.to_dict(), "depth": depth})
