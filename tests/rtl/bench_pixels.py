"""Bench of PixelCounter: whole tiles with pauses, and restarts anywhere."""

from itertools import product

import cocotb

from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.pixels import pixel
from hwgate.rtl.structs import pixel_layout
from hwgate.sim.streams import pack, parameters, start
from support.cycles import assert_delayed, play
from support.rtl import GAPS

#: Distances of windows: those of layers in window mode, those in bank mode (multiples of three),
#: and others up to the largest.
STEPS = (1, 2, 3, 6, 4, 5, 8, 11)


def tiles(config):
    """(step, width, row_words, count, images, reduce) of the largest image of each step and width,
    and of 1x1; of several images, with words between them."""
    words, pixels = config.buffers.window_words, config.buffers.pixels
    for step in STEPS:
        yield step, 1, 1, 1, 1, False
        for width in (1, 2, 3, 4, 5, 8, 16):
            row_words = step * (width - 1) // 3 + 1
            rows = min(pixels // width, (3 * (words // row_words) - 1) // step + 1)
            yield step, width, row_words, rows * width, 1, False
            pitch = -(-2 * width // config.beat_pixels) * config.beat_pixels
            for reduce in (False, True):
                yield step, width, row_words, 2 * width, min(5, pixels // pitch), reduce
        for images in (2, 3):
            yield step, 1, 1, 1, images, False


class Walk:
    """Inputs of every cycle and the outputs they lead to; None where there is no window yet."""

    def __init__(self, config):
        self.layout, self.inputs, self.expected = pixel_layout(config), [], []
        self.words, self.beat_pixels = config.buffers.window_words, config.beat_pixels
        self.tile, self.index = None, None

    def step(self, *, restart=False, forward=False):
        """One cycle."""
        step, width, row_words, count, images, reduce = self.tile
        step_q, step_m = divmod(step, 3)
        image_words = (2 * step * row_words + 7) % self.words  # any will do; addresses wrap
        at = None if self.index is None else self.index % count
        self.inputs.append({"restart": restart, "next": forward, "step_q": step_q,
                            "step_m": step_m, "width": width, "row_words": row_words,
                            "row_step": step_q * row_words % self.words,
                            "image_last": at == count - 1, "image_words": image_words,
                            "reduce": reduce})
        if self.index is None or self.index >= images * count:  # beyond the last one: no window
            self.expected.append(None)
        else:
            found = pixel(self.index, step, width, row_words, count=count, reduce=reduce,
                          image_words=image_words, beat_pixels=self.beat_pixels)
            found["ya"] %= self.words
            self.expected.append((pack(self.layout, found), at % width == width - 1))
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
        trace = await play(dut, self.inputs, ["o", "row_end"])
        assert_delayed(trace, 0, self.expected)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def tiles_back_to_back(dut):
    """The largest tile of every shape, without a pause; a restart with the last ``next``."""
    config = AcceleratorConfig.from_dict(parameters()["config"])
    walk, counts = Walk(config), set()
    for tile in tiles(config):
        walk.begin(tile, forward=True)
        windows = tile[3] * tile[4]
        for index in range(windows):
            walk.step(forward=True, restart=index == windows - 1)
        walk.step()
        counts.add(windows)
    assert {1, config.buffers.pixels} <= counts
    await walk.check(dut)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def pauses(dut):
    """A window stays until ``next``."""
    config = AcceleratorConfig.from_dict(parameters()["config"])
    walk = Walk(config)
    for step in STEPS:
        for width, rows in ((1, 4), (3, 2), (4, 4)):
            for images, gaps in product((1, 3), GAPS.values()):
                tile = (step, width, step * (width - 1) // 3 + 1, width * rows, images, False)
                walk.begin(tile)
                cycle = 0
                while walk.index < images * tile[3]:
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
        tile = (step, 4, step + 2, 8, 2, False)
        walk.begin(tile)
        for index in range(2 * tile[3]):
            for forward in (False, True):
                for restarts in (1, 2):
                    for _ in range(index):
                        walk.step(forward=True)
                    for _ in range(restarts):
                        walk.step(forward=forward, restart=True)
    await walk.check(dut)
