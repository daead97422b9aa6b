"""Chunk table: how long each chunk of the compressed feature maps is."""

from amaranth import Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.compress import chunk_layout
from hwgate.rtl.decompress import length_shape

__all__ = ["LOOKUP_CYCLES", "ChunkTable", "lookup_signature", "table_entry"]

#: Cycles from an entry to its length.
LOOKUP_CYCLES = 1


def lookup_signature(config: AcceleratorConfig) -> wiring.Signature:
    """What a block that reads compressed maps asks the table: ``length`` is that of the ``entry``
    of the cycle before."""
    return wiring.Signature({"entry": Out(range(config.buffers.compressed_chunks)),
                             "length": In(length_shape())})


def table_entry(config: AcceleratorConfig, address, first):
    """Entry of the chunk at ``address``, where that of the chunk at address 0 is ``first``."""
    bits = (config.buffers.compressed_chunks - 1).bit_length()
    return (address[(config.chunk_bytes - 1).bit_length():] + first)[:bits]


class ChunkTable(wiring.Component):
    """Remembers the stored beats of each chunk from the layer that writes it to those that read it.

    Entries that no layer of a program has written hold whatever a program before left there.

    Parameters
    ----------
    config : AcceleratorConfig
        Its ``buffers.compressed_chunks`` must not be 0.
    readers : int

    Members
    -------
    chunk, first : In
        A chunk that is stored now, see :func:`chunk_layout`, and the entry of address 0.
    i : In x readers
        Look-ups, see :func:`lookup_signature`.
    """

    def __init__(self, config: AcceleratorConfig, readers: int):
        self.config, self.readers = config, readers
        super().__init__({"chunk": In(chunk_layout(config)), "first": In(16),
                          "i": In(lookup_signature(config)).array(readers)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = memory.Memory(
            shape=length_shape(), depth=self.config.buffers.compressed_chunks, init=[])
        write = ram.write_port()
        m.d.comb += [
            write.en.eq(self.chunk.valid), write.data.eq(self.chunk.length),
            write.addr.eq(table_entry(self.config, self.chunk.address, self.first))]
        for reader in self.i:
            port = ram.read_port()
            m.d.comb += [port.en.eq(1), port.addr.eq(reader.entry), reader.length.eq(port.data)]
        return m
