"""BurstSplitter: proved for every request and every back-pressure."""

import pytest
from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, Signal

from hwgate.machine.bursts import AXI_PAGE_BYTES
from hwgate.machine.config import AcceleratorConfig, BusConfig
from hwgate.rtl.burst import REQUEST_BEATS_BITS, BurstSplitter
from support.formal import needs_formal_tools, prove


class Spec(Elaboratable):
    """Follows the request with a model that counts beats, and watches every burst."""

    def __init__(self, config):
        self.config = config
        self.dut = BurstSplitter(config)
        self.ports = [self.dut.i.valid, self.dut.i.p.as_value(), self.dut.o.ready]

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        i, o, bus = dut.i, dut.o, self.config.bus
        address = Signal(bus.address_bits + 1)  # one more, for the end of the address space
        beats = Signal(REQUEST_BEATS_BITS)
        request_end = i.p.address + i.p.beats * bus.bytes
        m.d.comb += Assume(~i.valid | (i.p.beats > 0) & (i.p.address % bus.bytes == 0)
                           & (request_end <= 1 << bus.address_bits))

        length = Signal(range(bus.burst_beats + 1))
        page_left = Signal(range(AXI_PAGE_BYTES // bus.bytes + 1))
        m.d.comb += [length.eq(o.p.beats_minus_1 + 1),
                     page_left.eq((AXI_PAGE_BYTES - address % AXI_PAGE_BYTES) // bus.bytes)]
        with m.If(i.valid & i.ready):
            m.d.sync += [address.eq(i.p.address), beats.eq(i.p.beats)]
        with m.Elif(o.valid & o.ready):
            m.d.sync += [address.eq(address + length * bus.bytes), beats.eq(beats - length)]

        # Ready and valid say whether a request is in work; n bursts take n cycles without stalls.
        m.d.comb += [Assert(i.ready == (beats == 0)), Assert(o.valid == (beats != 0))]
        with m.If(o.valid):
            longest = Mux(page_left < bus.burst_beats, page_left, bus.burst_beats)
            m.d.comb += [
                Assert(o.p.address == address),
                Assert(length <= bus.burst_beats),
                Assert(length <= page_left),
                Assert(length == Mux(beats < longest, beats, longest)),
                Assert(o.p.last == (length == beats)),
                # Invariants of the implementation, for the induction.
                Assert(dut._rest + 1 == beats),
                Assert(dut._room + 1 == longest),
                Assert(address % bus.bytes == 0),
                Assert(address + beats * bus.bytes <= 1 << bus.address_bits),
            ]

        # An offer stays until it is taken.
        stalled, offered = Signal(), Signal.like(o.p.as_value())
        m.d.sync += [stalled.eq(o.valid & ~o.ready), offered.eq(o.p.as_value())]
        with m.If(stalled):
            m.d.comb += Assert(o.valid & (o.p.as_value() == offered))

        count = Signal(3)
        with m.If(o.valid & o.ready):
            m.d.sync += count.eq(Mux(o.p.last, 0, count + 1))
        m.d.comb += [Cover((count == 3) & o.valid & o.p.last & (length == 1)),
                     Cover(stalled & o.p.last),
                     Cover(o.valid & (address + length * bus.bytes == 1 << bus.address_bits))]
        return m


@needs_formal_tools
@pytest.mark.parametrize("bus", [BusConfig(), BusConfig(data_bits=64),
                                 BusConfig(burst_beats=16, address_bits=20)],
                         ids=lambda b: f"{b.data_bits}bit-{b.burst_beats}beats")
def test_splitter_is_proved(bus, tmp_path):
    spec = Spec(AcceleratorConfig(bus=bus))
    prove(spec, spec.ports, tmp_path)
