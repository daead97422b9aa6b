"""PsumMemory against its golden model, on Verilator; the golden blocks against the golden layer."""

from pathlib import Path

import numpy as np
import pytest

from hwgate.machine.config import AcceleratorConfig, BufferConfig, BusConfig, FormatConfig
from hwgate.quant.dot import dot
from hwgate.quant.golden import convolve
from hwgate.quant.pixels import pixel
from hwgate.quant.psum import accumulate
from hwgate.quant.window import channel_groups, window
from hwgate.rtl.psum import PsumMemory
from hwgate.sim.block import run_block
from support.shares import rest_slow

BENCH = Path(__file__).with_name("bench_psum.py")


@pytest.mark.parametrize("config", rest_slow([
    AcceleratorConfig(),
    AcceleratorConfig(channels=2, formats=FormatConfig(activation=4, accumulator=20),
                      buffers=BufferConfig(pixels=16), bus=BusConfig(data_bits=64)),
    AcceleratorConfig(lanes=8, channels=16, formats=FormatConfig(accumulator=28),
                      buffers=BufferConfig(pixels=1024)),
], quick=2), ids=lambda c: f"accumulator{c.formats.accumulator}-pixels{c.buffers.pixels}")
def test_psum(config):
    run_block(PsumMemory(config), BENCH, parameters={"config": config.to_dict()})


@pytest.mark.parametrize("top", [0, 1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel, padding", [(3, 0), (3, 1), (5, 0), (5, 2), (7, 1), (7, 3)])
def test_golden_blocks_make_the_golden_convolution(kernel, padding, stride, top):
    """The rows from ``top`` on, as a band that is stored without the rows above its windows."""
    rng, groups, channels = np.random.default_rng(1), 3, 4
    x = rng.integers(-128, 128, (groups, channels, 11, 9), np.int8)
    weight = rng.integers(-128, 128, (groups, channels, kernel, kernel), np.int8)
    expected = _convolve(x, weight, padding, stride)[top:]
    first = max(0, top * stride - padding)
    pad_top, accesses = first - (top * stride - padding), []
    edge = -(-kernel // 3)
    blocks = np.zeros((groups, channels, 3 * edge, 3 * edge), np.int8)
    blocks[:, :, :kernel, :kernel] = weight
    for number, (group, down, right) in enumerate(np.ndindex(groups, edge, edge)):
        block = blocks[group, :, 3 * down:3 * down + 3, 3 * right:3 * right + 3]
        for index in range(expected.size):
            row, column = _corner(index, stride, expected.shape[1])
            taps = window(x[group, :, first:], row + 3 * down, column + 3 * right, padding, pad_top)
            accesses.append((index, number == 0, int(dot(taps, block.reshape(channels, 9).T))))
    assert accumulate(accesses)[-expected.size:] == expected.ravel().tolist()


@pytest.mark.parametrize("stride", [1, 2])
def test_golden_blocks_make_the_golden_1x1_convolution(stride):
    rng, passes, channels = np.random.default_rng(2), 2, 4
    x = rng.integers(-128, 128, (passes, 9, channels, 5, 8), np.int8)
    weight = rng.integers(-128, 128, (passes, 9, channels), np.int8)
    expected = _convolve(x, weight[..., None, None], 0, stride)
    accesses = []
    for number, block in enumerate(weight):
        for index in range(expected.size):
            row, column = _corner(index, 3 * stride, expected.shape[1])
            taps = channel_groups(x[number], row // 3, column // 3)
            accesses.append((index, number == 0, int(dot(taps, block))))
    assert accumulate(accesses)[-expected.size:] == expected.ravel().tolist()


def _convolve(x, weight, padding, stride):
    """Golden convolution (Ho, Wo) of channel groups (..., H, W) with one output channel."""
    x, weight = (array.reshape(1, -1, *array.shape[-2:]) for array in (x, weight))
    return convolve(x, weight, padding, stride)[0, 0]


def _corner(index, step, width):
    """(row, column) of a window in the padded map; in bank mode three times those."""
    at = pixel(index, step, width, 0)
    return 3 * at["yq"] + at["ym"], 3 * at["xq"] + at["xm"]
