"""On-chip map memory: feature maps that stay on chip between layers."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.burst import request_layout

__all__ = ["CHIP_READ_LATENCY", "MapMemory", "chip_write_layout"]

#: Cycles from taking a request to its first beat at the output.
CHIP_READ_LATENCY = 3
#: Write requests that have been taken and lack a beat.
_WRITES = 2


def chip_write_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A beat that is written, and its first byte; the same width for every memory size."""
    return data.StructLayout({"valid": 1, "address": 32, "data": config.bus.data_bits})


class MapMemory(wiring.Component):
    """A memory of whole beats with one read and one write port, both in use at the same time.

    Reads take requests of the sources one after the other, the first of the waiting ones first,
    and hand out a beat per cycle without a gap between requests. Beats are never refused, so
    sources ask only for what they can take. Addresses wrap at the size of the memory.

    Parameters
    ----------
    config : AcceleratorConfig
        Its ``buffers.map_bytes`` must not be 0.
    sources : int
        Readers, by falling priority.

    Members
    -------
    i : In(stream) x sources
        Read requests; byte offsets as addresses.
    valid, data, source : Out
        A beat, and whose it is.
    write : In(stream)
        Write requests.
    beat : In(stream)
        Their beats, in order, each after its request; always taken.
    idle : Out
        Every beat of every write request can be read by a request taken now.
    written : Out
        The beat that is written in this cycle, see :func:`chip_write_layout`.
    """

    def __init__(self, config: AcceleratorConfig, sources: int):
        self.config, self.sources = config, sources
        request = stream.Signature(request_layout(config))
        super().__init__({
            "i": In(request).array(sources), "valid": Out(1), "data": Out(config.bus.data_bits),
            "source": Out(range(sources)), "write": In(request),
            "beat": In(stream.Signature(config.bus.data_bits)), "idle": Out(1),
            "written": Out(chip_write_layout(config))})

    def elaborate(self, platform):
        m = Module()
        size = self.config.bus.bytes
        m.submodules.ram = ram = memory.Memory(
            shape=self.config.bus.data_bits, depth=self.config.buffers.map_bytes // size, init=[])
        self._read(m, ram.read_port())
        self._write(m, ram.write_port())
        return m

    def _word(self, address):
        """Memory word of a byte offset."""
        return address[(self.config.bus.bytes - 1).bit_length():]

    def _read(self, m, port):
        word, left, source = Signal.like(port.addr), Signal(16), Signal(range(self.sources))
        ready, taken, chosen = Signal(), Signal(), Signal.like(source)
        request = Signal(request_layout(self.config))
        m.d.comb += ready.eq(left <= 1)
        for n in reversed(range(self.sources)):
            with m.If(self.i[n].valid):
                m.d.comb += [chosen.eq(n), request.eq(self.i[n].payload), taken.eq(ready)]
        for n in range(self.sources):
            m.d.comb += self.i[n].ready.eq(taken & (chosen == n))
        with m.If(taken):
            m.d.sync += [word.eq(self._word(request.address)), left.eq(request.beats),
                         source.eq(chosen)]
        with m.Elif(left != 0):
            m.d.sync += [word.eq(word + 1), left.eq(left - 1)]

        # A register behind the memory, which alone may be as slow as a clock cycle.
        fetched, owner = Signal(), Signal.like(source)
        m.d.comb += [port.addr.eq(word), port.en.eq(1)]
        m.d.sync += [fetched.eq(left != 0), owner.eq(source), self.valid.eq(fetched),
                     self.data.eq(port.data), self.source.eq(owner)]

    def _write(self, m, port):
        m.submodules.requests = requests = fifo.SyncFIFO(
            width=request_layout(self.config).size, depth=_WRITES)
        head, count = Signal(request_layout(self.config)), Signal(16)
        ends = count + 1 == head.beats
        m.d.comb += [
            requests.w_en.eq(self.write.valid), requests.w_data.eq(self.write.payload),
            self.write.ready.eq(requests.w_rdy), head.eq(requests.r_data),
            requests.r_en.eq(self.beat.valid & ends), self.idle.eq(~requests.r_rdy),
            self.beat.ready.eq(1), port.en.eq(self.beat.valid),
            port.addr.eq(self._word(head.address) + count), port.data.eq(self.beat.payload)]
        with m.If(self.beat.valid):
            m.d.sync += count.eq(Mux(ends, 0, count + 1))
        m.d.comb += [
            self.written.valid.eq(port.en), self.written.data.eq(port.data),
            self.written.address.eq(port.addr * self.config.bus.bytes)]
