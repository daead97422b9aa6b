"""Chunk table, and the queue that reads compressed maps by it."""

import random
from pathlib import Path

import pytest

from hwgate.machine.config import AcceleratorConfig, BufferConfig, BusConfig
from hwgate.rtl.chunks import LOOKUP_CYCLES, ChunkTable
from hwgate.rtl.tiles import TileQueue
from hwgate.sim.block import run_block
from support.rtl import run
from support.shares import rest_slow

ENTRIES = 32
CONFIGS = [AcceleratorConfig(lanes=2, channels=channels, bus=BusConfig(data_bits=bits),
                             buffers=BufferConfig(compressed_chunks=ENTRIES))
           for channels, bits in ((4, 128), (8, 64))]
each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.bus.data_bits}bit")


@each_config
def test_the_table_keeps_the_last_length_of_each_entry(config):
    rng, dut = random.Random(1), ChunkTable(config, 2)
    lengths = {}

    async def bench(ctx):
        for n in range(400):
            first, address = rng.randrange(1 << 16), rng.randrange(1 << 20) * config.chunk_bytes
            entry, length = (first + address // config.chunk_bytes) % ENTRIES, rng.randrange(8)
            valid = n < ENTRIES * 5 or rng.random() < 0.3
            ctx.set(dut.first, first)
            ctx.set(dut.chunk, {"valid": valid, "address": address, "length": length})
            wanted = [rng.randrange(ENTRIES) for _ in dut.i]
            for port, other in zip(dut.i, wanted, strict=True):
                ctx.set(port.entry, other)
            before = dict(lengths)
            if valid:
                lengths[entry] = length
            await ctx.tick().repeat(LOOKUP_CYCLES)
            for port, other in zip(dut.i, wanted, strict=True):
                if other in before and not (valid and other == entry):
                    assert ctx.get(port.length) == before[other]
        assert len(lengths) == ENTRIES

    run(dut, bench)


@pytest.mark.parametrize("config", rest_slow(CONFIGS), ids=lambda c: f"{c.bus.data_bits}bit")
def test_compressed_tiles_on_verilator(config):
    run_block(TileQueue(config), Path(__file__).with_name("bench_chunks.py"),
              parameters={"config": config.to_dict()})
