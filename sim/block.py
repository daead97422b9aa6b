"""Runs cocotb benches on single blocks: any Amaranth component, in Verilator.

The pytest side builds the component and names the bench::

    # tests/test_cocotb_gate.py
    BENCH = Path(__file__).with_name("bench_gate.py")

    @pytest.mark.parametrize("lanes", [1, 2, 4])
    def test_gate(lanes):
        config = AcceleratorConfig(lanes=lanes)
        run_block(Gate(config), BENCH, parameters={"lanes": lanes, "gaps": [1, 0]})

The bench side runs inside the simulator, with ports named as in Amaranth's Verilog::

    # tests/bench_gate.py
    @cocotb.test(timeout_time=1, timeout_unit="ms")
    async def matches_golden(dut):
        given = parameters()
        await start(dut)
        sender = cocotb.start_soon(send(dut, "i", payloads, gaps=given["gaps"]))
        assert await receive(dut, "o", len(payloads)) == expected
        await sender

:mod:`hwgate.sim.streams` has ``parameters``, ``start``, ``send`` and ``receive``.
A first build takes a few seconds, later runs about half a second.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwgate.sim.build import build_model, run_bench

__all__ = ["block_model", "run_block"]


def block_model(component: Any, *, waves: bool = False) -> Path:
    """Compiled model of a component, with top module ``block``.

    Parameters
    ----------
    component : amaranth.lib.wiring.Component
        Its members become ports; streams ``x`` become ``x__payload``, ``x__valid``, ``x__ready``.
    waves : bool
        Able to write waveforms.

    Raises
    ------
    ToolError
        If a tool is missing or fails.
    """
    from amaranth.back import verilog

    text = verilog.convert(component, name="block", emit_src=False, strip_internal_attrs=True)
    return build_model(text, "block", waves=waves)


def run_block(component: Any, bench: Path, *, test_case: str | None = None,
              parameters: Mapping[str, Any] | None = None, seed: int = 1,
              waves: Path | None = None, timeout: float = 600) -> None:
    """Run the cocotb tests in file ``bench`` on a component; quiet unless they fail.

    Parameters
    ----------
    component : amaranth.lib.wiring.Component
    bench : Path
        Python file of cocotb tests; its folder is importable in the bench.
    test_case : str, optional
        Name of one test; default all.
    parameters : mapping, optional
        Anything JSON can hold, for the bench's ``parameters()``.
    seed : int
        Of Python's ``random`` in the bench.
    waves : Path, optional
        FST file to write.
    timeout : float
        Seconds of wall time after which the simulator is stopped.

    Raises
    ------
    BenchError
        If a test fails; the message ends with the log's tail.
    ToolError
        If a tool is missing or fails.
    """
    run_bench(block_model(component, waves=waves is not None), bench.stem,
              test_case=test_case, seed=seed, waves=waves, timeout=timeout,
              search=[bench.resolve().parent],
              env={"HWGATE_PARAMETERS": json.dumps(dict(parameters or {}))})
