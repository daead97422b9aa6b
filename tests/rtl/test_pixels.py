"""PixelCounter against its golden model, on Verilator."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BufferConfig
from hwgate.rtl.pixels import PixelCounter
from hwgate.sim.block import run_block
from support.shares import rest_slow

BENCH = Path(__file__).with_name("bench_pixels.py")


@pytest.mark.parametrize("pixels, window_words", rest_slow(
    [(256, 256), (16, 64), (1024, 1024)]))
def test_pixels(pixels, window_words):
    config = AcceleratorConfig(buffers=BufferConfig(pixels=pixels, window_words=window_words))
    run_block(PixelCounter(config), BENCH, parameters={"config": config.to_dict()})
