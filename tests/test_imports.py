"""The layout of the source: imports that run one way, no circles, and files of a readable size."""

from pathlib import Path

import pytest

from hwgate.show.packages import LEVELS, sentence
from support.imports import PARTS, Import, circles, forbidden, modules, read_imports

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = read_imports(ROOT)
PACKAGES = sorted(name for level in LEVELS for name in level)

#: Lines of the largest file.
MOST_LINES = 400


def test_imports_run_down():
    assert len(IMPORTS) > 500
    assert not forbidden(IMPORTS, LEVELS)


def test_there_are_no_circles():
    assert not list(circles(IMPORTS))


def test_every_package_has_its_place():
    found = {path.stem for path in (ROOT / "hwgate").iterdir()
             if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert (found | set(PARTS)) - {"__init__", "hwgate"} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_lives_there(package):
    assert sentence(package).endswith(".") and len(sentence(package)) < 160


@pytest.mark.parametrize("path", modules(ROOT).values(), ids=lambda path: str(
    path.relative_to(ROOT)))
def test_files_can_be_read_at_a_sitting(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.fixture
def planted(tmp_path):
    """Write a small tree of modules; returns what is wrong with its imports."""
    def plant(**sources):
        for folder in ("hwgate", "quant", "rtl", "sim"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "__init__.py").touch()
        for name, text in sources.items():
            folder, _, stem = name.partition("__")
            beside = tmp_path / folder
            base = beside if beside.is_dir() else tmp_path / "hwgate" / folder
            base.mkdir(exist_ok=True)
            (base / "__init__.py").touch()
            (base / f"{stem}.py").write_text(text)
        (tmp_path / "hwgate" / "__init__.pyi").write_text(
            "from .sim.simulate import simulate as simulate\n")
        (tmp_path / "sim" / "simulate.py").touch()
        found = read_imports(tmp_path)
        return forbidden(found, LEVELS), list(circles(found))
    return plant


@pytest.mark.parametrize("text, line, target, rule", [
    ("from hwgate.sim.simulate import simulate", 1, "hwgate.sim.simulate",
     "'machine' is on level 1 and may import from lower levels only, but 'sim' is on level 7"),
    ("def f():\n    from hwgate.sim import simulate", 2, "hwgate.sim.simulate",
     "'machine' is on level 1 and may import from lower levels only, but 'sim' is on level 7"),
    ("import hwgate\n\nx = hwgate.simulate", 3, "hwgate.sim.simulate",
     "'machine' is on level 1 and may import from lower levels only, but 'sim' is on level 7"),
    ("from hwgate import simulate", 1, "hwgate.sim.simulate",
     "'machine' is on level 1 and may import from lower levels only, but 'sim' is on level 7"),
    ("import hwgate.sim.simulate", 1, "hwgate.sim.simulate",
     "'machine' is on level 1 and may import from lower levels only, but 'sim' is on level 7")])
def test_a_planted_import_is_named(planted, text, line, target, rule):
    wrong, _ = planted(machine__config=text)
    assert wrong == [f"hwgate/machine/config.py:{line} imports {target}: {rule}"]


def test_neighbours_do_not_import_each_other(planted):
    wrong, _ = planted(quant__gate="from hwgate.rtl import gate", rtl__gate="")
    assert wrong == ["quant/gate.py:1 imports hwgate.rtl.gate: 'quant' is on level 2 and may "
                     "import from lower levels only, but 'rtl' is on level 2"]


def test_a_package_without_a_place_is_named(planted):
    wrong, _ = planted(attic__box="from hwgate.machine import config", machine__config="")
    assert wrong == ["hwgate/attic/box.py:1 imports hwgate.machine.config: package 'attic' has no "
                     "place among the levels"]


def test_a_planted_circle_is_found(planted):
    wrong, groups = planted(quant__a="from .b import x", quant__b="def f():\n    from .c import y",
                            quant__c="from .a import z", quant__d="from .a import z")
    assert not wrong
    assert groups == [["hwgate.quant.a", "hwgate.quant.b", "hwgate.quant.c"]]


def test_an_import_knows_its_packages():
    assert Import(Path("x"), 1, "hwgate.quant.gate", "hwgate").packages == ("quant", "")
