"""AXI4-Lite register bank, generated from a :class:`hwgate.machine.regs.RegisterMap`."""

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.regs import Access, Field, Register, RegisterMap

from .axi import LITE_ADDRESS_BITS, Response, axi_lite_signature

__all__ = ["READ_CYCLES", "RegisterBank", "WRITE_CYCLES", "port_name"]

#: Cycles from the address handshake of a read to its answer.
READ_CYCLES = 2

#: Cycles from the later of the two handshakes of a write to its answer and its effect.
WRITE_CYCLES = 2

#: Bits of a byte, the unit of the write strobes.
_BYTE = 8


def port_name(register: Register, field: Field) -> str:
    """Member of :class:`RegisterBank` that carries ``field``."""
    return f"{register.name.lower()}__{field.name}"


class RegisterBank(wiring.Component):
    """Registers of ``regmap`` behind an AXI4-Lite port.

    One read and one write are in flight at a time, independent of each other; the address and
    the data of a write arrive in either order. A read answers after ``READ_CYCLES`` with the values
    of the cycle before. ``WRITE_CYCLES`` after a write is complete, its answer is offered and its
    effect is on the ports: RW fields hold it, W1P fields are 1 in that cycle only. Answers stay
    until taken. No output depends on an input of the same cycle.

    Bytes whose strobe is 0 stay as they are, RO fields ignore writes, W1P fields and unused bits
    read as zero, the two lowest address bits are ignored. An address beyond the map answers
    SLVERR, reads as zero and changes nothing.

    Parameters
    ----------
    regmap : RegisterMap
        The registers.
    address_bits : int
        Byte address width of the port.

    Members
    -------
    bus : In(axi_lite_signature(address_bits))
        Control port.
    {register}__{field} : Out for RW and W1P fields, In for RO fields without a constant
        One port per field, in lower case.

    Raises
    ------
    ValueError
        If the map does not fit the address width.
    """

    def __init__(self, regmap: RegisterMap, address_bits: int = LITE_ADDRESS_BITS):
        if regmap.bytes > 1 << address_bits:
            raise ValueError(f"Register map {regmap.name!r} has {regmap.bytes} bytes, but an "
                             f"address of {address_bits} bits reaches {1 << address_bits}")
        self.regmap = regmap
        ports = {}
        for register in regmap.registers:
            for field in register.fields:
                if field.access is not Access.RO:
                    ports[port_name(register, field)] = Out(field.width, init=field.reset)
                elif field.constant is None:
                    ports[port_name(register, field)] = In(field.width)
        super().__init__({"bus": In(axi_lite_signature(address_bits)), **ports})
        # What was caught of an access that waits for the rest of it.
        self._read_index = Signal.like(self._word_index(self.bus.araddr))
        self._write_index = Signal.like(self._word_index(self.bus.awaddr))
        self._word, self._strobe = Signal.like(self.bus.wdata), Signal.like(self.bus.wstrb)

    def elaborate(self, platform):
        m = Module()
        self._elaborate_read(m)
        self._elaborate_write(m)
        return m

    def _word_index(self, address):
        return address[(self.regmap.step - 1).bit_length():]

    def _elaborate_read(self, m: Module) -> None:
        bus, index = self.bus, self._read_index
        pending = Signal()
        m.d.comb += bus.arready.eq(~pending & ~bus.rvalid)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [index.eq(self._word_index(bus.araddr)), pending.eq(1)]
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(pending):
            m.d.sync += [pending.eq(0), bus.rvalid.eq(1),
                         bus.rdata.eq(0), bus.rresp.eq(Response.OKAY)]
            with m.Switch(index):
                for number, register in enumerate(self.regmap.registers):
                    with m.Case(number):
                        for field, lsb in register.slots():
                            if field.access is not Access.W1P:
                                value = (getattr(self, port_name(register, field))
                                         if field.constant is None else field.constant)
                                m.d.sync += bus.rdata[lsb:lsb + field.width].eq(value)
                with m.Default():
                    m.d.sync += bus.rresp.eq(Response.SLVERR)

    def _elaborate_write(self, m: Module) -> None:
        bus, index, word, strobe = self.bus, self._write_index, self._word, self._strobe
        have_address, have_data = Signal(), Signal()
        m.d.comb += [bus.awready.eq(~have_address), bus.wready.eq(~have_data)]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [index.eq(self._word_index(bus.awaddr)), have_address.eq(1)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [word.eq(bus.wdata), strobe.eq(bus.wstrb), have_data.eq(1)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)

        for register, field, _ in self._fields(Access.W1P):
            m.d.sync += getattr(self, port_name(register, field)).eq(0)
        mask = Cat(bit.replicate(_BYTE) for bit in strobe)
        with m.If(have_address & have_data & ~bus.bvalid):
            m.d.sync += [have_address.eq(0), have_data.eq(0), bus.bvalid.eq(1),
                         bus.bresp.eq(Response.OKAY)]
            with m.If(index >= len(self.regmap.registers)):
                m.d.sync += bus.bresp.eq(Response.SLVERR)
            for register, field, lsb in self._fields(Access.RW, Access.W1P):
                port = getattr(self, port_name(register, field))
                bits, kept = slice(lsb, lsb + field.width), port if field.access is Access.RW else 0
                with m.If(index == self.regmap.offset(register.name) // self.regmap.step):
                    m.d.sync += port.eq(word[bits] & mask[bits] | kept & ~mask[bits])

    def _fields(self, *accesses: Access):
        """Register, field and lowest bit of the fields with one of ``accesses``."""
        return [(register, field, lsb) for register in self.regmap.registers
                for field, lsb in register.slots() if field.access in accesses]
