"""RegisterBank: AXI4-Lite and register semantics, proved for all traffic."""

import pytest
from amaranth.hdl import Assert, Cat, Cover, Elaboratable, Module, Mux, Signal

from hwgate.machine.regs import Access, Field, Register, RegisterMap
from hwgate.rtl.axi import Response
from hwgate.rtl.regs import RegisterBank, port_name
from support.formal import needs_formal_tools, prove

MAPS = [
    RegisterMap("mixed", (
        Register("A", "", (Field("pulse", 3, Access.W1P, ""),
                           Field("wide", 17, Access.RW, "", reset=0x1_2345),
                           Field("level", 4, Access.RO, ""),
                           Field("late", 2, Access.W1P, ""))),
        Register("B", "", (Field("value", 32, Access.RW, ""),)),
        Register("C", "", (Field("value", 32, Access.RO, "", constant=0xdead_beef),)),
    )),
    RegisterMap("full", tuple(Register(f"R{n}", "", (Field("value", 8 * n + 1, access, ""),))
                              for n, access in enumerate([Access.RW, Access.W1P, Access.RO,
                                                          Access.RW]))),
]
ADDRESS_BITS = 4  # exactly the four registers of the second map: nothing is unmapped there


class Spec(Elaboratable):
    """Follows each access from its handshakes to its answer, beside the bank."""

    def __init__(self, regmap):
        self.regmap = regmap
        self.dut = RegisterBank(regmap, ADDRESS_BITS)
        bus = self.dut.bus
        self.inputs = [self._port(r, f) for r in regmap.registers for f in r.fields
                       if f.access is Access.RO and f.constant is None]
        self.ports = [bus.awaddr, bus.awprot, bus.awvalid, bus.wdata, bus.wstrb, bus.wvalid,
                      bus.bready, bus.araddr, bus.arprot, bus.arvalid, bus.rready, *self.inputs]

    def _port(self, register, field):
        return getattr(self.dut, port_name(register, field))

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.dut
        started = Signal()
        m.d.sync += started.eq(1)
        self._count(m)
        self._keep_answers(m)
        self._check_writes(m, started)
        self._check_reads(m, started)
        return m

    def _count(self, m):
        """Every answer belongs to exactly one access, in order."""
        bus = self.dut.bus
        answers = bus.bvalid & bus.bready
        addresses, words, reads = (Signal(2, name=name) for name in ("addresses", "words", "reads"))
        m.d.sync += [addresses.eq(addresses + (bus.awvalid & bus.awready) - answers),
                     words.eq(words + (bus.wvalid & bus.wready) - answers),
                     reads.eq(reads + (bus.arvalid & bus.arready) - (bus.rvalid & bus.rready))]
        m.d.comb += [Assert(addresses == bus.bvalid + ~bus.awready),
                     Assert(words == bus.bvalid + ~bus.wready),
                     Assert(reads == ~bus.arready), Assert(reads >= bus.rvalid),
                     Cover((addresses == 2) & (words == 2)), Cover(words > addresses),
                     Cover(bus.bvalid & bus.rvalid)]
        # Nothing waits for ever: a complete access is answered in the next two cycles.
        for name, complete, valid in [("b", ~bus.awready & ~bus.wready & ~bus.bvalid, bus.bvalid),
                                      ("r", ~bus.arready & ~bus.rvalid, bus.rvalid)]:
            due = Signal(name=f"{name}_due")
            m.d.sync += due.eq(complete)
            with m.If(due):
                m.d.comb += Assert(valid)

    def _keep_answers(self, m):
        bus = self.dut.bus
        for valid, ready, answer in [(bus.bvalid, bus.bready, bus.bresp),
                                     (bus.rvalid, bus.rready, Cat(bus.rresp, bus.rdata))]:
            stalled, offered = Signal(), Signal(len(answer))
            m.d.sync += [stalled.eq(valid & ~ready), offered.eq(answer)]
            with m.If(stalled):
                m.d.comb += [Assert(valid), Assert(answer == offered)]

    def _index(self, address):
        return address[2:]

    def _check_writes(self, m, started):
        bus, dut = self.dut.bus, self.dut
        address, word, strobe = Signal(2), Signal(32), Signal(4)
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += address.eq(self._index(bus.awaddr))
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [word.eq(bus.wdata), strobe.eq(bus.wstrb)]
        with m.If(~bus.awready):
            m.d.comb += Assert(dut._write_index == address)
        with m.If(~bus.wready):
            m.d.comb += [Assert(dut._word == word), Assert(dut._strobe == strobe)]

        # A write acts in the first cycle of its answer, and only then.
        before = Signal()
        m.d.sync += before.eq(bus.bvalid)
        acts = bus.bvalid & ~before
        mask = Cat(bit.replicate(8) for bit in strobe)
        with m.If(acts):
            mapped = address < len(self.regmap.registers)
            m.d.comb += Assert(bus.bresp == Mux(mapped, Response.OKAY, Response.SLVERR))
        for number, register in enumerate(self.regmap.registers):
            for field, lsb in register.slots():
                if field.access is Access.RO:
                    continue
                port, bits = self._port(register, field), slice(lsb, lsb + field.width)
                held = Signal(field.width, init=field.reset)
                m.d.sync += held.eq(port)
                kept = held if field.access is Access.RW else 0
                written = word[bits] & mask[bits] | kept & ~mask[bits]
                with m.If(started):
                    m.d.comb += Assert(port == Mux(acts & (address == number), written, kept))
                with m.Else():
                    m.d.comb += Assert(port == field.reset)
                m.d.comb += Cover(port == (1 << field.width) - 1)

    def _check_reads(self, m, started):
        bus, dut = self.dut.bus, self.dut
        address, before = Signal(2), Signal()
        m.d.sync += before.eq(bus.rvalid)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += address.eq(self._index(bus.araddr))
        with m.If(~bus.arready & ~bus.rvalid):
            m.d.comb += Assert(dut._read_index == address)
        words = [self._word_before(m, register) for register in self.regmap.registers]
        with m.If(bus.rvalid & ~before & started):
            mapped = address < len(self.regmap.registers)
            m.d.comb += Assert(bus.rresp == Mux(mapped, Response.OKAY, Response.SLVERR))
            expected = Signal(32)
            with m.Switch(address):
                for number, word in enumerate(words):
                    with m.Case(number):
                        m.d.comb += expected.eq(word)
            m.d.comb += Assert(bus.rdata == expected)

    def _word_before(self, m, register):
        """Value of a register as a read would have seen it one cycle ago."""
        word = Signal(32)
        m.d.sync += word.eq(0)
        for field, lsb in register.slots():
            bits = slice(lsb, lsb + field.width)
            if field.constant is not None:
                m.d.sync += word[bits].eq(field.constant)
            elif field.access is not Access.W1P:
                m.d.sync += word[bits].eq(self._port(register, field))
        return word


@needs_formal_tools
@pytest.mark.parametrize("regmap", MAPS, ids=lambda regmap: regmap.name)
def test_bank_is_proved(regmap, tmp_path):
    spec = Spec(regmap)
    prove(spec, spec.ports, tmp_path, depth=4)
