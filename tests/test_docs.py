"""The documentation: snippets run, commands exist, links lead somewhere."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from hwgate.cli.main import app
from hwgate.frontend.graph import RUNS
from hwgate.frontend.operators import ACTIVATIONS, OPERATORS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def _blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, snippet in enumerate(_blocks(ROOT / "docs" / "tutorial.md", "python"), 1):
        exec(compile(snippet, f"tutorial.md, snippet {number}", "exec"), names)
    assert number == 7
    assert names["comparison"].equal
    assert names["evaluation"].equal
    assert names["dense"].cycles > names["rtl"].cycles
    assert (tmp_path / "build" / "tutorial.html").is_file()
    assert "Equal: every output" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{target} is linked but missing"


def test_commands_in_the_readme_exist():
    commands = typer.main.get_command(app).commands
    lines = [shlex.split(line) for block in _blocks(ROOT / "README.md", "console")
             for line in block.splitlines()]
    assert {line[1] for line in lines} == set(commands)
    for program, name, *words in lines:
        assert program == "hwgate"
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known


def test_every_operator_has_a_row():
    """Of a graph, as PyTorch calls what runs, and each activation, whether it runs or not."""
    text = (ROOT / "docs" / "operators.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()
            if line.startswith("|")]
    assert set(OPERATORS) <= {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    first = " ".join(row[0] for row in rows)
    named = set(re.findall(r"\b[A-Z]\w+", RUNS))
    assert len(named) > 8 and named <= set(re.findall(r"\w+", first))
    assert {kind.replace("_", "") for kind in ACTIVATIONS} <= {
        name.lower() for name in re.findall(r"\w+", first)}


def test_make_targets_are_those_of_the_readme():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    for page in PAGES:
        for target in re.findall(r"`make (\w+)|^    make (\w+)", page.read_text(), re.MULTILINE):
            assert "".join(target) in targets


def test_every_version_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().lower().splitlines()
    pins = {line.split("==")[0] for line in lines if not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = {re.match(r"[a-z0-9_-]+", need)[0]
             for needed in (project["dependencies"], *project["optional-dependencies"].values())
             for need in needed}
    assert needs <= pins
