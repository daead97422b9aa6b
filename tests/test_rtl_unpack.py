"""Unpack against its golden function, and that against the compiler's weight streams."""

from pathlib import Path

import numpy as np
import pytest
from control_helpers import CONFIGS, Together

import hwgate
from hwgate.layouts import header_layout
from hwgate.quant.random_layers import random_network
from hwgate.quant.unpack import cut
from hwgate.rtl.unpack import Unpack, block_beat
from hwgate.sim.block import run_block

each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@each_config
def test_unpack_on_verilator(config):
    run_block(Together(u=Unpack(config)), Path(__file__).with_name("bench_unpack.py"),
              parameters={"config": config.to_dict()})


@each_config
def test_function_finds_what_the_compiler_wrote(config):
    network = random_network(np.random.default_rng(5), config, layers=1, gated=True, reduce=False)
    plan = hwgate.compile(network, config).plans[0]
    d, layer, size = plan.descriptor, plan.layer, config.channels
    assert layer.gated
    for channel, job in enumerate(plan.jobs):
        first, conditional = (channel * d["job_stride"] + offset
                              for offset in (0, d["cond_offset"]))
        rest, end = first + d["first_beats"] * config.bus.bytes, first + d["cond_offset"]
        header, blocks = cut(config, plan.stream[first:rest], True)
        assert header_layout(config).unpack(header)["threshold"] == layer.threshold[channel]
        blocks += cut(config, plan.stream[rest:end], False)[1]
        blocks = blocks[:len(job.base)]
        blocks += cut(config, plan.stream[conditional:], False)[1][:len(job.conditional)]
        for group, block in zip(job.base + job.conditional, blocks, strict=True):
            weights = layer.weight[channel, group * size:(group + 1) * size].reshape(-1, 9)
            block = np.frombuffer(block, np.int8).reshape(9, size)
            assert (block[:, :len(weights)] == weights.T).all()


@each_config
def test_beat_of_a_block(config):
    """The first beat after which the bytes of a run suffice."""
    for block in range(3 * config.beat_pixels):
        beats = block_beat(config, block) + 1
        enough = (block + 1) * config.block_bytes
        assert (beats - 1) * config.bus.bytes < enough <= beats * config.bus.bytes
