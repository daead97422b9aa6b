"""Reader: many requesters share the read half of the off-chip bus."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.axi import AXI_BURST_INCR, axi4_signature
from hwgate.rtl.burst import BurstSplitter, request_layout
from hwgate.rtl.fetch import kept_member
from hwgate.rtl.structs import delay

__all__ = ["CHOICE_CYCLES", "GRANT_LATENCY", "KEPT_LATENCY", "OUTSTANDING", "Reader",
           "read_beat_latency", "read_signature"]

#: Cycles from granting a request to its first address handshake, if nothing is before it.
GRANT_LATENCY = 2
#: Cycles from granting a request for weights that are on chip to its first beat, if none is owed.
KEPT_LATENCY = 2
#: Cycles from choosing a request to granting it, if there is room, and to choosing the next one.
CHOICE_CYCLES = 1
#: Requests on their way, per requester; more wait for their grant.
OUTSTANDING = 4


def read_beat_latency(config: AcceleratorConfig) -> int:
    """Cycles from a beat on the bus, or from its turn in the weight memory, to the output."""
    return 2 if config.buffers.weight_bytes else 1


def read_signature(config: AcceleratorConfig) -> wiring.Signature:
    """Address and data channel of reads."""
    members = axi4_signature(config).members
    return wiring.Signature({name: member for name, member in members.items()
                             if name.startswith(("ar", "r"))})


class Reader(wiring.Component):
    """Grants requests, the first of the waiting requesters first, and hands out their beats. The
    choice is made :data:`CHOICE_CYCLES` before the grant.

    A request of n bursts occupies the bus address channel for n + 1 cycles. Beats come in the
    order of the grants and are never refused, so requesters ask only for what they can take.

    Weights that are kept are written to a memory of whole beats as they come. A request for weights
    that are there reads that memory instead of the bus, which waits meanwhile: a beat per cycle, in
    the same order of grants. So they may be asked for as soon as the request that brings them has
    been granted. Addresses wrap at the size of the memory.

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
    kept : In
        Per source, whether what it asks for is kept; see :func:`hwgate.rtl.fetch.kept_member`.
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
            "beat": Out(1), "beat_source": Out(range(sources)), "error": Out(1),
            **{name: In(data.ArrayLayout(layout, sources))
               for name, layout in kept_member(config).items()}})

    def elaborate(self, platform):
        m = Module()
        bus, keeps = self.bus, bool(self.config.buffers.weight_bytes)
        beat = (self.config.bus.bytes - 1).bit_length()
        members = {"source": range(self.sources), "header": 1, "beats": 16}
        if keeps:
            words = self.config.buffers.weight_bytes >> beat
            members |= {**kept_member(self.config), "word": (words - 1).bit_length()}
        owner = data.StructLayout(members)
        m.submodules.splitter = splitter = BurstSplitter(self.config)
        m.submodules.owners = owners = fifo.SyncFIFO(width=owner.size,
                                                     depth=OUTSTANDING * self.sources)
        # Chosen in one cycle, granted in the next one or when there is room, then cut into bursts.
        chosen, source, taken = Signal(), Signal(range(self.sources)), Signal()
        request, granted = Signal(request_layout(self.config)), Signal(owner)
        cut = splitter.i
        with m.If(~chosen):
            for n in reversed(range(self.sources)):
                with m.If(self.i[n].valid):
                    m.d.sync += [source.eq(n), chosen.eq(1)]
        with m.Elif(taken):
            m.d.sync += chosen.eq(0)
        with m.Switch(source):
            for n in range(self.sources):
                with m.Case(n):
                    m.d.comb += [
                        request.eq(self.i[n].payload), granted.header.eq(self.header[n]),
                        self.i[n].ready.eq(taken)]
                    if keeps:
                        m.d.comb += granted.kept.eq(self.kept[n])
        m.d.comb += [
            taken.eq(chosen & ~cut.valid & owners.w_rdy & ~self.halt), granted.source.eq(source),
            granted.beats.eq(request.beats), owners.w_en.eq(taken), owners.w_data.eq(granted)]
        with m.If(~cut.valid):
            m.d.sync += [cut.payload.eq(request),
                         cut.valid.eq(taken & ~granted.kept.there if keeps else taken)]
        with m.Elif(cut.ready):
            m.d.sync += cut.valid.eq(0)
        if keeps:
            m.d.comb += granted.word.eq(request.address[beat:])

        m.d.comb += [
            bus.arvalid.eq(splitter.o.valid), splitter.o.ready.eq(bus.arready),
            bus.araddr.eq(splitter.o.payload.address),
            bus.arlen.eq(splitter.o.payload.beats_minus_1), bus.arburst.eq(AXI_BURST_INCR),
            bus.arsize.eq(beat)]

        # The owner of the next beat, which comes from the bus, or else is there.
        head, owns, last, there = Signal(owner), Signal(), Signal(), Signal()
        following, moves, load = owner(owners.r_data), Signal(), Signal()
        if keeps:
            m.d.comb += there.eq(owns & head.kept.there)
        m.d.comb += [
            bus.rready.eq(owns & ~there), self.beat.eq(bus.rvalid & bus.rready),
            self.beat_source.eq(head.source), self.error.eq(self.beat & bus.rresp[1]),
            moves.eq(self.beat | there), load.eq(~owns | moves & last), owners.r_en.eq(load),
            self.idle.eq(cut.ready & ~cut.valid & ~owners.r_rdy & ~owns)]
        with m.If(load):
            m.d.sync += [head.eq(following), owns.eq(owners.r_rdy), last.eq(following.beats == 1)]
        with m.Elif(moves):
            m.d.sync += [head.beats.eq(head.beats - 1), last.eq(head.beats == 2)]
            if keeps:
                m.d.sync += head.word.eq(head.word + 1)
        values = [moves, bus.rdata, last, head.source, head.header]
        if keeps:
            values = self._keep(m, values, head, there)
        for port, value in zip((self.valid, self.data, self.last, self.source, self.o_header),
                               values, strict=True):
            m.d.sync += port.eq(value)
        return m

    def _keep(self, m, values, head, there):
        """Weight memory: takes beats of the bus that are kept, replaces those that do not come.

        Returns the values of a beat one cycle later, because the memory takes one.
        """
        words = self.config.buffers.weight_bytes // self.config.bus.bytes
        m.submodules.kept = ram = memory.Memory(shape=self.config.bus.data_bits, depth=words,
                                                init=[])
        write, read = ram.write_port(), ram.read_port()
        m.d.comb += [
            write.addr.eq(head.word), write.data.eq(self.bus.rdata),
            write.en.eq(self.beat & head.kept.keep), read.addr.eq(write.addr), read.en.eq(1)]
        valid, came, *others = (delay(m, value, 1, name=f"step{n}")
                                for n, value in enumerate(values))
        on_chip = delay(m, there, 1, name="on_chip")
        return [valid, Mux(on_chip, read.data, came), *others]
