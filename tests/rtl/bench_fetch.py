"""Bench of BlockFetch (``blocks``) and JobFetch (``jobs``): requests and runs, cycle for cycle."""

import random
from collections import deque
from dataclasses import dataclass
from itertools import chain, cycle, pairwise

import cocotb
from amaranth.lib import data
from cocotb.triggers import FallingEdge, RisingEdge

from hwgate.machine.config import TAPS, AcceleratorConfig
from hwgate.machine.layouts import FIRST, LAST, Gated, header_layout
from hwgate.quant.fetch import Request, lane_jobs, requests
from hwgate.rtl.burst import request_layout
from hwgate.rtl.fetch import (
    HEADER_TO_CLAIM,
    HEADER_TO_REST,
    JOB_OF_TILE,
    JOBS_ALIVE,
    job_layout,
    kept_member,
    run_layout,
    start_latency,
    store_layout,
)
from hwgate.rtl.structs import descriptor_struct, header_struct
from hwgate.sim.streams import pack, parameters, start, unpack
from support.rtl import GAPS

CONFIG = AcceleratorConfig.from_dict(parameters()["config"])
DEPTH, MOST = CONFIG.buffers.weight_blocks, CONFIG.request_blocks
#: Most blocks of a path: those of a 7x7 kernel for every group.
LONGEST = CONFIG.buffers.passes * TAPS
BEAT = CONFIG.bus.bytes
HEADER_BEATS = header_layout(CONFIG).size_bytes // BEAT
END = 1 << CONFIG.bus.address_bits
KEPT = kept_member(CONFIG).get("kept")


# Requests of a run of blocks


@dataclass
class Seen:
    """Most blocks outstanding, and cycles in which: a request had no room; it took the last
    place; a request and a swap met."""

    most: int = 0
    refused: int = 0
    filled: int = 0
    both: int = 0


async def play_blocks(dut, runs, *, first=1, gaps=(), stalls=(), holds=()):
    """Send runs (address, blocks, header, follows); blocks leave the queue where ``holds`` has no
    bit. The address of one that follows another is not told.

    Checks every cycle: an offer is there exactly if the queue has had room for it, and stays.
    """
    first_beats = HEADER_BEATS + -(-first * CONFIG.block_bytes // BEAT)
    dut.blocks__first_blocks.value, dut.blocks__first_beats.value = first, first_beats
    dut.blocks__i__valid.value = dut.blocks__o__ready.value = dut.blocks__swap.value = 0
    dut.jobs__start.value = dut.jobs__header_valid.value = dut.jobs__done.value = 0
    await start(dut)
    pauses, waits, keeps = (cycle(chain(bits, [0])) for bits in (gaps, stalls, holds))
    left, pending, seen = deque(runs), deque(), Seen()
    held, kept, now, offer = 0, 0, 0, False
    while left or pending or held:
        send = bool(left) and not next(pauses)
        ready, swap = not next(waits), held > 0 and not next(keeps)
        address, blocks, header, follows = left[0] if send else (END - BEAT, 1, True, False)
        run = {"address": random.randrange(END // BEAT) * BEAT if follows else address,
               "blocks": blocks, "header": header, "follows": follows}
        if KEPT:
            run["kept"] = {"keep": blocks % 2, "there": blocks >> 1 & 1}
        dut.blocks__i__valid.value = send
        dut.blocks__i__payload.value = pack(run_layout(CONFIG), run)
        dut.blocks__o__ready.value, dut.blocks__swap.value = ready, swap
        await FallingEdge(dut.clk)
        assert dut.blocks__i__ready.value == (not pending), f"cycle {now}: takes a run"
        assert dut.blocks__o__valid.value == offer, f"cycle {now}: offers a request"
        fits = bool(pending) and held + pending[0].blocks <= DEPTH
        seen.refused += bool(pending) and not fits
        if offer:
            wanted = {"address": pending[0].address, "beats": pending[0].beats}
            found = unpack(request_layout(CONFIG), int(dut.blocks__o__payload.value))
            assert found == wanted, f"cycle {now}"
            assert dut.blocks__header.value == pending[0].header, f"cycle {now}"
            assert not KEPT or int(dut.blocks__kept.value) == kept % 4, f"cycle {now}"
        if send and not pending:
            left.popleft()
            kept = kept if follows else blocks
            pending += ([Request(address, first_beats, first, True)] if header
                        else requests(CONFIG, address, blocks))
        elif offer and ready:
            held += pending.popleft().blocks
            seen.filled += held == DEPTH
            seen.both += swap
            offer = False
        else:
            offer = fits
        held -= swap
        seen.most = max(seen.most, held)
        await RisingEdge(dut.clk)
        now += 1
    return seen


def random_run(blocks, header=False):
    """A run anywhere."""
    room = END // BEAT - (LONGEST + 1) * -(-CONFIG.block_bytes // BEAT) - HEADER_BEATS
    return random.randrange(room) * BEAT, blocks, header, False


def run_behind(run, blocks, first):
    """A run that follows another one, whose header brings its ``first`` blocks."""
    address, before, header, _ = run
    sizes = ([HEADER_BEATS + -(-first * CONFIG.block_bytes // BEAT)] if header else
             [request.beats for request in requests(CONFIG, address, before)])
    return address + sum(sizes) * BEAT, blocks, False, True


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def runs_of_every_length(dut):
    """Below, at and above each multiple of a request, and the longest; as fast as they may go."""
    lengths = sorted({*range(1, 2 * MOST + 3), 3 * MOST, LONGEST - 1, LONGEST})
    await play_blocks(dut, [random_run(n) for n in lengths])
    end = -(-MOST * CONFIG.block_bytes // BEAT) * BEAT
    await play_blocks(dut, [(0, 1, False, False), (END - end, MOST, False, False)])


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def header_requests(dut):
    """Each kind of run after each; a request with a header has its own size."""
    for first in (1, MOST - 1, MOST):
        kinds = [(1, True), (MOST, True), (1, False), (MOST + 1, False)]
        runs = [random_run(*kind) for before in kinds for kind in kinds for kind in (before, kind)]
        runs = [part for run in runs for part in (run, run_behind(run, MOST + 1, first))]
        seen = await play_blocks(dut, runs, first=first)
        assert seen.both > 0


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def credit_ends(dut):
    """Blocks stay: requests stop when the queue is full, and go on as soon as one fits."""
    for length in (1, 3, MOST):
        stay = [1] * (40 + DEPTH) + [0, 1, 1, 1, 1] * 3 * DEPTH
        seen = await play_blocks(dut, [random_run(length)] * (2 * DEPTH // length + 1), holds=stay)
        assert seen.most >= DEPTH - length + 1
        assert seen.refused > 40
        assert seen.filled or DEPTH % length


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def blocks_under_gaps_and_stalls(dut):
    met = 0
    for gaps in GAPS.values():
        for stalls in GAPS.values():
            first = random.randint(1, MOST)
            runs = [random_run(random.randint(1, 3 * MOST), random.random() < 0.4)
                    for _ in range(8)]
            runs[1::2] = [run_behind(run, random.randint(1, MOST), first) for run in runs[::2]]
            seen = await play_blocks(dut, runs, first=first, gaps=gaps,
                                     stalls=stalls, holds=random.choice(list(GAPS.values())))
            met += seen.both
    assert met > 0


# Jobs of a lane


def random_layer(out_channels, tiles, first, round_tiles=1):
    """Descriptor fields; those that the block does not use are random."""
    layout = descriptor_struct()
    fields = {name: random.getrandbits(field.width - 1) for name, field in layout}
    return fields | {
        "out_channels": out_channels, "tiles": tiles, "round_tiles": round_tiles,
        "first_blocks": first,
        "first_beats": HEADER_BEATS + -(-first * CONFIG.block_bytes // BEAT),
        "weights_address": random.randrange(64) * BEAT, "job_stride": random.randrange(64) * BEAT,
        "cond_offset": random.randrange(64) * BEAT, "slot_words": random.randrange(4),
        "kept_channels": random.randrange(out_channels + 2)}


async def play_jobs(dut, lane, layer, *, gate=None, slow=0, stalls=(), longest=8):
    """Run a layer, whose channels may share gates; headers and the lane's progress come up to
    ``slow`` cycles late, and a job takes up to ``longest`` more than these.

    Checks every cycle: the run on offer, what is stored, ``fresh`` and ``finished``.
    Returns the most jobs alive, and the cycles in which a claim met the end of another job.
    """
    jobs = lane_jobs(CONFIG, layer, lane, gate)
    first = layer["first_blocks"]
    headers = [random.getrandbits(header_struct(CONFIG).size) for _ in jobs]
    sizes = [random.choice([first, first + 1, LONGEST]) for _ in jobs]
    field = header_struct(CONFIG)["base_blocks"]
    headers = [bits & ~(0xFFFF << field.offset) | size << field.offset
               for bits, size in zip(headers, sizes, strict=True)]
    gated = header_struct(CONFIG)["gated"]
    kinds = [(Gated.SCORE if job.score else Gated.SHARED) if gate else
             random.choice((Gated.NONE, Gated.OWN)) for job in jobs]
    headers = [bits & ~(0xFF << gated.offset) | kind << gated.offset
               for bits, kind in zip(headers, kinds, strict=True)]
    dut.jobs__lane.value = lane
    dut.jobs__layer.value = pack(descriptor_struct(), layer)
    dut.jobs__done.value = 0
    await RisingEdge(dut.clk)  # the layer is stable from the cycle before the start on
    waits = cycle(chain(stalls, [0]))
    claimed = arrived = taken = done = 0
    since = start_latency(CONFIG)  # from when the next job may be on offer
    offer, arrives, takes, ends = None, None, None, deque()
    fresh, most, both, now = [False] * JOBS_ALIVE, 0, 0, 0
    while now < 5 or done < len(jobs) or offer is not None:
        take, end = takes == now, bool(ends) and ends[0] <= now
        shown = arrived - (arrives == now - 1)  # headers that are in their slots
        header = arrived if arrives == now else arrived - 1 if arrives == now - 1 else None
        dut.jobs__start.value = now == 0
        dut.jobs__o__ready.value = ready = not next(waits)
        dut.jobs__header_valid.value = arrives == now
        dut.jobs__header.value = (random.getrandbits(header_struct(CONFIG).size) if header is None
                                  else headers[header])
        dut.jobs__take.value = take << taken % JOBS_ALIVE
        dut.jobs__done.value = end
        await FallingEdge(dut.clk)
        assert dut.jobs__o__valid.value == (offer is not None), f"cycle {now}: offers a run"
        if offer is not None:
            found = unpack(run_layout(CONFIG), int(dut.jobs__o__payload.value))
            del found["address" if offer["follows"] else "blocks"]
            if offer["follows"] and KEPT:
                del found["kept"]
            assert found == offer, f"cycle {now}"
        store = int(dut.jobs__store.value)
        assert store & 1 == (arrives == now - 1), f"cycle {now}: stores a job"
        if store & 1:
            layout = store_layout(CONFIG)
            assert store >> layout["slot"].offset & JOBS_ALIVE - 1 == header % JOBS_ALIVE
            check_job(store >> layout["job"].offset, jobs[header], headers[header], layer)
        if now:
            assert int(dut.jobs__fresh.value) == sum(bit << n for n, bit in enumerate(fresh))
            assert dut.jobs__finished.value == (shown == len(jobs)), f"cycle {now}"

        if offer is not None and ready:
            if offer["header"]:
                arrives = now + 1 + random.randint(0, slow)
            offer = None
        elif (offer is None and claimed == arrived < len(jobs) and now + 1 >= since
              and claimed - done < JOBS_ALIVE):
            offer = {"address": jobs[claimed].address, "header": 1, "follows": 0}
            if KEPT:
                offer["kept"] = {"keep": jobs[claimed].keep, "there": jobs[claimed].there}
            claimed += 1
            both += end
        if take:
            fresh[taken % JOBS_ALIVE] = False
            taken, takes = taken + 1, None
            ends.append(max([now, *ends]) + random.randint(1, longest + slow))
        if arrives == now - 1:  # its slot, and its other blocks
            fresh[header % JOBS_ALIVE] = True
            if sizes[header] > first:
                assert HEADER_TO_REST == 2
                offer = {"blocks": sizes[header] - first, "header": 0, "follows": 1}
        if arrives == now:
            arrived, since = arrived + 1, now + HEADER_TO_CLAIM
        if taken < shown and takes is None:
            takes = now + 1 + random.randint(0, slow)
        if end:
            ends.popleft()
            done += 1
        most = max(most, claimed - done)
        await RisingEdge(dut.clk)
        now += 1
    assert claimed == arrived == taken == len(jobs)
    return most, both


def of_tile(layer, name, job):
    """Value of a descriptor field for a job's tile."""
    found = layer[name]
    for which, names, here in (("first", FIRST, job.round_first), ("last", LAST, job.round_last)):
        if here and name in names:
            bits = data.StructLayout({n: descriptor_struct()[n].width for n in names})
            found = unpack(bits, layer[which])[name]
    return found & (1 << job_layout(CONFIG)[name].width) - 1


def check_job(bits, job, header, layer):
    """Bits of a job with this header, in a layer."""
    own = {name: of_tile(layer, name, job) for name in JOB_OF_TILE}
    factor = unpack(header_struct(CONFIG), header)["mult_residual"]
    found = {name: bits >> field.offset & (1 << field.width) - 1
             for name, field in job_layout(CONFIG)}
    kept = {"kept": job.keep | job.there << 1} if KEPT else {}
    assert found == kept | {
        "header": header, "channel": job.channel, "tile": job.tile,
        "adds": factor != 0, **own,
        "tasks": job.tasks, "tile_last": job.tile_last, "last": job.last,
        "conditional": job.conditional,
        "column": job.column % CONFIG.buffers.output_words}, job


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def every_lane_and_channel_count(dut):
    """Lanes without, with one and with several jobs a tile; layer after layer, without reset."""
    await begin(dut)
    lanes, most, empty = CONFIG.lanes, 0, 0
    for lane in range(lanes):
        for out_channels in sorted({1, 2, lanes - 1, lanes, lanes + 1, 3 * lanes - 1} - {0}):
            for tiles, length in ((1, 1), (3, random.choice((1, 3))), (4, 2)):
                layer = random_layer(out_channels, tiles, random.randint(1, MOST), length)
                alive, _ = await play_jobs(dut, lane, layer, longest=8 if tiles == 1 else 60)
                most = max(most, alive)
                empty += alive == 0
    assert most == JOBS_ALIVE
    assert empty or lanes == 1


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def scores_between_the_jobs(dut):
    """One before each channel, before the first one only, and before some; a lane of one score
    and one channel. They have neither a channel nor output words, and switch the task list."""
    await begin(dut)
    lanes, before = CONFIG.lanes, set()
    for out_channels in sorted({1, lanes, lanes + 1, 4 * lanes - 1}):
        for kind in ("each", "one", "some"):
            gate = [n if kind == "each" else kind == "some" and n // lanes // 2 + n % 2
                    for n in range(out_channels)]
            for lane in sorted({0, min(lanes, out_channels) - 1}):
                for tiles in (1, 3):
                    layer = random_layer(out_channels, tiles, random.randint(1, MOST))
                    await play_jobs(dut, lane, layer, gate=gate, slow=random.choice((0, 9)),
                                    stalls=random.choice(list(GAPS.values())))
                    jobs = lane_jobs(CONFIG, layer, lane, gate)
                    before |= {(one.score, two.score, one.tile == two.tile)
                               for one, two in pairwise(jobs)}
    assert before == {(True, False, True), (False, False, True), (False, True, True),
                      (False, True, False)}


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def jobs_under_delays_and_stalls(dut):
    await begin(dut)
    met = 0
    for stalls in GAPS.values():
        for slow in (1, 5, 30):
            for longest in (8, 100 + 10 * slow):
                layer = random_layer(CONFIG.lanes * 4, 3, random.randint(1, MOST), 3)
                most, both = await play_jobs(dut, random.randrange(CONFIG.lanes), layer,
                                             slow=slow, stalls=stalls, longest=longest)
                assert most == JOBS_ALIVE or longest == 8
                met += both
    assert met > 0


async def begin(dut):
    dut.blocks__i__valid.value = dut.blocks__o__ready.value = dut.blocks__swap.value = 0
    for name in ("start", "header_valid", "done", "take", "o__ready"):
        getattr(dut, f"jobs__{name}").value = 0
    await start(dut)
