"""Unpack against its golden function, and that against the compiler's weight streams."""

from pathlib import Path

import numpy as np
import pytest

import hwgate
from hwgate.machine.layouts import header_layout
from hwgate.plan.geometry import kernel_blocks
from hwgate.quant.unpack import cut
from hwgate.rtl.unpack import Unpack, block_beat
from hwgate.sim.block import run_block
from support.control import CONFIGS, Together
from support.random_layers import Features, Limits, random_images, random_network
from support.shares import rest_slow

each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.mark.parametrize("config", rest_slow(CONFIGS, quick=2))
def test_unpack_on_verilator(config):
    run_block(Together(u=Unpack(config)), Path(__file__).with_name("bench_unpack.py"),
              parameters={"config": config.to_dict()})


@each_config
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_function_finds_what_the_compiler_wrote(config, kernel):
    features = Features(pointwise=True, kernels=(5, 7))
    rng, layer = np.random.default_rng(5), None
    while layer is None or layer.kernel != kernel or not layer.gated:
        network = random_network(rng, config, layers=1, gated=True, reduce=False,
                                 limits=Limits(channels=40 * config.channels), features=features)
        layer = network.layers[0]
    binding = hwgate.compile(network, config).bind(random_images(rng, network, 1))
    (plan, _, d), edge = binding.steps[0], kernel_blocks(kernel)
    for channel, job in enumerate(plan.jobs):
        first, conditional = (channel * d["job_stride"] + offset
                              for offset in (0, d["cond_offset"]))
        rest, end = first + d["first_beats"] * config.bus.bytes, first + d["cond_offset"]
        header, blocks = cut(config, plan.stream[first:rest], True)
        assert header_layout(config).unpack(header)["threshold"] == layer.threshold[channel]
        blocks += cut(config, plan.stream[rest:end], False)[1]
        blocks = blocks[:len(job.base)]
        blocks += cut(config, plan.stream[conditional:], False)[1][:len(job.conditional)]
        places = [(group, *divmod(n % edge**2, edge)) for path in (job.base, job.conditional)
                  for n, group in enumerate(path)]
        for place, raw in zip(places, blocks, strict=True):
            block = np.frombuffer(raw, np.int8).reshape(9, config.channels)
            assert (block == taps(layer.weight[channel], config.channels, *place)).all()


def taps(weight, size, group, row, column):
    """Nine taps of R weights of (C, K, K): zero beyond the kernel and the channels."""
    padded = np.pad(weight, ((0, 9 * size), (0, 9), (0, 9)))
    if weight.shape[1] == 1:
        return padded[9 * size * group:9 * size * (group + 1), 0, 0].reshape(9, size)
    part = padded[size * group:size * (group + 1), 3 * row:3 * row + 3, 3 * column:3 * column + 3]
    return part.reshape(size, 9).T


@each_config
def test_beat_of_a_block(config):
    """The first beat after which the bytes of a run suffice."""
    for block in range(3 * config.beat_pixels):
        beats = block_beat(config, block) + 1
        enough = (block + 1) * config.block_bytes
        assert (beats - 1) * config.bus.bytes < enough <= beats * config.bus.bytes
