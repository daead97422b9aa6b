"""Bench of WindowMemory: maps in two halves, and every window of them."""

from dataclasses import dataclass
from itertools import chain, cycle, islice, permutations, product

import cocotb
import numpy as np

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.quant.pixels import pixel
from hwgate.quant.window import channel_groups, window
from hwgate.rtl.structs import pixel_layout, window_write_layout
from hwgate.rtl.window import WINDOW_LATENCY
from hwgate.sim.streams import pack, parameters, start
from support.cycles import assert_delayed, ordered_pairs, play

#: Cycles from a position to the reads of its words.
READ_LATENCY = 2


@dataclass(frozen=True)
class Geometry:
    """A map, or a band of its rows, and the kernel that goes over it; ``kernel`` 1 is bank mode.

    ``pad`` columns of padding on the left and right, ``top`` and ``bottom`` rows of it.
    """

    height: int
    width: int
    pad: int = 0
    stride: int = 1
    kernel: int = 3
    top: int = 0
    bottom: int = 0

    @classmethod
    def whole(cls, height, width, pad, stride, kernel=3):
        """A map that is padded alike on all sides."""
        return cls(height, width, pad, stride, kernel, pad, pad)


WHOLE = [Geometry.whole(*numbers) for numbers in (
    (3, 3, 0, 1), (1, 1, 1, 1), (1, 1, 2, 1), (5, 4, 1, 1), (4, 7, 2, 1), (7, 5, 0, 1),
    (6, 7, 1, 2), (8, 3, 2, 2), (7, 9, 0, 2), (8, 7, 1, 3), (6, 6, 0, 3), (3, 8, 2, 3),
    (1, 1, 3, 1), (4, 3, 3, 2), (5, 4, 3, 3), (9, 10, 1, 1))]
LARGE = [Geometry.whole(*numbers) for numbers in (
    (5, 6, 2, 1, 5), (8, 7, 2, 2, 5), (6, 5, 0, 1, 5), (6, 6, 3, 1, 7), (3, 5, 3, 2, 7),
    (9, 8, 1, 2, 7), (8, 7, 0, 1, 7))]
#: A band for every padding above it and at its sides, with kernels of every size.
BANDS = [Geometry(6, 7, pad, 1 + top % 2, kernel, top, bottom)
         for (pad, top), (kernel, bottom) in zip(product(range(4), repeat=2),
                                                 cycle(((3, 0), (5, 2), (7, 1))), strict=False)]


class Maps:
    """Channel groups in both halves, and where their words lie; ``high`` puts them at the end.

    ``x`` is (2, groups, R, H, W), one array per half; in bank mode (2, groups, 9, R, H, W).
    """

    def __init__(self, config, rng, geometry, *, high=False):
        self.config, self.rng, self.geometry = config, rng, geometry
        self.bank_mode, self.stride = geometry.kernel == 1, geometry.stride
        self.height, self.width, self.pad = geometry.height, geometry.width, geometry.pad
        stored, width = geometry.top + self.height, self.width + 2 * self.pad
        self.out_width = (width - geometry.kernel) // self.stride + 1
        self.count = self.out_width * (
            (stored + geometry.bottom - geometry.kernel) // self.stride + 1)
        self.blocks = -(-geometry.kernel // 3)
        self.row_words = width if self.bank_mode else -(-width // 3)
        self.group_words = self.row_words * (stored if self.bank_mode else -(-stored // 3))
        words = config.buffers.window_words
        self.groups = min(3, words // self.group_words)
        self.origin = words - self.groups * self.group_words if high else 0
        group = (TAPS, config.channels) if self.bank_mode else (config.channels,)
        self.x = self.noise((2, self.groups, *group, self.height, self.width))

    def noise(self, shape):
        """Random bytes other than zero, so that a tap that is not masked shows."""
        return self.rng.choice([*range(-128, 0), *range(1, 128)], shape).astype(np.int8)

    def renew(self, half):
        """Other maps in this half."""
        self.x[half] = self.noise(self.x[half].shape)

    @property
    def ports(self):
        """Values of the geometry inputs that are stable; a row that fills a half is one row, its
        size no matter."""
        return {"pad": self.pad, "col_end": self.pad + self.width,
                "bank_mode": int(self.bank_mode),
                "row_words": self.row_words % self.config.buffers.window_words}

    def words(self, half):
        """Words (address within the groups, bank, R) of a half; no pixel: noise."""
        words = self.noise((self.groups * self.group_words, TAPS, self.config.channels))
        for group, row, column in np.ndindex(self.groups, self.height, self.width):
            first, at = group * self.group_words, self.x[half, group, ..., row, column]
            if self.bank_mode:
                words[first + row * self.row_words + column] = at
            else:
                y, x = self.geometry.top + row, self.pad + column
                words[first + y // 3 * self.row_words + x // 3, 3 * (y % 3) + x % 3] = at
        return words

    def load(self, half):
        """Inputs that write a half: each word once, in rounds of some bank of each column."""
        for address, row in enumerate(self.words(half)):
            for lines in zip(*(self.rng.permutation(3) for _ in range(3)), strict=True):
                enabled = np.isin(np.arange(TAPS), [3 * line + n for n, line in enumerate(lines)])
                first = self.rng.random(TAPS) < 0.5
                for some in (enabled & first, enabled & ~first):
                    yield {"write": self._strobes(half, self.origin + address, row, some)}

    def _strobes(self, half, address, row, enabled):
        """Bits that write the words of ``row`` in ``enabled`` banks, one of a column at most; other
        columns see noise."""
        columns = []
        for column in range(3):
            chosen = [bank for bank in range(column, TAPS, 3) if enabled[bank]]
            data, place = row[column], half * self.config.buffers.window_words + address
            if chosen:
                data = row[chosen[0]]
            else:
                data, place = self.noise(data.shape), int(self.rng.integers(place + 1))
            columns.append({"address": place, "data": int.from_bytes(data.tobytes(), "little")})
        return pack(window_write_layout(self.config), {
            "enable": sum(1 << bank for bank in range(TAPS) if enabled[bank]), "columns": columns})

    def windows(self, half):
        """(half, group, block row, block column, number) of every window of a half."""
        return [(half, *rest) for rest in np.ndindex(self.groups, self.blocks, self.blocks,
                                                     self.count)]

    def read(self, half, group, down, right, index):
        """Inputs for a window."""
        at = pixel(index, 3 * self.stride if self.bank_mode else self.stride, self.out_width,
                   self.row_words)
        at["index"] %= self.config.buffers.pixels
        base = self.origin + group * self.group_words + down * self.row_words + right
        return {"half": half, "pad_top": self.geometry.top,
                "row_end": self.geometry.top + self.height,
                "base": base % self.config.buffers.window_words, "row": down, "column": right,
                "pixel": pack(pixel_layout(self.config), at)}

    def expected(self, half, group, down, right, index):
        """Bits of the window by the golden model."""
        row, column = (self.stride * n for n in divmod(index, self.out_width))
        taps = (channel_groups(self.x[half, group], row, column) if self.bank_mode else
                window(self.x[half, group], row + 3 * down, column + 3 * right, self.pad,
                       self.geometry.top))
        return int.from_bytes(taps.tobytes(), "little")


class Bands:
    """Two bands of a map, one in each half, with padding and rows of their own."""

    def __init__(self, *bands):
        self.bands, self.ports = bands, bands[0].ports
        assert all(band.ports == self.ports for band in bands)

    def read(self, half, *place):
        """Inputs for a window."""
        return self.bands[half].read(half, *place)

    def expected(self, half, *place):
        """Bits of the window by the golden model."""
        return self.bands[half].expected(half, *place)


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


async def every_window(dut, geometries):
    """Both halves and every group, at the low and at the high end of the memory.

    Returns the windows, see :meth:`Maps.windows`.
    """
    config, rng = started()
    rounds = []
    for geometry, high in product(geometries, (False, True)):
        maps = Maps(config, rng, geometry, high=high)
        rounds += [(maps, [*maps.load(0), *maps.load(1)], []),
                   (maps, [], maps.windows(0) + maps.windows(1))]
    await check(dut, rounds)
    return [at for _, _, windows in rounds for at in windows]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_window_of_every_map(dut):
    assert {(map_.pad, map_.stride) for map_ in WHOLE} == {*product(range(4), (1, 2, 3))}
    await every_window(dut, WHOLE)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_block_of_larger_kernels(dut):
    """Blocks reach past the last row and column, where taps are zero."""
    windows = await every_window(dut, LARGE)
    assert {(down, right) for _, _, down, right, _ in windows} == {*product(range(3), repeat=2)}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def bands_have_other_padding_above(dut):
    assert {(band.pad, band.top) for band in BANDS} == {*product(range(4), repeat=2)}
    assert {band.kernel for band in BANDS if band.top != band.pad} == {3, 5, 7}
    await every_window(dut, BANDS)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def windows_of_two_bands_in_turns(dut):
    """A window has the padding and the rows of its own band, whatever the one before it has."""
    config, rng = started()
    rounds = []
    for kernel, pad in ((3, 1), (5, 2), (7, 3)):
        bands = [Maps(config, rng, Geometry(rows, 7, pad, 1, kernel, top, kernel // 2))
                 for rows, top in ((5, pad), (7, 0), (4, 0), (6, 1))]
        for pair in permutations(bands, 2):
            windows = [band.windows(half) for half, band in enumerate(pair)]
            for places in windows:
                rng.shuffle(places)
            turns = [tuple(map(int, at)) for at in chain(*zip(*windows, strict=False))]
            rounds += [(pair[0], pair[0].load(0), []), (pair[1], pair[1].load(1), []),
                       (Bands(*pair), [], turns)]
    await check(dut, rounds)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_place_follows_every_place(dut):
    """Rotations and kernel blocks, in both halves, at random positions."""
    config, rng = started()
    maps = Maps(config, rng, Geometry.whole(6, 6, 3, 1, 7))
    rotations, blocks = {}, {}
    for at in maps.windows(0) + maps.windows(1):
        half, _, down, right, index = at
        row, column = divmod(index, maps.out_width)
        rotations.setdefault((half, row % 3, column % 3), []).append(at)
        blocks.setdefault((half, down, right), []).append(at)
    assert len(rotations) == len(blocks) == 2 * TAPS
    windows = [places[key][rng.integers(len(places[key]))] for places in (rotations, blocks)
               for key in ordered_pairs(places)]
    await check(dut, [(maps, [*maps.load(0), *maps.load(1)], []), (maps, [], windows)])


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def bank_mode(dut):
    """Tap t is bank t, nothing is masked; between layers in window mode."""
    config, rng = started()
    rounds = []
    for shape, stride, high in product(((1, 1), (4, 4), (2, 5), (1, 16), (8, 2), (3, 5)), (1, 2),
                                       (False, True)):
        for maps in (Maps(config, rng, Geometry(*shape, stride=stride, kernel=1), high=high),
                     Maps(config, rng, Geometry.whole(3, 4, 1, 1))):
            rounds += [(maps, [*maps.load(0), *maps.load(1)], []),
                       (maps, [], maps.windows(0) + maps.windows(1))]
    await check(dut, rounds)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def one_half_is_written_while_the_other_is_read(dut):
    """Halves change roles as soon as can be: the first window follows the last write, and the
    first write the last window's reads."""
    config, rng = started()

    def rounds():
        for geometry in (Geometry.whole(9, 10, 1, 1), Geometry(2, 8, kernel=1),
                         Geometry.whole(6, 5, 2, 2), Geometry(5, 6, 3, 1, 7, 2, 3),
                         Geometry(3, 5, stride=2, kernel=1)):
            maps = Maps(config, rng, geometry)
            yield maps, maps.load(0), []
            for half in (0, 1, 0, 1):
                maps.renew(1 - half)
                writes, windows = 2 * maps.groups * maps.group_words, maps.windows(half)
                windows = list(islice(cycle(windows), max(writes - READ_LATENCY, len(windows))))
                yield maps, maps.load(1 - half), windows + [None] * READ_LATENCY

    await check(dut, rounds())
