"""Bench of WindowMemory: maps in two halves, and every window of them."""

from itertools import cycle, islice, product

import cocotb
import numpy as np
from cycle_helpers import assert_delayed, ordered_pairs, play

from hwgate.config import TAPS, AcceleratorConfig
from hwgate.quant.pixels import pixel
from hwgate.quant.window import channel_groups, window
from hwgate.rtl.structs import pixel_layout, window_write_layout
from hwgate.rtl.window import WINDOW_LATENCY
from hwgate.sim.streams import pack, parameters, start

#: (height, width) of a map without padding, padding, step.
GEOMETRIES = [(3, 3, 0, 1), (1, 1, 1, 1), (1, 1, 2, 1), (5, 4, 1, 1), (4, 7, 2, 1), (7, 5, 0, 1),
              (6, 7, 1, 2), (8, 3, 2, 2), (7, 9, 0, 2), (8, 7, 1, 3), (6, 6, 0, 3), (3, 8, 2, 3),
              (9, 10, 1, 1)]


class Maps:
    """Channel groups in both halves, and where their words lie; ``high`` puts them at the end.

    ``x`` is (2, groups, R, H, W), one array per half; in bank mode (2, groups, 9, R, H, W).
    """

    def __init__(self, config, rng, geometry, *, bank_mode=False, high=False):
        self.config, self.rng, self.bank_mode = config, rng, bank_mode
        self.height, self.width, self.pad, self.step = geometry
        height, width = self.height + 2 * self.pad, self.width + 2 * self.pad
        size, self.distance = (1, 1) if bank_mode else (3, self.step)
        self.out_width = (width - size) // self.distance + 1
        self.count = self.out_width * ((height - size) // self.distance + 1)
        self.row_words = width if bank_mode else -(-width // 3)
        self.group_words = self.row_words * (height if bank_mode else -(-height // 3))
        words = config.buffers.window_words
        self.groups = min(3, words // self.group_words)
        self.origin = words - self.groups * self.group_words if high else 0
        group = (TAPS, config.channels) if bank_mode else (config.channels,)
        self.x = self.noise((2, self.groups, *group, self.height, self.width))

    def noise(self, shape):
        """Random bytes other than zero, so that a tap that is not masked shows."""
        return self.rng.choice([*range(-128, 0), *range(1, 128)], shape).astype(np.int8)

    def renew(self, half):
        """Other maps in this half."""
        self.x[half] = self.noise(self.x[half].shape)

    @property
    def ports(self):
        """Values of the geometry inputs; a row that fills a half is one row, its size no matter."""
        return {"pad": self.pad, "row_end": self.pad + self.height,
                "col_end": self.pad + self.width, "bank_mode": int(self.bank_mode),
                "row_words": self.row_words % self.config.buffers.window_words}

    def words(self, half):
        """Words (address within the groups, bank, R) of a half; no pixel: noise."""
        words = self.noise((self.groups * self.group_words, TAPS, self.config.channels))
        for group, row, column in np.ndindex(self.groups, self.height, self.width):
            first, at = group * self.group_words, self.x[half, group, ..., row, column]
            if self.bank_mode:
                words[first + row * self.row_words + column] = at
            else:
                y, x = self.pad + row, self.pad + column
                words[first + y // 3 * self.row_words + x // 3, 3 * (y % 3) + x % 3] = at
        return words

    def load(self, half):
        """Inputs that write a half: each word once, in two cycles with some of the banks each."""
        for address, row in enumerate(self.words(half)):
            first = self.rng.random(TAPS) < 0.5
            for enabled in (first, ~first):
                yield {"write": self._strobes(half, self.origin + address, row, enabled)}

    def _strobes(self, half, address, row, enabled):
        """Bits that write the words of ``row`` in ``enabled`` banks; the others see noise."""
        layout, bits = window_write_layout(self.config), 0
        for bank in range(TAPS):
            data, place = row[bank], half * self.config.buffers.window_words + address
            if not enabled[bank]:
                data, place = self.noise(data.shape), int(self.rng.integers(place + 1))
            word = {"enable": int(enabled[bank]), "address": place,
                    "data": int.from_bytes(data.tobytes(), "little")}
            for name, value in word.items():
                bits |= value << layout[bank].offset + layout.elem_shape[name].offset
        return bits

    def windows(self, half):
        """(half, group, number) of every window of a half."""
        return [(half, *rest) for rest in np.ndindex(self.groups, self.count)]

    def read(self, half, group, index):
        """Inputs for a window."""
        at = pixel(index, self.step, self.out_width, self.row_words)
        at["index"] %= self.config.buffers.pixels
        return {"half": half, "base": self.origin + group * self.group_words,
                "pixel": pack(pixel_layout(self.config), at)}

    def expected(self, half, group, index):
        """Bits of the window by the golden model."""
        row, column = (self.distance * n for n in divmod(index, self.out_width))
        taps = (channel_groups(self.x[half, group], row, column) if self.bank_mode else
                window(self.x[half, group], row, column, self.pad))
        return int.from_bytes(taps.tobytes(), "little")


def started():
    """Configuration and generator of random numbers."""
    return (AcceleratorConfig.from_dict(parameters()["config"]), np.random.default_rng(1))


async def check(dut, rounds):
    """Play rounds (maps, writes, windows): windows from the first cycle on, writes up to the last.

    Every window is compared. The pipeline is empty when the geometry changes, and only then.
    """
    inputs, expected, ports = [], [], None
    for maps, writes, windows in rounds:
        if maps.ports != ports:
            inputs += [{"write": 0}] * WINDOW_LATENCY
            expected += [None] * WINDOW_LATENCY
            ports = maps.ports
        writes = list(writes)
        cycles = max(len(writes), len(windows))
        for write, at in zip([{"write": 0}] * (cycles - len(writes)) + writes,
                             windows + [None] * (cycles - len(windows)), strict=True):
            inputs.append(ports | write | (maps.read(*at) if at else {}))
            expected.append((maps.expected(*at),) if at else None)
    await start(dut)
    assert_delayed(await play(dut, inputs, ["o"], after=WINDOW_LATENCY), WINDOW_LATENCY, expected)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_window_of_every_geometry(dut):
    """Both halves and every group, at the low and at the high end of the memory."""
    config, rng = started()
    rounds = []
    for geometry, high in product(GEOMETRIES, (False, True)):
        maps = Maps(config, rng, geometry, high=high)
        rounds += [(maps, [*maps.load(0), *maps.load(1)], []),
                   (maps, [], maps.windows(0) + maps.windows(1))]
    assert {(maps.pad, maps.step) for maps, *_ in rounds} == {*product((0, 1, 2), (1, 2, 3))}
    await check(dut, rounds)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_rotation_follows_every_rotation(dut):
    """In both halves, at random positions."""
    config, rng = started()
    maps, places = Maps(config, rng, (9, 10, 1, 1)), {}
    for at in maps.windows(0) + maps.windows(1):
        row, column = divmod(at[2], maps.out_width)
        places.setdefault((at[0], row % 3, column % 3), []).append(at)
    assert len(places) == 2 * TAPS
    windows = [places[key][rng.integers(len(places[key]))] for key in ordered_pairs(places)]
    await check(dut, [(maps, [*maps.load(0), *maps.load(1)], []), (maps, [], windows)])


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def bank_mode(dut):
    """Tap t is bank t, nothing is masked; between layers in window mode."""
    config, rng = started()
    rounds = []
    for shape, high in product(((1, 1), (4, 4), (2, 5), (1, 16), (8, 2)), (False, True)):
        for maps in (Maps(config, rng, (*shape, 0, 3), bank_mode=True, high=high),
                     Maps(config, rng, (3, 4, 1, 1))):
            rounds += [(maps, [*maps.load(0), *maps.load(1)], []),
                       (maps, [], maps.windows(0) + maps.windows(1))]
    await check(dut, rounds)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def one_half_is_written_while_the_other_is_read(dut):
    """Halves change roles at once: the first window follows the last write."""
    config, rng = started()

    def rounds():
        for geometry, mode in (((9, 10, 1, 1), False), ((2, 8, 0, 3), True),
                               ((6, 5, 2, 2), False)):
            maps = Maps(config, rng, geometry, bank_mode=mode)
            yield maps, maps.load(0), []
            for half in (0, 1, 0, 1):
                maps.renew(1 - half)
                writes = 2 * maps.groups * maps.group_words
                yield (maps, maps.load(1 - half),
                       list(islice(cycle(maps.windows(half)), max(writes, maps.count))))

    await check(dut, rounds())
