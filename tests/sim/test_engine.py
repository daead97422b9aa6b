"""Harness, memory and monitor around a stand-in that copies blocks of memory."""

import numpy as np
import pytest

from hwgate.machine.config import MemoryTiming
from hwgate.machine.regs import ErrorCause
from hwgate.sim import axi_bench, engine
from hwgate.sim.records import NO_FAULTS, Faults, Start
from support.copier import CONFIG, DATA, Copy, image, verilog

BEAT = CONFIG.bus.bytes


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    text = verilog()
    for module in (engine, axi_bench):
        monkeypatch.setattr(module, "generated_verilog", lambda config: text)


def run(*layers, timing=MemoryTiming(), faults=NO_FAULTS, **options):
    start = Start(program_address=0, memory=image(layers), **options)
    outcome, = engine.run_engine(CONFIG, [start], timing=timing, faults=faults)
    return outcome


def copied(memory, layer):
    size = layer.beats * BEAT
    return np.array_equal(memory[layer.source:layer.source + size],
                          memory[layer.target:layer.target + size])


def predicted_cycles(layers, timing):
    """Busy cycles of the copier by the timing contract."""
    now, last_beat = 0, -10**9  # cycle of the next address, of the last data handshake

    def read(beats, stall):
        nonlocal last_beat
        for beat in range(beats):
            free = last_beat + (1 + stall if beat else 1)
            last_beat = max(now + timing.read_latency, last_beat + timing.beat_interval, free)
        return last_beat

    for layer in [*layers, None]:
        now = read(2, 0) + 2  # one cycle decodes
        for begin in range(0, layer.beats if layer else 0, layer.burst if layer else 1):
            beats = min(layer.burst, layer.beats - begin)
            write_address = read(beats, layer.stall) + 1
            now = write_address + beats + timing.write_latency + 1
    return now + 1  # one cycle finishes


@pytest.mark.parametrize("stall", [0, 2])
@pytest.mark.parametrize("timing", [
    MemoryTiming(), MemoryTiming(read_latency=2, write_latency=1),
    MemoryTiming(read_latency=100, write_latency=7, beat_interval=2),
    MemoryTiming(read_latency=9, write_latency=1023, beat_interval=16)],
    ids=lambda t: f"{t.read_latency}-{t.write_latency}-{t.beat_interval}")
def test_engine_sees_the_timing_contract(timing, stall):
    layer = Copy(beats=96, burst=32, stall=stall)
    outcome = run(layer, timing=timing)
    beat = max(timing.beat_interval, 1 + stall)
    assert outcome.counters["lane0_base"] == timing.read_latency
    assert outcome.counters["lane0_conditional"] == 31 * beat
    assert outcome.counters["lane0_weights"] == timing.write_latency
    assert outcome.counters["cycles"] == predicted_cycles([layer], timing)
    assert outcome.cycles == pytest.approx(outcome.counters["cycles"], abs=4)
    assert copied(outcome.memory, layer) and not outcome.late and not outcome.fault


def test_events_and_snapshots_are_recorded():
    first, second = Copy(beats=64), Copy(beats=32, target=2 * DATA + 1024)
    outcome = run(first, second)
    assert outcome.snapshots.shape == (2, len(outcome.counters))
    names = list(outcome.counters)
    output = outcome.snapshots[:, names.index("bytes_output")]
    assert output.tolist() == [64 * BEAT, 96 * BEAT]
    assert 0 < outcome.snapshots[0, 0] < outcome.snapshots[1, 0] < outcome.counters["cycles"]
    words = image([])[DATA:DATA + 64 * BEAT].view("<i4")[::4]
    expected = [(layer, i % 2, i // 16, 0, i % 16, words[i] & 1, 0, words[i])
                for layer, beats in ((0, 64), (1, 32)) for i in range(beats)]
    assert outcome.events.tolist() == expected
    assert outcome.status.layers == 2


def stopped(outcome, cause):
    return (outcome.status.error is cause and outcome.status.done and not outcome.status.busy
            and not outcome.late and outcome.status.layers == 0)


def test_errors_reach_the_status():
    cases = {Copy(opcode=9): ErrorCause.OPCODE, Copy(opcode=0): ErrorCause.OPCODE,
             Copy(digest=1): ErrorCause.DIGEST, Copy(source=64 * DATA): ErrorCause.READ,
             Copy(target=64 * DATA): ErrorCause.WRITE}
    starts = [Start(program_address=0, memory=image([layer])) for layer in cases]
    outcomes = engine.run_engine(CONFIG, starts)
    assert all(map(stopped, outcomes, cases.values()))


@pytest.mark.parametrize("faults,cause", [
    (Faults(reads=(DATA + 100, DATA + 101)), ErrorCause.READ),
    (Faults(writes=(DATA, 3 * DATA)), ErrorCause.WRITE),
    (Faults(reads=(0, 1)), ErrorCause.READ)])
def test_failing_ranges_reach_the_status(faults, cause):
    assert stopped(run(Copy(), faults=faults), cause)


def test_starts_follow_each_other_in_one_process():
    layer, other = Copy(), Copy(target=2 * DATA + 2048)
    bad = image([Copy(opcode=5)])
    starts = [Start(program_address=0, memory=image([layer])),
              Start(program_address=0, memory=bad),
              Start(program_address=0, memory=image([layer, other], seed=2)),
              Start(program_address=0),
              Start(program_address=0, reset_after=50),
              Start(program_address=0)]
    outcomes = engine.run_engine(CONFIG, starts)
    assert [o.status.error for o in outcomes] == [0, ErrorCause.OPCODE, 0, 0, 0, 0]
    assert [o.status.layers for o in outcomes] == [1, 0, 2, 2, 0, 2]
    assert [o.late for o in outcomes] == [False, False, False, False, True, False]
    assert [o.status.done for o in outcomes] == [True, True, True, True, False, True]
    assert outcomes[2].counters == outcomes[3].counters == outcomes[5].counters
    assert np.array_equal(outcomes[2].events, outcomes[5].events)
    assert copied(outcomes[5].memory, layer) and copied(outcomes[5].memory, other)


def test_a_hang_meets_the_deadline():
    outcome = run(Copy(stall=255, beats=256, burst=256), deadline=5000)
    assert outcome.late and outcome.status.busy and not outcome.status.done
    assert 5000 <= outcome.cycles < 5010


def test_broken_bus_protocol_ends_the_run():
    outcome = run(Copy(source=DATA + 2048, beats=256, burst=256))
    assert outcome.fault == "Read at 0x1800 of 256 beats crosses a 4 KB boundary"


def test_harness_is_fast():
    layer = Copy(beats=256, burst=256)
    memory = image([layer] * 100, size=3 * DATA)
    start = Start(program_address=0, memory=memory, deadline=10**8)
    outcome, = engine.run_engine(CONFIG, [start], timing=MemoryTiming(read_latency=1000))
    assert outcome.status.layers == 100
    assert outcome.cycles > 150_000
    assert outcome.cycles / outcome.seconds > 300_000


@pytest.mark.parametrize("seed", range(4))
def test_back_pressure_changes_no_bit(seed):
    layers = [Copy(beats=64, burst=8), Copy(beats=40, burst=16, target=2 * DATA + 2048)]
    start = Start(program_address=0, memory=image(layers, seed=seed), deadline=100_000)
    outcome = axi_bench.run_start_with_backpressure(CONFIG, start, seed)
    assert outcome.status.done and outcome.status.layers == 2
    assert all(copied(outcome.memory, layer) for layer in layers)


def test_back_pressure_reports_errors_and_hangs():
    from hwgate.sim.build import BenchError

    bad = Start(program_address=0, memory=image([Copy(opcode=7)]))
    assert (axi_bench.run_start_with_backpressure(CONFIG, bad, 1).status.error
            is ErrorCause.OPCODE)
    slow = Start(program_address=0, memory=image([Copy(stall=255)]), deadline=300)
    with pytest.raises(BenchError, match="failed 1 of 1 tests"):
        axi_bench.run_start_with_backpressure(CONFIG, slow, 1)
