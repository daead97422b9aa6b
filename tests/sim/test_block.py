"""Benches of single blocks, run on a small Amaranth component."""

from pathlib import Path

import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.sim.block import run_block
from hwgate.sim.build import BenchError
from hwgate.sim.streams import pack, unpack

BENCH = Path(__file__).with_name("bench_block.py")


class Adder(wiring.Component):
    """Adds the halves of a pair; ``retract`` breaks the promise of the output stream."""

    def __init__(self, width):
        self.pair = data.StructLayout({"a": width, "b": width})
        super().__init__({"i": In(stream.Signature(self.pair)),
                          "o": Out(stream.Signature(width + 1)), "retract": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid),
                         self.o.payload.eq(self.i.payload.a + self.i.payload.b)]
        with m.Elif(self.retract):
            m.d.sync += self.o.valid.eq(0)
        return m


@pytest.mark.parametrize("width,idle,stall", [
    (4, [], []), (4, [1, 0], []), (8, [], [1, 1, 0]), (12, [1, 0, 0], [0, 1])])
def test_streams_with_gaps(width, idle, stall):
    most = 2**width - 1
    operands = [(0, 0), (most, most), (1, 2), (most, 0), (0, most), (5, 9), (3, 3)]
    run_block(Adder(width), BENCH, test_case="adds",
              parameters={"width": width, "operands": operands, "idle": idle, "stall": stall})


@pytest.mark.parametrize("case,why", [
    ("fails", "one and two are three"), ("hangs", "Timeout"),
    ("retracts", "offer 0x3 of o changed before it was taken")])
def test_failures_show_the_log(case, why):
    with pytest.raises(BenchError, match=rf"(?s)^Bench bench_block failed 1 of 1 tests "
                                         rf"\({case}\)\n.*{why}"):
        run_block(Adder(4), BENCH, test_case=case)


def test_no_such_test_and_no_end():
    with pytest.raises(BenchError, match=r"^Bench bench_block has no test nothing\n"):
        run_block(Adder(4), BENCH, test_case="nothing")
    with pytest.raises(BenchError, match=r"^Bench bench_block did not end within 2 s"):
        run_block(Adder(4), BENCH, test_case="sleeps", timeout=2)


def test_payloads_pack_and_unpack():
    layout = data.StructLayout({"a": signed(4), "b": data.ArrayLayout(signed(3), 2), "c": 5})
    value = {"a": -3, "b": [1, -4], "c": 17}
    bits = pack(layout, value)
    assert bits == 0b1101 | 0b001 << 4 | 0b100 << 7 | 17 << 10
    assert unpack(layout, bits) == value
    assert (pack(signed(4), -1), unpack(signed(4), 15), pack(8, 200)) == (15, -1, 200)
