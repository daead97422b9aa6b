"""Errors, resets and back-pressure: a clean stop with the right cause, and no trace of it after.

Every scenario is one program with all that can be interrupted: gates, residuals, strides, 1x1
kernels, bands of rows.
"""

from collections.abc import Iterator

import numpy as np
import pytest

import hwgate
from hwgate.machine.config import MemoryTiming
from hwgate.machine.layouts import descriptor_layout, header_layout
from hwgate.machine.regs import ErrorCause
from hwgate.sim import engine
from hwgate.sim.axi_bench import run_starts_with_backpressure
from hwgate.sim.records import Faults, Start
from support.case_features import features_of
from support.engine_cases import CONFIGS, TIMINGS, can_run
from support.geometry_cases import placed_tiles
from support.random_layers import Features, Limits, random_images, random_network
from support.shares import rest_slow

#: What the program of every scenario has, and that of an accelerator with small buffers besides.
WANTED = {"residual, open and closed", "kernel 1x1", "stride 2, open and closed"}
BANDS = {"residual in bands", "bands, open and closed"}
ZEROS = {f"{name} without its zero bytes" for name in ("input", "residual", "output")}

#: Errors in bands of rows meet the small accelerator of test_engine_weights each time.
each_config = pytest.mark.parametrize("name", rest_slow(
    {name: name for name in ("4x36", "4x36zeros", *CONFIGS)}, quick=2))


#: A seed of which a network with all of it is found soon.
QUICK = 2

#: Fields of job headers and descriptors that others must agree with: what is asked for, comes, is
#: computed and is written.
COUNTS = {"gated", "base_blocks", "cond_blocks", "base_bitmap", "cond_bitmap", "first_blocks",
          "in_rows_last", "in_run_beats_last", "images_last", "out_pixels_last", "job_outputs_last",
          "out_planes", "out_beats_last", "out_run_beats_last", "store_pixels_last", "res_planes",
          "res_beats_last", "res_run_beats_last"}


class Scenario:
    """One program with images: its start, its broken variants, what a good run must leave."""

    def __init__(self, name, seed):
        self.config = CONFIGS[name]
        zeros = self.config.buffers.compressed_chunks > 0
        wanted = WANTED | (BANDS if name == "8x18" else ZEROS if zeros else set())
        limits = Limits(layers=4, size=16 if zeros else 9, channels=3 * self.config.channels,
                        smallest=2, step=8 if zeros else 1)
        for attempt in range(1000):
            self.rng = np.random.default_rng([seed, attempt, *name.encode()])
            network = random_network(self.rng, self.config, layers=4, density="mixed",
                                     limits=limits, features=Features.every(), fits=can_run)
            self.program = hwgate.compile(network, self.config)
            self.images = random_images(self.rng, network, 3)
            estimate = hwgate.estimate(self.program, self.images)
            if wanted <= set(features_of(self.program, estimate)):
                break
        else:
            raise AssertionError(f"no network has {wanted}")
        self.cycles = estimate.cycles
        self.binding = self.program.bind(self.images)
        self.golden = network.run(self.images)
        self.steps = self.binding.steps
        self.image = self.binding.memory
        #: A byte that fails, in memory that nothing but a moved region uses.
        self.bad = 2 * self.image.size
        self.end = 4 * self.image.size

    def start(self, memory=None, **options):
        options = {"program_address": self.binding.program_address, "deadline": 500_000} | options
        return Start(memory=self.image if memory is None else memory, **options)

    def run(self, starts, timing=MemoryTiming()):
        return engine.run_engine(self.config, starts, faults=self.faults, timing=timing,
                                 memory_bytes=self.end)

    @property
    def faults(self):
        return Faults(reads=(self.bad, self.bad + 1), writes=(self.bad, self.bad + 1))

    def patched(self, index, **fields):
        """An image with other fields in descriptor ``index``; the last one is END."""
        layout, memory = descriptor_layout(), np.zeros(self.end, np.uint8)
        memory[:self.image.size] = self.image
        place = slice(index * layout.size_bytes, (index + 1) * layout.size_bytes)
        values = layout.unpack(memory[place].tobytes())
        memory[place] = np.frombuffer(layout.pack(values | fields), np.uint8)
        return memory

    def moved(self, index, field, target):
        """An image in which ``field``, an address, of a descriptor is another one; the entries of
        compressed chunks stay theirs."""
        d, size = self.steps[index].descriptor, self.config.chunk_bytes
        entry, entries = field.replace("address", "entry"), self.config.buffers.compressed_chunks
        changes = {field: target}
        if d.get(field.replace("address", "packed")):
            changes[entry] = (d[entry] + d[field] // size - target // size) % entries
        return self.patched(index, **changes)

    # Errors of the bus

    def beats(self, index):
        """Each stream of a descriptor: (field, offsets from it of all beats that it moves)."""
        plan, _, d = self.steps[index]
        size, block = self.config.bus.bytes, self.config.block_bytes
        stored = self.binding.stored(index, lambda use: self.golden[use].output)

        def planes(prefix: str, count: str, stride: str, beats: str) -> Iterator[int]:
            address = f"{prefix}_address"
            offsets = ((tile[address] - d[address]) % (1 << 32) + n * d[stride] + at * size
                       for tile in placed_tiles(d) for n in range(d[count])
                       for at in range(tile[beats]) if not d[f"{prefix}_chip"])
            if prefix not in stored:
                return offsets
            lengths = {at: stored[prefix].chunk(d[address] + at)[0] * size
                       for at in offsets if at % self.config.chunk_bytes == 0}
            return (at + n for at, length in lengths.items() for n in range(0, length, size))

        streams = {"windows": ("in_address", [*planes("in", "in_runs", "in_run_stride",
                                                      "in_run_beats")]),
                   "output": ("out_address", [*planes("out", "out_planes", "out_plane_stride",
                                                      "out_run_beats")]),
                   "residual": ("res_address", [*planes("res", "res_runs", "res_run_stride",
                                                        "res_run_beats")])}
        base, conditional = [], []
        decided = self.golden[self.program.plans.index(plan)].decision
        for channel, job in enumerate(plan.jobs):
            first, rest = channel * d["job_stride"], len(job.base) - d["first_blocks"]
            count = d["first_beats"] + -(-rest * block // size)
            base += [first + at * size for at in range(count)]
            if plan.layer.gated and decided[:, channel].any():
                conditional += [first + d["cond_offset"] + at * size
                                for at in range(-(-len(job.conditional) * block // size))]
        return streams | {"base": ("weights_address", base),
                          "conditional": ("weights_address", conditional)}

    def failing(self):
        """(stream, start, cause, descriptors before it): a random beat of each stream of each
        descriptor fails, and the beats before and behind it are good."""
        for index, (_, _, d) in enumerate(self.steps):
            for stream, (field, offsets) in self.beats(index).items():
                if not offsets:
                    continue
                offset = int(self.rng.choice(offsets))
                target = self.bad - offset
                memory = self.moved(index, field, target)
                moved = self.image[d[field]:][:max(offsets) + self.config.bus.bytes]
                memory[target:target + moved.size] = moved
                cause = ErrorCause.WRITE if stream == "output" else ErrorCause.READ
                yield stream, self.start(memory), cause, index
        layout = descriptor_layout()
        for index in range(len(self.steps) + 1):
            offset = index * layout.size_bytes + int(
                self.rng.choice(range(0, layout.size_bytes, layout.align)))
            memory = self.patched(0)
            moved = self.image[:(len(self.steps) + 1) * layout.size_bytes]
            memory[self.bad - offset:][:moved.size] = moved
            yield ("program", self.start(memory, program_address=self.bad - offset),
                   ErrorCause.READ, index)

    def outside(self):
        """The same for regions that leave the memory, and descriptors that mean nothing."""
        for index, (_, _, d) in enumerate(self.steps):
            for field, cause in (("in_address", ErrorCause.READ), ("weights_address",
                                 ErrorCause.READ), ("out_address", ErrorCause.WRITE)):
                if d.get(field.replace("address", "chip")):
                    continue
                yield field, self.start(self.moved(index, field, self.end)), cause, index
            for opcode in (0, int(self.rng.integers(3, 256))):
                yield ("opcode", self.start(self.patched(index, opcode=opcode)),
                       ErrorCause.OPCODE, index)
            digest = d["digest"] ^ 1 << int(self.rng.integers(32))
            yield ("digest", self.start(self.patched(index, digest=digest)), ErrorCause.DIGEST,
                   index)
        last = len(self.steps)
        yield ("opcode", self.start(self.patched(last, opcode=7)), ErrorCause.OPCODE, last)
        yield "nothing", self.start(np.zeros_like(self.image)), ErrorCause.OPCODE, 0

    # Programs that contradict themselves

    def flipped(self, fields, flips):
        """(what, start) of programs with one flipped bit, as often in each of these fields of the
        descriptor, and of jobs, of each layer: one of its value or the next higher one."""
        descriptor, header = descriptor_layout(), header_layout(self.config)
        for index, (_, _, d) in enumerate(self.steps):
            channels = self.rng.integers(d["out_channels"], size=flips)
            address = self.binding.program_address + index * descriptor.size_bytes
            places = [(descriptor, address)] * flips + [
                (header, d["weights_address"] + int(n) * d["job_stride"]) for n in channels]
            for layout, at in places:
                for field in layout.fields:
                    size = field.bits // 8
                    if fields is None or field.name in fields:
                        value = int.from_bytes(self.image[at:at + size].tobytes(), "little")
                        bit = int(self.rng.integers(min(field.bits, value.bit_length() + 1)))
                        memory = self.image.copy()
                        memory[at + bit // 8] ^= 1 << bit % 8
                        yield ((index, field.name, value, bit),
                               self.start(memory, deadline=2 * self.cycles))
                    at += size

    # What a run must leave

    def assert_stopped(self, outcome, cause, steps, what=""):
        """Ended with a cause after some layers, and these are right."""
        assert not outcome.late and not outcome.fault, (what, outcome.fault)
        status = outcome.status
        assert (status.error, status.layers) == (cause, steps), what
        assert status.done and not status.busy, what
        # Without a monitor, those on chip or compressed cannot be read.
        hidden = set() if len(outcome.snapshots) else {*self.binding.chip, *self.binding.packed}
        for index in sorted({*range(min(steps, len(self.golden)))} - hidden):
            assert np.array_equal(self.binding.read_output(outcome.memory, index, outcome.chip),
                                  self.golden[index].output), (what, index)

    def assert_clean(self, outcome, reference, what=""):
        """A run that is right, and shows no trace of what was before it."""
        self.assert_stopped(outcome, ErrorCause.NONE, len(self.steps), what)
        assert outcome.counters == reference.counters, what
        assert np.array_equal(outcome.snapshots, reference.snapshots), what
        assert np.array_equal(outcome.events, reference.events), what
        assert np.array_equal(outcome.chip, reference.chip), what
        assert np.array_equal(outcome.memory, reference.memory), what


def starts_in_pairs(scenario, broken):
    """A good start, then each broken one followed by a good one."""
    return [scenario.start(), *(start for _, start, _, _ in broken
                                for start in (start, scenario.start()))]


def assert_errors(scenario, broken, outcomes):
    reference, *outcomes = outcomes
    scenario.assert_stopped(reference, ErrorCause.NONE, len(scenario.steps))
    for bad, good, (what, _, cause, steps) in zip(outcomes[::2], outcomes[1::2], broken,
                                                  strict=True):
        scenario.assert_stopped(bad, cause, steps, (what, steps))
        scenario.assert_clean(good, reference, (what, steps))


def check_errors(scenario, timing):
    broken = list(scenario.failing())
    assert {stream for stream, *_ in broken} == {"windows", "residual", "base", "conditional",
                                                 "output", "program"}
    assert_errors(scenario, broken, scenario.run(starts_in_pairs(scenario, broken), timing))


@each_config
def test_errors_stop_the_engine_and_leave_no_trace(name):
    """A random beat of every stream of every descriptor fails."""
    check_errors(Scenario(name, QUICK), TIMINGS[list(CONFIGS).index(name) % len(TIMINGS)])


@pytest.mark.slow
@each_config
@pytest.mark.parametrize("seed", [3, 4])
def test_many_errors_stop_the_engine(name, seed):
    for timing in TIMINGS:
        check_errors(Scenario(name, seed), timing)


@each_config
def test_what_cannot_run_stops_the_engine(name):
    scenario = Scenario(name, QUICK)
    broken = list(scenario.outside())
    outcomes = scenario.run(starts_in_pairs(scenario, broken))
    assert_errors(scenario, broken, outcomes)
    assert outcomes[0].counters["cycles"] == scenario.cycles


def check_flips(name, seed, fields, flips):
    scenario = Scenario(name, seed)
    what, broken = zip(*scenario.flipped(fields, flips), strict=True)
    good = scenario.start()
    reference, *outcomes, last = scenario.run([
        good, *(start for bad in broken for start in (bad, good)), good])
    assert reference.counters["cycles"] == scenario.cycles
    for bad, clean, flip in zip(outcomes[::2], outcomes[1::2], what, strict=True):
        # One that never ends is busy until the reset.
        assert bad.fault or bad.late == bad.status.busy == (not bad.status.done), flip
        scenario.assert_clean(clean, reference, flip)
    scenario.assert_clean(last, reference)
    ended = [bad for bad in outcomes[::2] if bad.status.error == ErrorCause.NONE]
    assert {bad.status.done for bad in ended} == {True, False}


@each_config
def test_a_contradicting_program_leaves_no_trace(name):
    """It has one wrong bit, and ends with wrong outputs, or never."""
    check_flips(name, QUICK, COUNTS, 1)


@pytest.mark.slow
@each_config
@pytest.mark.parametrize("seed", [3, 4])
def test_any_flipped_bit_leaves_no_trace(name, seed):
    check_flips(name, seed, None, 4)


@each_config
def test_reset_in_mid_run(name):
    scenario = Scenario(name, QUICK)
    times = [int(t) for t in scenario.rng.integers(1, scenario.cycles - 10, 40)]
    starts = [start for time in times
              for start in (scenario.start(reset_after=time), scenario.start())]
    reference, *outcomes = scenario.run([scenario.start(), *starts])
    scenario.assert_stopped(reference, ErrorCause.NONE, len(scenario.steps))
    for time, stopped, good in zip(times, outcomes[::2], outcomes[1::2], strict=True):
        assert stopped.late and not stopped.fault
        assert not stopped.status.busy and not stopped.status.done and not stopped.status.layers
        assert not any(stopped.counters.values())
        scenario.assert_clean(good, reference, time)


@pytest.mark.parametrize("name,seed", rest_slow([
    ("4x36zeros", 1), ("4x36", 1), ("8x18", 1),
    *((name, seed) for name in CONFIGS for seed in (2, 3))]))
def test_back_pressure_changes_no_bit(name, seed):
    """Runs, errors and a reset while every channel of the bus waits at random."""
    scenario = Scenario(name, seed)
    broken = list(scenario.failing())
    chosen = [broken[int(n)] for n in scenario.rng.choice(len(broken), 2, replace=False)]
    first = scenario.start(scenario.patched(0))
    reset = scenario.start(reset_after=int(scenario.rng.integers(1, scenario.cycles // 3)))
    starts = [start for bad in (*(start for _, start, _, _ in chosen), reset)
              for start in (bad, scenario.start())]
    good, *outcomes = run_starts_with_backpressure(scenario.config, [first, *starts], seed,
                                                   faults=scenario.faults)
    for outcome in (good, *outcomes[1::2]):
        scenario.assert_stopped(outcome, ErrorCause.NONE, len(scenario.steps))
    for bad, (stream, _, cause, steps) in zip(outcomes[:4:2], chosen, strict=True):
        scenario.assert_stopped(bad, cause, steps, (stream, steps))
    stopped = outcomes[4]
    assert stopped.late and not stopped.status.busy and not any(stopped.counters.values())
