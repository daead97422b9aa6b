"""A preset synthesized for an FPGA stays below what was agreed: no nanosecond is lost unseen."""

import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from hwgate.boards.netlist import Netlist, Resources
from hwgate.boards.synthesis import synthesize
from hwgate.boards.timing import Hop, Timing, TimingPath, estimate
from hwgate.machine.config import preset

CEILINGS = Path(__file__).with_name("ceilings.toml")


def _exceeded(name, ceiling, total, timing):
    """What is above its ceiling, and what to do about it; empty if all is below."""
    found = {**total.to_dict(), "nanoseconds": timing.nanoseconds}
    above = [f"{kind} {found[kind]:g} > {most:g}" for kind, most in ceiling.items()
             if found[kind] > most]
    if not above:
        return ""
    slowest = f"slowest path: {timing.paths[0].describe()}"
    return (f"Preset {name} is above its ceiling: {', '.join(above)}; {slowest}. "
            f"See hwgate synth --preset {name}; if this is meant, raise the numbers in "
            f"tests/boards/{CEILINGS.name}")


@pytest.mark.skipif(not find_spec("pyosys"), reason="Yosys is not installed: pip install "
                                                    "'hwgate[fpga]'")
@pytest.mark.parametrize("name, ceiling", tomllib.loads(CEILINGS.read_text()).items())
def test_a_preset_stays_below_its_ceiling(name, ceiling):
    netlist = synthesize(preset(name))
    assert not _exceeded(name, ceiling, netlist.total, estimate(netlist))


def test_a_nanosecond_lost_is_told_with_its_path():
    path = TimingPath(26.0, "loader", "reader", tuple(
        Hop(block, kind, block, "A", 0.0) for block, kind in (
            ("loader", "TRELLIS_FF"), ("bank", "LUT4"), ("reader", "TRELLIS_FF"))))
    ceiling = {"lut4": 10, "nanoseconds": 26.0}
    assert not _exceeded("tiny", ceiling, Resources(lut4=10), Timing((path,)))
    said = _exceeded("tiny", ceiling, Resources(lut4=11, flip_flops=5),
                     Timing((TimingPath(27.0, path.start, path.end, path.hops),)))
    assert said.startswith("Preset tiny is above its ceiling: lut4 11 > 10, nanoseconds 27 > 26; "
                           "slowest path: loader > bank > reader (1 LUT). ")
    assert "ceilings.toml" in said


def test_ceilings_name_what_is_counted():
    known = {*Netlist({}).total.to_dict(), "nanoseconds"}
    for name, ceiling in tomllib.loads(CEILINGS.read_text()).items():
        assert preset(name) and ceiling.keys() <= known
