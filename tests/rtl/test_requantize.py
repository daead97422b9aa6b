"""Requantize against its golden model, on Verilator."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, FormatConfig
from hwgate.rtl.requantize import Requantize
from hwgate.sim.block import run_block
from support.shares import rest_slow

BENCH = Path(__file__).with_name("bench_requantize.py")


@pytest.mark.parametrize("formats", rest_slow([
    FormatConfig(), FormatConfig(activation=4, accumulator=24, multiplier=12),
    FormatConfig(activation=2, weight=2, accumulator=20, multiplier=8),
]),
    ids=lambda f: f"activation{f.activation}-accumulator{f.accumulator}-multiplier{f.multiplier}")
def test_requantize(formats):
    config = AcceleratorConfig(formats=formats)
    run_block(Requantize(config), BENCH, parameters={"config": config.to_dict()})
