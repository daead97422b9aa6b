"""Bench of WeightQueue: blocks and bitmaps in, passes and weights out, cycle for cycle."""

import random
from collections import deque
from dataclasses import dataclass, field
from itertools import chain, cycle

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.quant.weights import passes
from hwgate.rtl.weights import BLOCK_LATENCY, pass_layout
from hwgate.sim.streams import pack, parameters, start
from support.cycles import ordered_pairs
from support.rtl import GAPS

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
BITS, DEPTH = CONFIG.buffers.passes, CONFIG.buffers.weight_blocks
WORDS = CONFIG.buffers.window_words
GROUP_WORDS = WORDS // BITS


@dataclass
class Seen:
    """What happened: most blocks held, cycles with both a push and a swap, and the blocks that
    were to come of the bitmap before at each load: after the push of that cycle, if any."""

    most: int = 0
    both: int = 0
    taken: list = field(default_factory=list)
    before: set = field(default_factory=set)


class Sender:
    """Bitmaps and blocks in order, as soon as the contract allows; a bitmap follows the last block
    of the one before it, or comes ``ahead``, where this pattern has no bit."""

    def __init__(self, bitmaps, blocks, gaps, ahead):
        self.bitmaps, self.blocks = bitmaps, blocks  # of each bitmap
        self.pauses, self.ahead = cycle(chain(gaps, [0])), ahead and cycle(ahead)
        self.loaded = self.job = self.sent = 0  # bitmaps; job whose blocks come, those that came
        self.last, self.loaded_at = [], -1      # cycle of each bitmap's last block; of a load

    @property
    def busy(self):
        return self.job < len(self.bitmaps)

    def step(self, now, full):
        """(bitmap, block) of this cycle; None: not one."""
        job, bitmap, block = self.job, None, None
        paused = next(self.pauses)
        begins = self.sent or not self.last or now > self.last[-1] + 1
        if self.loaded > job and now > self.loaded_at + 1 and begins and not full and not paused:
            block, self.sent = self.blocks[job][self.sent], self.sent + 1
        mine = self.loaded
        if mine < len(self.bitmaps) and (
                mine == job and (block is None and not paused) or self.ahead
                and mine == job + 1 and not next(self.ahead)
                and (mine < 2 or now >= self.last[mine - 2] + BLOCK_LATENCY)):
            bitmap, self.loaded = self.bitmaps[mine], mine + 1
            if mine == job:
                self.loaded_at = now
        if self.sent == len(self.blocks[job]):
            self.last.append(now)
            self.job, self.sent = job + 1, 0
        return bitmap, block

    @property
    def to_come(self):
        """Blocks that are to come of the bitmap before the last one."""
        return len(self.blocks[self.job]) - self.sent if self.job == self.loaded - 2 else 0


async def play(dut, bitmaps, *, gaps=(), stalls=(), ahead=(), swap_after=1, hold=0,
               group_words=GROUP_WORDS, in_planes=BITS, bank_mode=False, kernel_blocks=1):
    """Send one job per bitmap; take each pass, and its weights ``swap_after`` cycles later.

    Checks every cycle. Nothing is taken before ``hold`` blocks have been pushed.
    """
    announced, sizes, row_words = [], [], random.randrange(1, WORDS)
    for bitmap in bitmaps:
        wanted = passes(bitmap, group_words, in_planes, bank_mode, row_words, kernel_blocks)
        sizes.append(len(wanted))
        announced += [pack(pass_layout(CONFIG), {"base": base % WORDS, "row": row,
                                                 "column": column, "plane": plane})
                      for base, row, column, plane in wanted]
    sender = Sender(bitmaps, [[random.getrandbits(8 * CONFIG.block_bytes) for _ in range(size)]
                              for size in sizes], gaps, ahead)
    dut.u__load.value = dut.u__push.value = dut.u__swap.value = dut.u__o__ready.value = 0
    dut.u__group_words.value, dut.u__in_planes.value = group_words, in_planes
    dut.u__bank_mode.value, dut.u__row_words.value = bank_mode, row_words
    dut.u__kernel_blocks.value = kernel_blocks
    await start(dut)
    waits = cycle(chain(stalls, [0]))
    blocks, times, swaps, seen = deque(), [], deque(), Seen()
    pushed, now = 0, 0
    while sender.busy or blocks:
        bitmap, block = (sender.step(now, len(blocks) == DEPTH) if sender.busy
                         else (None, None))
        if bitmap is not None:
            seen.before.add((sender.to_come, block is not None))
        swap = bool(swaps) and swaps[0] <= now
        ready = pushed >= hold and not next(waits)
        dut.u__load.value, dut.u__push.value = bitmap is not None, block is not None
        dut.u__bitmap.value = random.getrandbits(BITS) if bitmap is None else bitmap
        dut.u__block.value = random.getrandbits(32) if block is None else block
        dut.u__swap.value, dut.u__o__ready.value = swap, ready
        await FallingEdge(dut.clk)
        due = sum(time <= now for time in times)
        assert dut.u__o__valid.value == (due > 0), f"cycle {now}: a pass is announced"
        if due:
            assert int(dut.u__o__payload.value) == announced[len(seen.taken)], f"cycle {now}"
        if swaps or due:  # the oldest block has been announced
            assert int(dut.u__weights.value) == blocks[0], f"cycle {now}: the weights"
        if due and ready:
            seen.taken.append(announced[len(seen.taken)])
            times.remove(min(times))
            swaps.append(now + swap_after)
        if swap:
            swaps.popleft()
            blocks.popleft()
        if block is not None:
            blocks.append(block)
            times.append(now + BLOCK_LATENCY)
            pushed += 1
        seen.most = max(seen.most, len(blocks))
        seen.both += swap and block is not None
        await RisingEdge(dut.clk)
        now += 1
    assert len(seen.taken) == len(announced) == pushed
    return seen


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def bitmaps_with_holes(dut):
    """Every bit alone; then each of some patterns after each, without a free cycle."""
    await play(dut, [1 << bit for bit in range(BITS)])
    ends = 1 | 1 << BITS - 1
    kinds = [ends, int("01" * (BITS // 2), 2), int("1001" * (BITS // 4), 2), 0b110, 1 << BITS - 1]
    await play(dut, [(1 << BITS) - 1, *ordered_pairs(kinds), (1 << BITS) - 1])


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def blocks_of_larger_kernels(dut):
    """Four and nine blocks per bit: every bit, then some patterns after each without a pause."""
    kinds = [1, 0b110, 1 | 1 << BITS - 1]
    for kernel_blocks in (2, 3):
        await play(dut, [(1 << BITS) - 1], kernel_blocks=kernel_blocks)
        await play(dut, ordered_pairs(kinds), kernel_blocks=kernel_blocks)
        await play(dut, ordered_pairs(kinds), kernel_blocks=kernel_blocks, gaps=GAPS["random"],
                   swap_after=DEPTH)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def full_queue(dut):
    """Every place is used, before the first pass is taken and again afterwards."""
    whole = (1 << BITS) - 1
    seen = await play(dut, [whole] * (1 + 3 * DEPTH // BITS), hold=DEPTH)
    assert seen.most == DEPTH
    seen = await play(dut, [whole] * (1 + 3 * DEPTH // BITS), stalls=(1, 1, 1, 0))
    assert seen.most == DEPTH


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def swap_with_push(dut):
    """A swap and a push in the same cycle, at every filling from the first pass on."""
    for after in range(1, DEPTH - BLOCK_LATENCY):
        jobs = 1 + 2 * DEPTH // BITS
        seen = await play(dut, [(1 << BITS) - 1] * jobs, swap_after=after)
        assert seen.both > 0
        assert seen.most > after + 1


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def planes_of_bank_mode(dut):
    """A pass reads up to nine planes; at, one below and one above each multiple of nine."""
    for groups in (1, 2, BITS):
        for in_planes in range(max(1, TAPS * groups - 10), TAPS * groups + 1):
            used = -(-in_planes // TAPS)
            await play(dut, [(1 << used) - 1, 1 << used - 1], in_planes=in_planes, bank_mode=True,
                       group_words=CONFIG.buffers.window_words // used)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def bitmap_before_the_blocks_of_another_have_come(dut):
    """At once; with, before and after each block of the one before, the last one among them; for
    bitmaps of one block and of several, whose kernels begin anew."""
    kinds = [1, 0b110, 1 << BITS - 1, 0b1011, 1 | 1 << BITS - 1]
    for kernel_blocks in (1, 2):
        before = set()
        for ahead in ((0,), *([1] * n + [0] for n in range(1, 3 + 4 * kernel_blocks ** 2))):
            for gaps in ((), GAPS["random"]):
                seen = await play(dut, ordered_pairs(kinds), ahead=ahead, gaps=gaps,
                                  kernel_blocks=kernel_blocks)
                before |= seen.before
        longest = 3 * kernel_blocks ** 2
        assert before >= {(n, True) for n in range(longest)}
        assert before >= {(n, False) for n in range(longest + 1)}


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def gaps_and_stalls(dut):
    for gaps in GAPS.values():
        for stalls in GAPS.values():
            bitmaps = [random.randint(1, (1 << min(BITS, 12)) - 1) for _ in range(5)]
            await play(dut, bitmaps, gaps=gaps, stalls=stalls, kernel_blocks=random.randint(1, 3),
                       ahead=random.choice([(), *GAPS.values()]),
                       swap_after=random.randint(1, DEPTH))
