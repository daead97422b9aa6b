"""Decompress: a queue of beats that restores the zero bytes of compressed feature maps."""

from amaranth import Const, Module, Mux, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import CHUNK_BEATS, AcceleratorConfig

__all__ = ["DECOMPRESS_LATENCY", "Decompress", "length_shape"]

#: Cycles by which a beat comes later out of this queue than out of a plain one.
DECOMPRESS_LATENCY = 1


def length_shape() -> range:
    """Stored beats of a chunk, less one; the largest number is that of a chunk as it is."""
    return range(CHUNK_BEATS)


class Decompress(wiring.Component):
    """Queues beats; those of compressed maps come out as they were before :class:`Compress`.

    Masks and packed bytes are told apart as they arrive, so a beat per cycle goes in and a beat per
    cycle comes out, whatever the chunks are. A beat comes out two cycles after the last stored
    beat that it is made of, see :func:`hwgate.quant.compress.beats_needed`.

    Parameters
    ----------
    config : AcceleratorConfig
    depth : int
        Beats, as they come out, that are asked for and not yet taken; the user asks for no more. A
        multiple of :data:`hwgate.machine.config.CHUNK_BEATS`.

    Members
    -------
    packed : In
        The beats are those of chunks of a compressed map; changes only while all are taken.
    asked, length : In
        A chunk is asked for, of which so many beats, less one, are stored; before the first comes.
    valid, data : In
        A stored beat.
    o : Out(stream)
        The beats.
    """

    def __init__(self, config: AcceleratorConfig, depth: int):
        self.config, self.depth = config, depth
        super().__init__({
            "packed": In(1), "asked": In(1), "length": In(length_shape()), "valid": In(1),
            "data": In(config.bus.data_bits), "o": Out(stream.Signature(config.bus.data_bits))})

    def elaborate(self, platform):
        m = Module()
        bits, chunks = self.config.bus.data_bits, self.depth // CHUNK_BEATS
        m.submodules.beats = beats = fifo.SyncFIFO(width=bits, depth=self.depth)
        m.submodules.masks = masks = fifo.SyncFIFO(width=bits, depth=chunks)
        m.submodules.lengths = lengths = fifo.SyncFIFO(
            width=(CHUNK_BEATS - 1).bit_length(), depth=chunks)
        m.submodules.kinds = kinds = fifo.SyncFIFO(width=1, depth=chunks)

        # What arrives: masks go beside the beats.
        count, mask = Signal(length_shape()), Signal()
        ends = count == lengths.r_data
        m.d.comb += [
            lengths.w_en.eq(self.asked), lengths.w_data.eq(self.length),
            kinds.w_en.eq(self.asked), kinds.w_data.eq(self.length != CHUNK_BEATS - 1),
            mask.eq(self.packed & (count == 0) & (lengths.r_data != CHUNK_BEATS - 1)),
            masks.w_en.eq(self.valid & mask), masks.w_data.eq(self.data),
            beats.w_en.eq(self.valid & ~mask), beats.w_data.eq(self.data),
            lengths.r_en.eq(self.valid & self.packed & ends)]
        with m.If(self.valid & self.packed):
            m.d.sync += count.eq(Mux(ends, 0, count + 1))
        self._restore(m, beats, masks, kinds)
        return m

    def _restore(self, m, beats, masks, kinds):
        """A beat from its mask, the bytes left of the stored beat before, and the next one."""
        size = self.config.bus.bytes
        place, sparse, pull, go, end = (Signal(length_shape(), name="place"), Signal(name="sparse"),
                                        Signal(name="pull"), Signal(name="go"), Signal(name="end"))
        left, held = Signal(range(size)), Signal(8 * (size - 1))
        mask = Signal(size)
        before = [Const(0), *(Signal(range(n + 1), name=f"before{n}") for n in range(1, size + 1))]
        window = Signal(8 * (2 * size - 1))
        restored = Signal(data.ArrayLayout(8, size))
        m.d.comb += [
            sparse.eq(self.packed & kinds.r_data),
            mask.eq(masks.r_data.word_select(place, size)),
            pull.eq(~sparse | (before[size] > left)),
            go.eq((~self.packed | kinds.r_rdy) & (~sparse | masks.r_rdy) & (~pull | beats.r_rdy)
                  & (~self.o.valid | self.o.ready)),
            beats.r_en.eq(go & pull),
            end.eq(go & self.packed & (place == CHUNK_BEATS - 1)),
            kinds.r_en.eq(end), masks.r_en.eq(end & sparse),
            window.eq(held | Mux(pull, beats.r_data << (left << 3), 0))]
        for n in range(size):
            m.d.comb += [before[n + 1].eq(before[n] + mask[n]),
                         restored[n].eq(Mux(mask[n], window.word_select(before[n], 8), 0))]
        with m.If(go):
            m.d.sync += [place.eq(Mux(self.packed, place + 1, 0)),
                         self.o.payload.eq(Mux(sparse, restored.as_value(), beats.r_data))]
            with m.If(end | ~sparse):  # the rest of the last stored beat is padding
                m.d.sync += [left.eq(0), held.eq(0)]
            with m.Else():
                m.d.sync += [left.eq(left + Mux(pull, size, 0) - before[size]),
                             held.eq(window >> (before[size] << 3))]
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += self.o.valid.eq(go)
