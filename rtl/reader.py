"""Reader: many requesters share the read half of the off-chip bus."""

from amaranth import Module, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.config import AcceleratorConfig
from hwgate.rtl.axi import AXI_BURST_INCR, axi4_signature
from hwgate.rtl.burst import BurstSplitter, request_layout

__all__ = ["GRANT_LATENCY", "OUTSTANDING", "READ_BEAT_LATENCY", "Reader", "read_signature"]

#: Cycles from granting a request to its first address handshake, if the bus is ready.
GRANT_LATENCY = 1
#: Cycles from a beat on the bus to the beat at the output.
READ_BEAT_LATENCY = 1
#: Requests on their way, per requester; more wait for their grant.
OUTSTANDING = 4


def read_signature(config: AcceleratorConfig) -> wiring.Signature:
    """Address and data channel of reads."""
    members = axi4_signature(config).members
    return wiring.Signature({name: member for name, member in members.items()
                             if name.startswith(("ar", "r"))})


class Reader(wiring.Component):
    """Grants requests, the first of the waiting requesters first, and hands out their beats.

    A request of n bursts occupies the bus address channel for n + 1 cycles. Beats come in the
    order of the grants and are never refused, so requesters ask only for what they can take.

    Parameters
    ----------
    config : AcceleratorConfig
    sources : int
        Requesters, by falling priority.

    Members
    -------
    i : In(stream) x sources
    header : In
        One bit per source: its request begins with a job header.
    halt : In
        Grant nothing.
    bus : Out
        Read channels, see :func:`read_signature`.
    valid, data, last, source, o_header : Out
        A beat, whether it ends its request, and whose it is.
    idle : Out
        Nothing is under way.
    beat : Out
        A beat is handed over on the bus in this cycle; ``beat_source`` is whose.
    error : Out
        It carries an error response.
    """

    def __init__(self, config: AcceleratorConfig, sources: int):
        self.config, self.sources = config, sources
        super().__init__({
            "i": In(stream.Signature(request_layout(config))).array(sources),
            "header": In(sources), "halt": In(1), "bus": Out(read_signature(config)),
            "valid": Out(1), "data": Out(config.bus.data_bits), "last": Out(1),
            "source": Out(range(sources)), "o_header": Out(1), "idle": Out(1),
            "beat": Out(1), "beat_source": Out(range(sources)), "error": Out(1)})

    def elaborate(self, platform):
        m = Module()
        bus = self.bus
        owner = data.StructLayout({"source": range(self.sources), "header": 1, "beats": 16})
        m.submodules.splitter = splitter = BurstSplitter(self.config)
        m.submodules.owners = owners = fifo.SyncFIFO(width=owner.size,
                                                     depth=OUTSTANDING * self.sources)
        ready, chosen = Signal(), Signal(owner)
        m.d.comb += [
            ready.eq(splitter.i.ready & owners.w_rdy & ~self.halt),
            owners.w_en.eq(splitter.i.valid & splitter.i.ready), owners.w_data.eq(chosen)]
        for n in reversed(range(self.sources)):
            with m.If(self.i[n].valid):
                m.d.comb += [chosen.source.eq(n), chosen.header.eq(self.header[n]),
                             chosen.beats.eq(self.i[n].payload.beats),
                             splitter.i.payload.eq(self.i[n].payload), splitter.i.valid.eq(ready)]
        for n in range(self.sources):
            m.d.comb += self.i[n].ready.eq(splitter.i.valid & (chosen.source == n))

        m.d.comb += [
            bus.arvalid.eq(splitter.o.valid), splitter.o.ready.eq(bus.arready),
            bus.araddr.eq(splitter.o.payload.address),
            bus.arlen.eq(splitter.o.payload.beats_minus_1), bus.arburst.eq(AXI_BURST_INCR),
            bus.arsize.eq((self.config.bus.bytes - 1).bit_length()), bus.rready.eq(1)]

        head, count = owner(owners.r_data), Signal(16)
        ends = count + 1 == head.beats
        m.d.comb += [
            self.beat.eq(bus.rvalid), self.beat_source.eq(head.source),
            self.error.eq(bus.rvalid & bus.rresp[1]), owners.r_en.eq(bus.rvalid & ends),
            self.idle.eq(splitter.i.ready & ~owners.r_rdy)]
        with m.If(bus.rvalid):
            m.d.sync += count.eq(count + 1)
            with m.If(ends):
                m.d.sync += count.eq(0)
        m.d.sync += [self.valid.eq(bus.rvalid), self.data.eq(bus.rdata), self.last.eq(ends),
                     self.source.eq(head.source), self.o_header.eq(head.header)]
        return m
