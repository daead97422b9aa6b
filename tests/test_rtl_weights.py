"""WeightQueue against its golden function."""

from pathlib import Path

import pytest
from control_helpers import CONFIGS, Together

from hwgate.quant.weights import passes
from hwgate.rtl.weights import WeightQueue
from hwgate.sim.block import run_block


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_weights_on_verilator(config):
    run_block(Together(u=WeightQueue(config)), Path(__file__).with_name("bench_weights.py"),
              parameters={"config": config.to_dict()})


def test_function_takes_the_bits_in_order():
    assert passes(0b10110, 7, 32, False) == [(7, 1), (14, 2), (28, 4)]
    assert passes(0b111, 5, 20, True) == [(0, 8), (5, 17), (10, 19)]
    assert passes(0b1, 5, 9, True) == [(0, 8)]
    assert passes(0, 5, 9, False) == []
