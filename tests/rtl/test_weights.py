"""WeightQueue against its golden function."""

from pathlib import Path

import numpy as np
import pytest

import hwgate
from hwgate.quant.weights import passes
from hwgate.rtl.weights import WeightQueue
from hwgate.sim.block import run_block
from support.control import CONFIGS, Together
from support.random_layers import Features, random_images, random_network
from support.shares import rest_slow


@pytest.mark.parametrize("config", rest_slow(CONFIGS))
def test_weights_on_verilator(config):
    run_block(Together(u=WeightQueue(config)), Path(__file__).with_name("bench_weights.py"),
              parameters={"config": config.to_dict()})


def test_function_takes_the_bits_in_order():
    assert passes(0b10110, 7, 32, False) == [(7, 0, 0, 1), (14, 0, 0, 2), (28, 0, 0, 4)]
    assert passes(0b111, 5, 20, True, 99) == [(0, 0, 0, 8), (5, 0, 0, 17), (10, 0, 0, 19)]
    assert passes(0b1, 5, 9, True) == [(0, 0, 0, 8)]
    assert passes(0, 5, 9, False) == []


def test_function_takes_the_blocks_of_a_kernel_row_by_row():
    assert passes(0b101, 100, 8, False, 10, 2) == [
        (0, 0, 0, 0), (1, 0, 1, 0), (10, 1, 0, 0), (11, 1, 1, 0),
        (200, 0, 0, 2), (201, 0, 1, 2), (210, 1, 0, 2), (211, 1, 1, 2)]
    found = passes(0b10, 100, 8, False, 10, 3)
    assert [base - 100 for base, *_ in found] == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert [(row, column) for _, row, column, _ in found] == [divmod(n, 3) for n in range(9)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_function_finds_the_channels_of_the_compiler(config, kernel):
    """Group and plane of each block as compiled; and in the group, the word of its first tap."""
    features = Features(stride=True, pointwise=True, kernels=(5, 7))
    rng = np.random.default_rng(kernel)
    layer = None
    while layer is None or layer.kernel != kernel:
        network = random_network(rng, config, layers=1, gated=True, reduce=False,
                                 features=features)
        layer = network.layers[0]
    binding = hwgate.compile(network, config).bind(random_images(rng, network, 1))
    plan, _, d = binding.steps[0]
    assert d["kernel_blocks"] == -(-kernel // 3)
    for job in plan.jobs:
        for groups in (job.base, job.conditional):
            found = passes(sum(1 << group for group in set(groups)), d["group_words"],
                           d["in_planes"], d["bank_mode"], d["row_words"], d["kernel_blocks"])
            assert len(found) == len(groups)
            for (base, row, column, plane), group in zip(found, groups, strict=True):
                offset = base - group * d["group_words"]
                assert offset == row * d["row_words"] + column
                last = group if kernel > 1 else min(9 * group + 9, d["in_planes"]) - 1
                assert plane == last
