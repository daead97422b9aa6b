"""Register declarations, driver and generated documentation."""

import asyncio
import shutil
import subprocess
from dataclasses import replace

import pytest

from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig, preset
from hwgate.machine.counters import LANE_COUNTERS, STREAMS
from hwgate.machine.driver import Driver, EngineError, Status
from hwgate.machine.regs import (
    ENGINE_ID,
    Access,
    ErrorCause,
    Field,
    Register,
    RegisterMap,
    counter_names,
    engine_registers,
)
from hwgate.show import docs as docs_gen

CONFIG = AcceleratorConfig()


class FakeEngine:
    """A bus whose registers are a dictionary; a script of STATUS words plays after a start."""

    def __init__(self, config=CONFIG, script=()):
        self.map = engine_registers(config)
        self.words = dict.fromkeys(range(0, self.map.bytes, 4), 0)
        self.put("ID", ENGINE_ID)
        self.put("DIGEST", config.digest)
        self.script, self.writes = list(script), []

    def put(self, name, word):
        self.words[self.map.offset(name)] = word

    async def read(self, offset):
        if offset == self.map.offset("STATUS") and self.writes and self.script:
            self.words[offset] = self.script.pop(0)
        return self.words[offset]

    async def write(self, offset, value):
        self.writes.append((offset, value))


# Declarations

def test_engine_map_in_the_documented_order():
    names = list(engine_registers(CONFIG).offsets)
    assert names[:6] == ["ID", "DIGEST", "CONTROL", "STATUS", "PROGRAM", "LAYERS"]
    assert names[6:] == [name.upper() for name in counter_names(CONFIG)]
    assert engine_registers(CONFIG).offset("CYCLES") == 0x18


@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_counters_of_every_lane_and_stream(lanes):
    names = counter_names(preset("digits", lanes=lanes))
    assert names[0] == "cycles"
    assert len(set(names)) == len(names) == 1 + len(STREAMS) + lanes * len(LANE_COUNTERS)
    assert names[-1] == f"lane{lanes - 1}_{list(LANE_COUNTERS)[-1]}"


def test_pack_and_unpack_are_inverse():
    status = engine_registers(CONFIG)["STATUS"]
    values = {"busy": 1, "done": 0, "error": 4}
    assert status.pack(values) == 0b100_01
    assert status.unpack(status.pack(values)) == values
    assert status.pack({}) == 0


@pytest.mark.parametrize("make, error, sentence", [
    (lambda: engine_registers(CONFIG)["START"], KeyError,
     "Register map 'hwgate' has no register 'START'; it has ID, DIGEST, CONTROL"),
    (lambda: engine_registers(CONFIG)["CONTROL"].pack({"go": 1}), KeyError,
     "Register 'CONTROL' has no field 'go'; it has 'start', 'irq_enable'"),
    (lambda: engine_registers(CONFIG)["CONTROL"].pack({"start": 2}), ValueError,
     "Field 'start' of register 'CONTROL' must be in 0..1, not 2"),
    (lambda: Register("X", "", (Field("a", 30, Access.RW, ""), Field("b", 3, Access.RW, ""))),
     ValueError, "Register 'X' has 33 bits of fields, but a register has 32"),
    (lambda: Register("X", "", (Field("a", 1, Access.RW, ""),) * 2), ValueError,
     "Register 'X' has two fields of the same name"),
    (lambda: RegisterMap("m", (Register("X", "", ()),) * 2), ValueError,
     "Register map 'm' has two registers of the same name"),
    (lambda: Field("a", 2, Access.RW, "", reset=4), ValueError,
     "Field 'a' has 2 bits, so its value must be in 0..3, not 4"),
    (lambda: Field("a", 2, Access.RW, "", constant=1), ValueError,
     "Field 'a' has a constant value, so its access must be ro, not rw"),
], ids=range(8))
def test_mistakes_are_named(make, error, sentence):
    with pytest.raises(error) as caught:
        make()
    assert caught.value.args[0].startswith(sentence)


def test_c_header_compiles_and_agrees_with_the_map(tmp_path):
    regmap = engine_registers(CONFIG)
    header = regmap.as_c_header()
    assert "#define HWGATE_STATUS_ERROR_DIGEST 4 " in header
    assert f"#define HWGATE_DIGEST_VALUE_VALUE {CONFIG.digest:#010x}u" in header
    compiler = shutil.which("cc") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C compiler")
    checks = [f"_Static_assert(HWGATE_{name}_OFFSET == {offset}, \"\");"
              for name, offset in regmap.offsets.items()]
    checks += [f"_Static_assert(HWGATE_{r.name}_{f.name.upper()}_MASK == {r.pack({f.name: full})}u "
               f"&& HWGATE_{r.name}_{f.name.upper()}_SHIFT == {lsb}, \"\");"
               for r in regmap.registers for f, lsb in r.slots() for full in [(1 << f.width) - 1]]
    (tmp_path / "hwgate_regs.h").write_text(header)
    (tmp_path / "use.c").write_text("\n".join(['#include "hwgate_regs.h"', *checks, ""]))
    subprocess.run([compiler, "-std=c11", "-Wall", "-Werror", "-fsyntax-only", "use.c"],
                   cwd=tmp_path, check=True)


# Driver

def test_driver_runs_a_program():
    engine = FakeEngine(script=[0, 1, 1, 2])
    driver = Driver(engine, CONFIG)
    engine.put("LAYERS", 3)

    async def bench():
        await driver.check()
        await driver.start(0x1230, irq=True)
        assert await driver.status() == Status(False, False, ErrorCause.NONE, 3)
        assert await driver.wait() == Status(False, True, ErrorCause.NONE, 3)

    asyncio.run(bench())
    assert engine.script == []
    assert engine.writes == [(engine.map.offset("PROGRAM"), 0x1230),
                             (engine.map.offset("CONTROL"), 0b11)]


def test_driver_waits_for_the_interrupt():
    engine = FakeEngine()
    driver, order = Driver(engine, CONFIG), []

    async def irq():
        order.append("irq")
        engine.put("STATUS", 2)

    assert asyncio.run(driver.wait(irq(), polls=1)).done
    assert order == ["irq"]


def test_driver_reads_counters_in_order():
    engine = FakeEngine()
    for number, name in enumerate(counter_names(CONFIG)):
        engine.put(name.upper(), 100 + number)
    counters = asyncio.run(Driver(engine, CONFIG).counters())
    assert list(counters) == counter_names(CONFIG)
    assert list(counters.values()) == list(range(100, 100 + len(counters)))


def test_driver_refuses_another_engine():
    other = replace(CONFIG, lanes=8)
    with pytest.raises(EngineError, match=f"^The engine must have configuration digest "
                                          f"{CONFIG.digest:08x}, not {other.digest:08x}$"):
        asyncio.run(Driver(FakeEngine(other), CONFIG).check())
    engine = FakeEngine()
    engine.put("ID", 0xffff_ffff)
    with pytest.raises(EngineError, match="^There is no hwgate engine here: register ID must be "
                                          "0x48574741, not 0xffffffff$"):
        asyncio.run(Driver(engine, CONFIG).check())


@pytest.mark.parametrize("cause", [c for c in ErrorCause if c])
def test_driver_names_the_cause(cause):
    engine = FakeEngine()
    engine.put("STATUS", 2 | cause << 2)
    engine.put("LAYERS", 5)
    with pytest.raises(EngineError) as caught:
        asyncio.run(Driver(engine, CONFIG).wait())
    assert caught.value.cause is cause
    assert str(caught.value) == (f"The engine stopped with error {cause.name} after 5 layers: "
                                 f"{cause.doc}")


@pytest.mark.parametrize("status, call, sentence", [
    (1, lambda d: d.start(0), "The engine is busy; a program must end before the next one starts"),
    (1, lambda d: d.wait(polls=3),
     "The engine must be done after 3 reads of STATUS, but has only finished 0 layers"),
    (15 << 2 | 2, lambda d: d.wait(), "The engine reports error 15, but the known ones are 0..4"),
    (0, lambda d: d.start(8), "Program address must be a multiple of 16 below 0x100000000, "
                              "not 0x8"),
    (0, lambda d: d.start(1 << 32), "Program address must be a multiple of 16 below 0x100000000, "
                                    "not 0x100000000"),
], ids=["busy", "endless", "unknown", "unaligned", "beyond"])
def test_driver_refuses(status, call, sentence):
    engine = FakeEngine()
    engine.put("STATUS", status)
    with pytest.raises(EngineError) as caught:
        asyncio.run(call(Driver(engine, CONFIG)))
    assert str(caught.value) == sentence
    assert engine.writes == []


# Documentation

def test_generated_documentation_is_current():
    assert docs_gen.stale() == [], "run python -m hwgate.show.docs"


def test_stale_documentation_is_found_and_mended(tmp_path, monkeypatch, capsys):
    for name in docs_gen.PARTS:
        (tmp_path / name).write_text((docs_gen.DOCS / name).read_text(encoding="utf-8"),
                                     encoding="utf-8")
    docs_gen.stale(tmp_path, write=True)
    table = tmp_path / "registers.md"
    table.write_text(table.read_text(encoding="utf-8").replace("| `CONTROL` | 1 |", "| `X` | 1 |"),
                     encoding="utf-8")
    assert docs_gen.stale(tmp_path) == ["registers.md"]
    assert docs_gen.stale(tmp_path, write=True) == ["registers.md"]
    assert docs_gen.stale(tmp_path) == []
    monkeypatch.setitem(docs_gen.PARTS, "missing.md", {"x": str})
    assert docs_gen.main(["--check"]) == 2
    assert capsys.readouterr().err == "There is no missing.md in docs/; run this in a checkout\n"


def test_part_without_a_place_is_named():
    with pytest.raises(UserError, match="^The text must have the generated parts a, b, not b$"):
        docs_gen.render("<!-- generated: b -->\n<!-- end -->\n", {"a": str, "b": str})
