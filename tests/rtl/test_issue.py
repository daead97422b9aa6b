"""Issue against its golden function and a model of its waits."""

from pathlib import Path

import pytest
from amaranth import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from hwgate.quant.issue import job_windows, path_order
from hwgate.rtl.fetch import JOBS_ALIVE, job_layout
from hwgate.rtl.issue import ISSUE_JOB, Issue
from hwgate.sim.block import run_block
from support.control import CONFIGS, Together
from support.shares import rest_slow

#: All tests of the bench but the longest; random layers have slices, too.
MOST = r"(?!every_slice_follows_every_slice$)\w+"


class WithSlots(wiring.Component):
    """Issue, and the jobs in their slots, of which it reads one in each cycle."""

    def __init__(self, config):
        self.issue = Issue(config)
        self.shared = {name: member for name, member in self.issue.signature.members.items()
                       if name not in ("slot", "job")}
        super().__init__({**self.shared, "jobs": In(data.ArrayLayout(
            job_layout(config), JOBS_ALIVE))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.issue = issue = self.issue
        for name, member in self.shared.items():
            outer, inner = getattr(self, name), getattr(issue, name)
            if member.is_signature:
                wiring.connect(m, wiring.flipped(outer), inner)
            elif member.flow == In:
                m.d.comb += inner.eq(outer)
            else:
                m.d.comb += outer.eq(inner)
        job = self.jobs[issue.slot]
        m.d.comb += [issue.job[name].eq(job[name] if name in job.shape().members
                                        else job.header[name]) for name in ISSUE_JOB]
        return m


@pytest.mark.parametrize("config,tests", rest_slow(
    {"1x18-most": (CONFIGS["1x18"], MOST)} | {name: (config, None)
                                              for name, config in CONFIGS.items()}))
def test_issue_on_verilator(config, tests):
    run_block(Together(u=WithSlots(config)), Path(__file__).with_name("bench_issue.py"),
              test_case=tests, parameters={"config": config.to_dict()})


@pytest.mark.parametrize("jobs", range(6))
def test_order_keeps_two_jobs_at_most(jobs):
    """Every path once, in order; a base path never comes two ahead of the conditional ones."""
    found = list(path_order(jobs, True))
    assert sorted(found) == [(job, cond) for job in range(jobs) for cond in (False, True)]
    alive = 0
    for number, (job, cond) in enumerate(found):
        assert cond <= ((job, False) in found[:number])
        alive += -1 if cond else 1
        assert alive <= 2
    if jobs > 1:
        assert found[:3] == [(0, False), (1, False), (0, True)]
    assert list(path_order(jobs, False)) == [(job, False) for job in range(jobs)]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("reduce", [False, True])
def test_function_serves_every_pixel(gated, reduce):
    """Each psum begins once; each output is emitted once, or decided."""
    pixels, opened = 6, [1, 4, 5]
    if gated and reduce:
        opened = []
    found = list(job_windows(3, 2, gated, reduce, pixels, opened))
    psums = {0} if reduce else set(range(pixels))
    assert [w.index for w in found if w.init] == sorted(psums)
    assert [w.pixel for w in found[:3 * pixels]] == 3 * list(range(pixels))
    assert [w.pixel for w in found[3 * pixels:]] == (2 * opened if gated else [])
    decided = {w.index for w in found if w.gate}
    emitted = [w.index for w in found if w.emit]
    assert decided == (psums if gated else set())
    assert emitted == (opened if gated else sorted(psums))
    assert sum(w.swap for w in found) == sum(w.last for w in found) == (5 if gated and opened
                                                                        else 3)


@pytest.mark.parametrize("reduce", [False, True])
def test_function_serves_every_image(reduce):
    """The psums of each image begin at a whole word of four."""
    found = list(job_windows(2, 1, False, reduce, 6, [], images=3, beat_pixels=4))
    psums = [0, 4, 8] if reduce else [8 * image + n for image in range(3) for n in range(6)]
    assert [w.index for w in found if w.init] == psums == [w.index for w in found if w.emit]
    assert [w.pixel for w in found] == 2 * list(range(18))
    gated = list(job_windows(1, 1, True, False, 6, [5, 6, 17], images=3, beat_pixels=4))
    assert [w.index for w in gated if w.cond] == [5, 8, 21]
