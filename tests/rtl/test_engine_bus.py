"""The whole accelerator where reads and writes share a bus: bits, cycles, bytes, counters."""

from unittest import mock

import numpy as np
import pytest

import hwgate
from hwgate.machine.config import MemoryTiming
from hwgate.quant.layer import QuantizedLayer
from hwgate.quant.network import QuantizedNetwork
from hwgate.results.comparison import compare
from support.engine_cases import CONFIGS
from support.random_layers import random_images

#: Memories that take a beat every few cycles.
SHARED = [MemoryTiming(read_latency=9, write_latency=5, beat_interval=interval, shared=True)
          for interval in (2, 8, 16)]


def wide_network(config, width, kernel, pool):
    """Four channels into some more, and back; the maps have 16 pixels in a row."""
    rng = np.random.default_rng(3)

    def layer(name, channels, outputs, edge, **options):
        shape = (outputs, channels, kernel, kernel)
        return QuantizedLayer(
            name, rng.integers(-20, 21, shape).astype(np.int8), np.ones(shape[:2], bool), None,
            rng.integers(-500, 500, (outputs, 2)), rng.integers(2000, 6000, (outputs, 2)),
            np.full(outputs, 20), (channels, edge, edge), padding=kernel // 2, **options)

    return QuantizedNetwork(config, (layer("wide", 4, width, 16, pool=pool),
                                     layer("narrow", width, 4, 16 // pool)))


@pytest.mark.parametrize("name,widths", [("4x36", (32, 32)), ("4x36zeros", (8, 32))])
@pytest.mark.parametrize("kernel,pool", [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_writes_wait_for_their_turn(name, widths, kernel, pool):
    """Lanes lose other cycles than with a memory that has room for every write, and those of RTL
    and cost model are the same."""
    config = CONFIGS[name]
    network = wide_network(config, widths[pool - 1], kernel, pool)
    program, waits = hwgate.compile(network), []
    images = random_images(np.random.default_rng(1), network, 4)
    assert bool(program.bind(images).steps[0].descriptor["out_packed"]) == (name == "4x36zeros")
    for timing in SHARED:
        model = hwgate.estimate(program, images, timing)
        comparison = compare(hwgate.simulate(program, images, timing), model)
        assert comparison.equal, (timing, comparison.describe())
        with mock.patch("hwgate.schedule.waiting_store.WRITE_BUFFER", 1 << 30):
            endless = hwgate.estimate(program, images, timing)
        waits += [layer.lanes != other.lanes
                  for layer, other in zip(model.layers, endless.layers, strict=True)]
    assert any(waits)


def test_a_shared_bus_is_never_faster():
    """Reads that take turns with writes end no earlier, and writes that wait for them do not."""
    network = wide_network(CONFIGS["4x36"], 32, 1, 1)
    program = hwgate.compile(network)
    images = random_images(np.random.default_rng(2), network, 2)
    for interval in (1, 4, 16):
        alone, shared = (hwgate.estimate(program, images, MemoryTiming(
            beat_interval=interval, shared=shared)) for shared in (False, True))
        assert alone.cycles < shared.cycles
        assert [layer.bytes for layer in alone.layers] == [layer.bytes for layer in shared.layers]
        beats = sum(layer.bytes_total for layer in shared.layers) // program.config.bus.bytes
        assert shared.cycles > beats * interval
