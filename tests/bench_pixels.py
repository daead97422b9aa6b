"""Bench of PixelCounter: whole tiles with pauses, and restarts anywhere."""

import cocotb

from cycle_helpers import assert_delayed, play
from hwgate.config import AcceleratorConfig
from hwgate.quant.pixels import pixel
from hwgate.rtl.structs import pixel_layout
from hwgate.sim.streams import pack, parameters, start
from rtl_helpers import GAPS

#: Distances of windows: those of layers in window mode, those in bank mode (multiples of three),
#: and others up to the largest.
STEPS = (1, 2, 3, 6, 4, 5, 8, 11)


def tiles(config):
    """(step, width, row_words, count) of the largest tile of each step and width, and of 1x1."""
    words, pixels = config.buffers.window_words, config.buffers.pixels
    for step in STEPS:
        yield step, 1, 1, 1
        for width in (1, 2, 3, 4, 5, 8, 16):
            row_words = step * (width - 1) // 3 + 1
            rows = min(pixels // width, (3 * (words // row_words) - 1) // step + 1)
            yield step, width, row_words, rows * width


class Walk:
    """Inputs of every cycle and the outputs they lead to; None where there is no window yet."""

    def __init__(self, config):
        self.layout, self.inputs, self.expected = pixel_layout(config), [], []
        self.words = config.buffers.window_words  # addresses wrap
        self.tile, self.index = None, None

    def step(self, *, restart=False, forward=False):
        """One cycle."""
        step, width, row_words, count = self.tile
        step_q, step_m = divmod(step, 3)
        self.inputs.append({"restart": restart, "next": forward, "step_q": step_q,
                            "step_m": step_m, "width": width, "row_words": row_words,
                            "row_step": step_q * row_words % self.words, "count": count})
        known = self.index is not None and self.index < count  # beyond the last one: no window
        self.expected.append((pack(self.layout, pixel(self.index, step, width, row_words)),
                              self.index % width == width - 1, self.index == count - 1)
                             if known else None)
        if restart:
            self.index = 0
        elif forward:
            self.index += 1

    def begin(self, tile, *, forward=False):
        """Restart in a tile's first cycle; the outputs of that cycle belong to no tile."""
        self.tile, self.index = tile, None
        self.step(restart=True, forward=forward)

    async def check(self, dut):
        await start(dut)
        trace = await play(dut, self.inputs, ["o", "row_end", "last"])
        assert_delayed(trace, 0, self.expected)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def tiles_back_to_back(dut):
    """The largest tile of every shape, without a pause; a restart with the last ``next``."""
    config = AcceleratorConfig.from_dict(parameters()["config"])
    walk, counts = Walk(config), set()
    for tile in tiles(config):
        walk.begin(tile, forward=True)
        for index in range(tile[3]):
            walk.step(forward=True, restart=index == tile[3] - 1)
        walk.step()
        counts.add(tile[3])
    assert {1, config.buffers.pixels} <= counts
    await walk.check(dut)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def pauses(dut):
    """A window stays until ``next``."""
    config = AcceleratorConfig.from_dict(parameters()["config"])
    walk = Walk(config)
    for step in STEPS:
        for width, rows in ((1, 4), (3, 2), (4, 4)):
            tile = (step, width, step * (width - 1) // 3 + 1, width * rows)
            for gaps in GAPS.values():
                walk.begin(tile)
                cycle = 0
                while walk.index < tile[3]:
                    walk.step(forward=not gaps or not gaps[cycle % len(gaps)])
                    cycle += 1
    await walk.check(dut)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def restart_at_every_window(dut):
    """From every window of a tile, with ``next`` and without, also twice in a row.

    The rows have a word more than the corners of the windows need, as for a larger kernel.
    """
    config = AcceleratorConfig.from_dict(parameters()["config"])
    walk = Walk(config)
    for step in STEPS:
        tile = (step, 4, step + 2, 16)
        walk.begin(tile)
        for index in range(tile[3]):
            for forward in (False, True):
                for restarts in (1, 2):
                    for _ in range(index):
                        walk.step(forward=True)
                    for _ in range(restarts):
                        walk.step(forward=forward, restart=True)
    await walk.check(dut)
