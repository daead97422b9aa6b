"""Writer: the write half of the off-chip bus."""

from amaranth import Module, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.axi import AXI_BURST_INCR, AXI_LEN_BITS, axi4_signature
from hwgate.rtl.burst import BurstSplitter, request_layout

__all__ = ["BEAT_QUEUE", "BURST_QUEUE", "WRITE_BEAT_LATENCY", "Writer", "write_signature"]

#: Beats that wait for the bus.
BEAT_QUEUE = 16
#: Cycles from a beat at the input to the same beat on the bus, if nothing is before it.
WRITE_BEAT_LATENCY = 1
#: Bursts whose address has been sent and whose data has not.
BURST_QUEUE = 4


def write_signature(config: AcceleratorConfig) -> wiring.Signature:
    """Address, data and response channel of writes."""
    members = axi4_signature(config).members
    return wiring.Signature({name: member for name, member in members.items()
                             if name.startswith(("aw", "w", "b"))})


class Writer(wiring.Component):
    """Sends the beats of one request after another; data follows its address.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    i : In(stream)
        Requests.
    beat : In(stream)
        Their beats, in order.
    room : Out
        Beats that can still be taken.
    bus : Out
        Write channels, see :func:`write_signature`.
    idle : Out
        Every burst of every request has been answered.
    error : Out
        An answer reports an error.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(request_layout(config))),
            "beat": In(stream.Signature(config.bus.data_bits)),
            "room": Out(range(BEAT_QUEUE + 1)),
            "bus": Out(write_signature(config)), "idle": Out(1), "error": Out(1)})

    def elaborate(self, platform):
        m = Module()
        bus = self.bus
        m.submodules.splitter = splitter = BurstSplitter(self.config)
        m.submodules.bursts = bursts = fifo.SyncFIFO(width=AXI_LEN_BITS, depth=BURST_QUEUE)
        m.submodules.beats = beats = fifo.SyncFIFO(width=self.config.bus.data_bits,
                                                   depth=BEAT_QUEUE)
        wiring.connect(m, wiring.flipped(self.i), splitter.i)
        m.d.comb += [
            bus.awvalid.eq(splitter.o.valid & bursts.w_rdy),
            splitter.o.ready.eq(bus.awready & bursts.w_rdy),
            bus.awaddr.eq(splitter.o.payload.address),
            bus.awlen.eq(splitter.o.payload.beats_minus_1), bus.awburst.eq(AXI_BURST_INCR),
            bus.awsize.eq((self.config.bus.bytes - 1).bit_length()),
            bursts.w_en.eq(bus.awvalid & bus.awready), bursts.w_data.eq(bus.awlen),
            beats.w_en.eq(self.beat.valid), beats.w_data.eq(self.beat.payload),
            self.beat.ready.eq(beats.w_rdy), self.room.eq(BEAT_QUEUE - beats.level)]

        sent = Signal(AXI_LEN_BITS)
        taken = bus.wvalid & bus.wready
        m.d.comb += [
            bus.wvalid.eq(bursts.r_rdy & beats.r_rdy), bus.wdata.eq(beats.r_data),
            bus.wstrb.eq(~0), bus.wlast.eq(sent == bursts.r_data),
            beats.r_en.eq(taken), bursts.r_en.eq(taken & bus.wlast)]
        with m.If(taken):
            m.d.sync += sent.eq(sent + 1)
            with m.If(bus.wlast):
                m.d.sync += sent.eq(0)

        unanswered = Signal(16)
        m.d.comb += [bus.bready.eq(1), self.error.eq(bus.bvalid & bus.bresp[1]),
                     self.idle.eq(splitter.i.ready & (unanswered == 0))]
        m.d.sync += unanswered.eq(unanswered + bursts.w_en - bus.bvalid)
        return m
