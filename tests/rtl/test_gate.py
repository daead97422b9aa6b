"""Gate against its golden model, on Verilator."""

from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, FormatConfig
from hwgate.rtl.gate import Gate
from hwgate.sim.block import run_block

BENCH = Path(__file__).with_name("bench_gate.py")


@pytest.mark.parametrize("accumulator", [32, 24, 20])
def test_gate(accumulator):
    config = AcceleratorConfig(formats=FormatConfig(accumulator=accumulator))
    run_block(Gate(config), BENCH, parameters={"config": config.to_dict()})
