"""The random cases of ``make exact``: what they reach, and what is said of a failure."""

import io
from collections import Counter
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from rich.console import Console

import exact
from hwgate.rtl.tasks import TASK_LATENCY
from support import engine_cases
from support.case_features import FEATURES, features_of
from support.engine_cases import CONFIGS, MORE_CONFIGS, TIMINGS, Case, Verdict, units, verify

LATE = "a conditional pass that waits for the last task"


def test_every_feature_is_drawn():
    """By what ``make exact`` runs, in each case more than once."""
    cases = exact.draw(500, 20)
    found = sum((features_of(case.program, case.estimate(), case.timing) for case in cases),
                Counter())
    assert {name: found[name] for name in FEATURES if found[name] < 2} == {}
    assert {case.name for case in cases} == set(CONFIGS | MORE_CONFIGS)
    assert {case.timing for case in cases} == set(TIMINGS)
    layers = [len(case.program.plans) for case in cases]
    assert sum(layers[:-20]) >= 500 and min(layers[-20:]) >= 5
    assert {config.lanes for config in (CONFIGS | MORE_CONFIGS).values()} == {1, 2, 4, 8, 16}
    assert {config.channels for config in (CONFIGS | MORE_CONFIGS).values()} == {2, 4, 8, 16}


def test_names_of_features_can_be_read_alone():
    assert len({name.casefold() for name in FEATURES}) == len(FEATURES)
    assert all(name[0].isalnum() and name == name.strip() for name in FEATURES)


def test_a_late_task_is_seen():
    """A cost model in which tasks take a cycle more has other cycles in all cases that wait."""
    cases = exact.draw(0, 0)
    assert {case.kind for case in cases} == {"tasks"} and {
        case.name for case in cases} == set(CONFIGS | MORE_CONFIGS)
    waits, changed = [], []
    for case in cases:
        run = case.estimate()
        with mock.patch("hwgate.schedule.passes.TASK_LATENCY", TASK_LATENCY + 1):
            late = case.estimate()
        waits.append(features_of(case.program, run, case.timing)[LATE] > 0)
        changed.append([layer.lanes for layer in run.layers] != [
            layer.lanes for layer in late.layers])
    assert sum(waits) >= 5 and all(np.array(changed)[waits])


def test_cases_are_what_their_names_say():
    first, second = (Case("8x18", "layers", 3) for _ in range(2))
    assert (first.program.plans[0].stream == second.program.plans[0].stream
            and (first.images == second.images).all())
    assert Case("8x18", "layers", 4).describe() != first.describe()
    assert "8 lanes x 18 multipliers" in first.describe()


CASES = [Case("1x18", "layers", seed) for seed in (0, 8, 16, 24)]


@pytest.mark.parametrize("fails,commands", [
    (lambda case, unit: "", {}),
    (lambda case, unit: "differs" if case.seed == 16 else "", {16: "1x18 layers 16"}),
    (lambda case, unit: "differs" if case.seed == 16 and len(unit) > 1 else "",
     {16: "1x18 layers 0 8 16"}),
    (lambda case, unit: "crash" if CASES[1] in unit else "", {8: "1x18 layers 8"}),
    (lambda case, unit: "crash" if len(unit) > 1 else "",
     {0: "1x18 layers 0", 8: "1x18 layers 0 8", 16: "1x18 layers 0 8 16",
      24: "1x18 layers 0 8 16 24"}),
], ids=["none", "alone", "after others", "crash", "crash together"])
def test_failures_have_the_command_that_replays_them(fails, commands):
    def run(unit):
        verdicts = [Verdict(case, "", engine_cases._command([case])) for case in unit]
        return [replace(v, failure=text, crashed=text == "crash")
                for v in verdicts for text in [fails(v.case, unit)]]

    with mock.patch.object(engine_cases, "_verify_unit", run):
        verdicts = verify(CASES)
    assert {v.case.seed: v.command for v in verdicts if v.failure} == {
        seed: f"python tests/exact.py --replay {command}" for seed, command in commands.items()}


def reported(verdicts):
    text = io.StringIO()
    return exact.report(verdicts, Console(file=text, width=80)), text.getvalue()


def test_report():
    everything = Counter(dict.fromkeys(FEATURES, 250))
    good = Verdict(CASES[0], "", "", layers=250, cycles=1000, features=everything)
    status, text = reported([good] * 2)
    assert status == 0 and "0 differ" in text and "    500  gated\n" in text
    status, text = reported([good, replace(good, failure="Not equal: 3 cycles.", command="replay")])
    assert status == 1 and "\nreplay\nNot equal: 3 cycles." in text and "1 differ" in text


def test_what_was_never_drawn_fails_a_whole_run_only():
    features = Counter(dict.fromkeys(FEATURES, 1))
    del features["padding 3"]
    verdict = Verdict(CASES[0], "", "", layers=250, features=features)
    for count, wanted in ((1, 0), (2, 1)):
        status, text = reported([verdict] * count)
        assert status == wanted and "Never drawn: padding 3." in text


def test_units_are_one_configuration_kind_and_memory():
    found = units([*CASES, Case("1x18", "layers", 1), Case("1x18", "network", 0),
                   Case("4x36", "layers", 0)])
    assert [[case.seed for case in unit] for unit in found] == [[0, 8, 16, 24], [1], [0], [0]]
