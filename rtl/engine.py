"""Engine: the whole accelerator behind its two buses."""

from amaranth import Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.counters import LANE_COUNTERS, STREAMS
from hwgate.machine.regs import COUNTER_BITS, counter_names, engine_registers
from hwgate.rtl.axi import axi4_signature, axi_lite_signature
from hwgate.rtl.chunks import ChunkTable
from hwgate.rtl.compress import Compress
from hwgate.rtl.lane import Lane, lane_signature
from hwgate.rtl.loader import Loader
from hwgate.rtl.onchip import MapMemory, chip_write_layout
from hwgate.rtl.reader import Reader
from hwgate.rtl.regs import RegisterBank
from hwgate.rtl.residual import ResidualLoader
from hwgate.rtl.sequencer import Sequencer
from hwgate.rtl.shared import SharedInstance
from hwgate.rtl.store import Store
from hwgate.rtl.structs import descriptor, event_layout
from hwgate.rtl.unpack import Unpack
from hwgate.rtl.writer import BEAT_QUEUE, Writer

__all__ = ["LANE_MODULE", "Engine", "monitor_signature"]

#: Verilog module that all lanes share.
LANE_MODULE = "hwgate_lane"


def monitor_signature(config: AcceleratorConfig) -> wiring.Signature:
    """Ports for simulation: layer strobe, counters, one event per output and lane, on-chip writes.

    Of a map that is compressed, ``chip`` has the first byte of each chunk and its length.
    """
    return wiring.Signature({
        "layer_done": Out(1), "chip": Out(chip_write_layout(config)),
        "counters": Out(data.ArrayLayout(COUNTER_BITS, len(counter_names(config)))),
        "events": Out(data.ArrayLayout(event_layout(), config.lanes))})


class Engine(wiring.Component):
    """Lanes, loader, store and sequencer on one AXI4 manager, controlled through AXI4-Lite.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    m_axi : Out
        Off-chip memory.
    s_axil : In
        Registers, see :func:`hwgate.machine.regs.engine_registers`.
    irq : Out
        ``STATUS.done`` while ``CONTROL.irq_enable`` is set.
    monitor : Out
        See :func:`monitor_signature`; unconnected on a board.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__({
            "m_axi": Out(axi4_signature(config)), "s_axil": In(axi_lite_signature()),
            "irq": Out(1), "monitor": Out(monitor_signature(config))})

    def elaborate(self, platform):
        m = Module()
        config = self.config
        clear = Signal()
        clearable = ResetInserter(clear)
        m.submodules.bank = bank = RegisterBank(engine_registers(config))
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.submodules.loader = loader = clearable(Loader(config))
        m.submodules.residual = residual = clearable(ResidualLoader(config))
        m.submodules.store = store = clearable(Store(config))
        m.submodules.unpack = unpack = clearable(Unpack(config))
        # Priority: descriptors, conditional weights, headers and base weights, windows, residual
        # operands.
        conds = range(1, 1 + config.lanes)
        bases = range(1 + config.lanes, 1 + 2 * config.lanes)
        windows, operands = 1 + 2 * config.lanes, 2 + 2 * config.lanes
        m.submodules.reader = reader = clearable(Reader(config, operands + 1))
        m.submodules.writer = writer = clearable(Writer(config))
        lanes = [SharedInstance(lane_signature(config), lambda: Lane(config), LANE_MODULE, clear)
                 for _ in range(config.lanes)]
        for n, lane in enumerate(lanes):
            m.submodules[f"lane{n}"] = lane
            m.d.comb += lane.lane.eq(n)

        for channels in (reader.bus, writer.bus):
            for name, member in channels.signature.members.items():
                port, here = getattr(self.m_axi, name), getattr(channels, name)
                m.d.comb += port.eq(here) if member.flow is Out else here.eq(port)

        # Requests and their answers.
        wiring.connect(m, sequencer.o, reader.i[0])
        for lane, cond, base in zip(lanes, conds, bases):
            wiring.connect(m, lane.cond, reader.i[cond])
            wiring.connect(m, lane.base, reader.i[base])
            m.d.comb += reader.header[base].eq(lane.header)
            if config.buffers.weight_bytes:
                m.d.comb += [reader.kept[cond].eq(lane.cond_kept),
                             reader.kept[base].eq(lane.base_kept)]
        m.d.comb += [
            reader.halt.eq(sequencer.halt),
            sequencer.valid.eq(reader.valid & (reader.source == 0)),
            sequencer.data.eq(reader.data), sequencer.last.eq(reader.last),
            unpack.valid.eq(reader.valid & (reader.source != 0) & (reader.source < windows)),
            unpack.data.eq(reader.data), unpack.last.eq(reader.last),
            unpack.header.eq(reader.o_header)]
        owner = Signal.like(reader.source)
        m.d.sync += owner.eq(reader.source)
        for lane, cond, base in zip(lanes, conds, bases):
            m.d.comb += [
                lane.header_valid.eq(unpack.header_valid & (owner == base)),
                lane.base_valid.eq(unpack.block_valid & (owner == base)),
                lane.cond_valid.eq(unpack.block_valid & (owner == cond)),
                lane.job_header.eq(unpack.o_header), lane.block.eq(unpack.o_block)]

        # A layer.
        for block in (loader, residual, store, *lanes):
            m.d.comb += [block.start.eq(sequencer.begin), block.layer.eq(sequencer.layer)]
        for n, lane in enumerate(lanes):
            m.d.comb += [
                store.lanes[n].eq(lane.status), loader.lanes[n].eq(lane.status),
                residual.lanes[n].eq(lane.status), lane.residual_write.eq(residual.write),
                lane.progress.residual_tile.eq(residual.tile),
                lane.progress.residual_plane.eq(residual.plane),
                lane.write.eq(loader.write), lane.progress.loaded_tile.eq(loader.tile),
                lane.progress.loaded_plane.eq(loader.plane),
                lane.progress.loaded_words.eq(loader.words),
                lane.progress.stored_tile.eq(store.stored_tile),
                lane.column_address.eq(store.address), store.columns[n].eq(lane.column),
                self.monitor.events[n].eq(lane.event)]
            with m.If(~sequencer.busy | sequencer.starting):  # of the program before
                m.d.comb += self.monitor.events[n].valid.eq(0)
        off_chip, idle = self._off_chip(m, clearable, writer, loader, residual,
                                        descriptor(store.layer))
        maps_idle = self._maps(m, clearable, reader, off_chip, loader, residual, store) & idle
        m.d.comb += [
            store.others_idle.eq(maps_idle & loader.idle & residual.idle),
            store.halt.eq(sequencer.halt), clear.eq(sequencer.clear),
            sequencer.start.eq(bank.control__start), sequencer.program.eq(bank.program__address),
            sequencer.finished.eq(store.finished), sequencer.read_error.eq(reader.error),
            sequencer.write_error.eq(writer.error),
            sequencer.quiet.eq(reader.idle & idle & ~store.busy)]
        wiring.connect(m, wiring.flipped(self.s_axil), bank.bus)
        m.d.comb += [
            bank.status__busy.eq(sequencer.busy), bank.status__done.eq(sequencer.done),
            bank.status__error.eq(sequencer.error), bank.layers__value.eq(sequencer.layers),
            # `done` of the last program must not interrupt for the one that starts.
            self.irq.eq(sequencer.done & bank.control__irq_enable & ~bank.control__start),
            self.monitor.layer_done.eq(sequencer.layer_done)]
        self._count(m, bank, sequencer, reader, writer, lanes)
        return m

    def _off_chip(self, m, clearable, writer, loader, residual, layer):
        """Maps off chip, compressed or not: what takes them, and when all is written."""
        if not self.config.buffers.compressed_chunks:
            return writer, writer.idle
        m.submodules.compress = compress = clearable(Compress(self.config))
        m.submodules.chunks = chunks = ChunkTable(self.config, 2)
        wiring.connect(m, loader.table, chunks.i[0])
        wiring.connect(m, residual.table, chunks.i[1])
        wiring.connect(m, compress.o, writer.i)
        wiring.connect(m, compress.o_beat, writer.beat)
        m.d.comb += [
            compress.packed.eq(layer.out_packed), compress.o_room.eq(writer.room),
            chunks.chunk.eq(compress.chunk), chunks.first.eq(layer.out_entry),
            self.monitor.chip.valid.eq(compress.chunk.valid),
            self.monitor.chip.address.eq(compress.chunk.address),
            self.monitor.chip.data.eq(compress.chunk.length)]
        return compress, writer.idle & compress.idle

    def _maps(self, m, clearable, reader, off_chip, loader, residual, store):
        """Maps come from the bus and go there, or stay on chip; true when those on chip are
        written."""
        layer = descriptor(store.layer)
        sides = ((loader, layer.in_chip[0], reader.sources - 2),
                 (residual, layer.res_chip[0], reader.sources - 1))
        for block, _, source in sides:
            m.d.comb += [block.valid.eq(reader.valid & (reader.source == source)),
                         block.data.eq(reader.data)]
        m.d.comb += store.room.eq(off_chip.room)
        if not self.config.buffers.map_bytes:
            for block, _, source in sides:
                wiring.connect(m, block.o, reader.i[source])
            wiring.connect(m, store.o, off_chip.i)
            wiring.connect(m, store.beat, off_chip.beat)
            return Const(1)

        m.submodules.maps = maps = clearable(MapMemory(self.config, len(sides)))
        for n, (block, chip, source) in enumerate(sides):
            _switch(m, block.o, chip, reader.i[source], maps.i[n])
            with m.If(chip):
                m.d.comb += [block.valid.eq(maps.valid & (maps.source == n)),
                             block.data.eq(maps.data)]
        _switch(m, store.o, layer.out_chip[0], off_chip.i, maps.write)
        _switch(m, store.beat, layer.out_chip[0], off_chip.beat, maps.beat)
        with m.If(layer.out_chip[0]):
            m.d.comb += store.room.eq(BEAT_QUEUE)
        with m.If(maps.written.valid):
            m.d.comb += self.monitor.chip.eq(maps.written)
        return maps.idle

    def _count(self, m, bank, sequencer, reader, writer, lanes):
        """Counters of the run: cycles, bytes of each stream, activity of each lane."""
        beats = {
            "program": reader.beat & (reader.beat_source == 0),
            "conditional": reader.beat & (reader.beat_source >= 1)
            & (reader.beat_source <= len(lanes)),
            "base": reader.beat & (reader.beat_source > len(lanes))
            & (reader.beat_source <= 2 * len(lanes)),
            "residual": reader.beat & (reader.beat_source == 2 + 2 * len(lanes)),
            "windows": reader.beat & (reader.beat_source == 1 + 2 * len(lanes)),
            "output": writer.bus.wvalid & writer.bus.wready}
        steps = {"cycles": 1}
        steps |= {f"bytes_{name}": Mux(beats[name], self.config.bus.bytes, 0) for name in STREAMS}
        steps |= {f"lane{n}_{name}": lane.activity[bit] for n, lane in enumerate(lanes)
                  for bit, name in enumerate(LANE_COUNTERS)}
        for counter, name in zip(self.monitor.counters, counter_names(self.config)):
            m.d.comb += getattr(bank, f"{name}__value").eq(counter)
            with m.If(sequencer.starting):
                m.d.sync += counter.eq(0)
            with m.Elif(sequencer.busy):
                m.d.sync += counter.eq(counter + steps[name])


def _switch(m, source, chip, off, on):
    """Connect a stream to ``on`` while ``chip`` is set, else to ``off``."""
    m.d.comb += [
        off.payload.eq(source.payload), on.payload.eq(source.payload),
        off.valid.eq(source.valid & ~chip), on.valid.eq(source.valid & chip),
        source.ready.eq(Mux(chip, on.ready, off.ready))]
