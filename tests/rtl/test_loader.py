"""Loader on Verilator, against the window memory layout; and the layout itself."""

from pathlib import Path

import numpy as np
import pytest

from hwgate.compiler.packing import pack_maps
from hwgate.machine.config import AcceleratorConfig, BusConfig
from hwgate.quant.loader import BANKS, bank_memory, feature_map, window_memory
from hwgate.rtl.loader import Loader
from hwgate.sim.block import run_block
from support.memory import band_memory
from support.shares import rest_slow

#: Beats of four, two, eight pixels and one; a share of three may use up two beats of two.
CONFIGS = [AcceleratorConfig(), AcceleratorConfig(channels=8),
           AcceleratorConfig(lanes=8, channels=2),
           AcceleratorConfig(lanes=2, channels=8, bus=BusConfig(data_bits=64))]


@pytest.mark.parametrize("config", rest_slow(CONFIGS, quick=2),
                         ids=lambda c: f"{c.lanes}x{c.block_bytes}")
def test_loader_on_verilator(config):
    run_block(Loader(config), Path(__file__).with_name("bench_loader.py"),
              parameters={"config": config.to_dict()})


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.lanes}x{c.block_bytes}")
def test_compiler_packs_the_same_feature_map(config):
    maps = np.random.default_rng(1).integers(-128, 128, (3, 2 * config.channels + 1, 5, 3), np.int8)
    packed = pack_maps(config, maps)
    for x, found in zip(maps, packed.swapaxes(0, 1), strict=True):
        assert np.array_equal(found, feature_map(x, config.channels, config.beat_pixels))


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_a_window_touches_every_bank_once(padding):
    """The property the nine banks exist for, at every position, with padding left out."""
    height, width, channels = 5, 7, 3
    x = np.random.default_rng(2).integers(-128, 128, (channels, height, width), np.int8)
    words = window_memory(x, 2, padding)
    assert len(words) == height * width * 2
    places = {}
    for (bank, address), word in words.items():
        for row, column in np.ndindex(height, width):
            if np.array_equal(word[:2], x[:2, row, column]):
                places[row + padding, column + padding] = bank, address
    for top in range(height + 2 * padding - 2):
        for left in range(width + 2 * padding - 2):
            banks = [places[y, x_][0] for y in range(top, top + 3) for x_ in range(left, left + 3)
                     if (y, x_) in places]
            assert len(set(banks)) == len(banks)


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_a_whole_map_is_a_band(padding):
    """Rows below the map change nothing, and those above only where its rows begin."""
    x = np.random.default_rng(3).integers(-128, 128, (2, 5, 7), np.int8)
    whole, band, bare = (window_memory(x, 2, padding), band_memory(x, 2, padding, padding),
                         band_memory(x, 2, padding, 0))
    assert whole.keys() == band.keys()
    assert all(np.array_equal(whole[place], band[place]) for place in whole)
    assert len(bare) == len(whole)


def test_nine_groups_of_a_pixel_touch_every_bank_once():
    words = bank_memory(np.ones((2 * BANKS, 2, 3), np.int8), 2)
    for pixel in range(6):
        assert {bank for bank, address in words if address == pixel} == set(range(BANKS))
