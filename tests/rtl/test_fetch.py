"""BlockFetch and JobFetch against their golden functions, and these against the compiler."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hwgate
from hwgate.machine.config import BufferConfig
from hwgate.quant.fetch import LaneJob, lane_jobs, lane_order, requests
from hwgate.rtl.fetch import JOBS_ALIVE, BlockFetch, JobFetch, JobTable
from hwgate.sim.block import run_block
from support import control
from support.control import Together
from support.random_layers import random_images, random_network
from support.rtl import run
from support.shares import rest_slow

CONFIGS = control.CONFIGS | {"keeps": replace(control.CONFIGS["1x18"], lanes=4,
                                              buffers=BufferConfig(weight_bytes=1 << 12))}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.mark.parametrize("config", rest_slow(
    {name: CONFIGS[name] for name in ("keeps", "4x36", "1x18", "2x72")}))
def test_fetch_on_verilator(config):
    run_block(Together(blocks=BlockFetch(config), jobs=JobFetch(config)),
              Path(__file__).with_name("bench_fetch.py"), parameters={"config": config.to_dict()})


def test_table_shows_what_was_stored_last():
    """Members of jobs and of their headers, slot by slot, from the cycle after the strobe on."""
    dut = JobTable(CONFIGS["4x36"], ["bias_open", "channel", "gated"])
    rng = np.random.default_rng(1)
    slots = [None] * JOBS_ALIVE

    async def bench(ctx):
        for number in range(40):
            slot, valid = int(rng.integers(JOBS_ALIVE)), number % 3 > 0
            bias, channel, gated = (int(rng.integers(100)) for _ in range(3))
            ctx.set(dut.store, {"valid": valid, "slot": slot, "job": {
                "channel": channel, "header": {"bias_open": bias - 50, "gated": gated}}})
            await ctx.tick()
            if valid:
                slots[slot] = bias - 50, channel, gated
            for n, wanted in enumerate(slots):
                ctx.set(dut.slot, n)
                found = ctx.get(dut.o)
                assert wanted in (None, (found.bias_open, found.channel, found.gated))

    run(dut, bench)
    assert None not in slots


@each_config
def test_requests_cover_the_run(config):
    for blocks in range(1, 4 * config.request_blocks):
        found = requests(config, 0x1000, blocks)
        assert sum(request.blocks for request in found) == blocks
        assert all(request.blocks == config.request_blocks for request in found[:-1])
        address = 0x1000
        for request in found:
            assert request.address == address
            spare = request.beats * config.bus.bytes - request.blocks * config.block_bytes
            assert 0 <= spare < config.bus.bytes
            address += request.beats * config.bus.bytes


@each_config
def test_lanes_share_the_jobs_of_the_compiler(config):
    rng = np.random.default_rng(3)
    network = random_network(rng, config, layers=1, reduce=False)
    binding = hwgate.compile(network, config).bind(random_images(rng, network, 1))
    plan, _, d = binding.steps[0]
    layer = {**d, "tiles": 2, "round_tiles": 2, "weights_address": 4096, "kept_channels": 1}
    jobs = [lane_jobs(config, layer, lane) for lane in range(config.lanes)]
    places = sorted((job.tile, job.channel) for lane in jobs for job in lane)
    assert places == [(tile, n) for tile in range(2) for n in range(len(plan.jobs))]
    for lane in jobs:
        assert [job.tile_last for job in lane].count(True) == (2 if lane else 0)
        assert [job.last for job in lane] == [False] * (len(lane) - 1) + [True] * bool(lane)
        for job in lane:
            assert job.address == 4096 + job.channel * d["job_stride"]
            assert job.conditional == job.address + d["cond_offset"]
            assert job.column == job.channel // config.lanes * d["slot_words"]


def test_jobs_of_a_lane():
    config = CONFIGS["2x72"]
    layer = {"out_channels": 3, "tiles": 2, "weights_address": 100, "job_stride": 10,
             "cond_offset": 7, "slot_words": 5, "round_tiles": 2, "kept_channels": 0}
    for round_tiles, first, second in ((2, (True, False), (False, True)),
                                       (1, (True, True), (True, True))):
        assert lane_jobs(config, {**layer, "round_tiles": round_tiles}, 0) == [
            LaneJob(0, 0, 0, 100, 107, False, False, *first, tasks=0),
            LaneJob(0, 2, 5, 120, 127, True, False, *first, tasks=1),
            LaneJob(1, 0, 0, 100, 107, False, False, *second, tasks=0),
            LaneJob(1, 2, 5, 120, 127, True, True, *second, tasks=1)]
    assert lane_jobs(config, {**layer, "out_channels": 1}, 1) == []
    kept = lane_jobs(config, {**layer, "kept_channels": 2}, 0)
    assert [(job.keep, job.there) for job in kept] == [
        (True, False), (False, False), (True, True), (False, False)]


def test_scores_of_a_lane():
    """Before the first channel of a tile, and wherever the gate of the lane's channels changes."""
    for gate, wanted in (
            ([0, 9, 0, 9, 0, 9], [(0, True), (0, False), (2, False), (4, False)]),
            ([0, 0, 0, 0, 1, 1], [(0, True), (0, False), (2, False), (4, True), (4, False)]),
            ([0, 0, 1, 1, 0, 0], [(0, True), (0, False), (2, True), (2, False), (4, True),
                                  (4, False)])):
        assert lane_order(0, 2, 6, gate) == wanted
    layer = {"out_channels": 3, "tiles": 2, "weights_address": 100, "job_stride": 10,
             "cond_offset": 7, "slot_words": 5, "round_tiles": 2, "kept_channels": 2}
    jobs = lane_jobs(CONFIGS["2x72"], layer, 0, [4, 4, 5])
    assert [(job.tile, job.channel, job.score, job.tasks, job.address, job.column, job.keep)
            for job in jobs] == [
        (0, 0, True, 0, 100, 0, True), (0, 0, False, 0, 120, 0, True),
        (0, 2, True, 1, 140, 5, False), (0, 2, False, 1, 160, 5, False),
        (1, 0, True, 0, 100, 0, True), (1, 0, False, 0, 120, 0, True),
        (1, 2, True, 1, 140, 5, False), (1, 2, False, 1, 160, 5, False)]
    assert [job.tile_last for job in jobs] == [False, False, False, True] * 2
    assert [job.last for job in jobs] == [False] * 7 + [True]
