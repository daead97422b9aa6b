"""PsumMemory against its golden model, on Verilator; the golden blocks against the golden layer."""

from pathlib import Path

import numpy as np
import pytest

from hwgate.config import AcceleratorConfig, BufferConfig, BusConfig, FormatConfig
from hwgate.quant.dot import dot
from hwgate.quant.golden import convolve
from hwgate.quant.pixels import pixel
from hwgate.quant.psum import accumulate
from hwgate.quant.window import window
from hwgate.rtl.psum import PsumMemory
from hwgate.sim.block import run_block

BENCH = Path(__file__).with_name("bench_psum.py")


@pytest.mark.parametrize("config", [
    AcceleratorConfig(),
    AcceleratorConfig(channels=2, formats=FormatConfig(activation=4, accumulator=20),
                      buffers=BufferConfig(pixels=16), bus=BusConfig(data_bits=64)),
    AcceleratorConfig(lanes=8, channels=16, formats=FormatConfig(accumulator=28),
                      buffers=BufferConfig(pixels=1024)),
], ids=lambda c: f"accumulator{c.formats.accumulator}-pixels{c.buffers.pixels}")
def test_psum(config):
    run_block(PsumMemory(config), BENCH, parameters={"config": config.to_dict()})


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_golden_blocks_make_the_golden_convolution(padding, stride):
    rng, groups, channels = np.random.default_rng(1), 3, 4
    x = rng.integers(-128, 128, (groups, channels, 5, 7), np.int8)
    weight = rng.integers(-128, 128, (groups, channels, 3, 3), np.int8)
    flat = (1, groups * channels)
    expected = convolve(x.reshape(*flat, 5, 7), weight.reshape(*flat, 3, 3), padding, stride)[0, 0]
    accesses = []
    for group in range(groups):
        block = weight[group].reshape(channels, 9).T
        for index in range(expected.size):
            at = pixel(index, stride, expected.shape[1], 0)
            row, column = 3 * at["yq"] + at["ym"], 3 * at["xq"] + at["xm"]
            accesses.append((index, group == 0, int(dot(window(x[group], row, column, padding),
                                                        block))))
    assert accumulate(accesses)[-expected.size:] == expected.ravel().tolist()
