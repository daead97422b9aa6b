"""hwgate synth: what it prints and writes, with a netlist that nobody synthesized."""

import json

import pytest

from hwgate.boards import synthesis
from hwgate.cli import main
from support.netlists import SmallNetlist

SMALL = SmallNetlist("lane0", "loader").register("lane0.r", "x", "q").lut("l", "q", "d")
SMALL.register("loader.r", "d", "y")


@pytest.fixture
def invoke(capsys, monkeypatch):
    monkeypatch.setattr(synthesis, "netlist_text", lambda config, progress: SMALL.text())

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["synth", *map(str, arguments)])
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


def test_tables_name_blocks_and_the_slowest_path(invoke):
    status, out, _ = invoke("--preset", "tiny")
    assert status == 0
    assert "lane0 > loader (1 LUT)" in out and "Fits the LFE5U-85F." in out


def test_json_and_markdown_and_the_netlist_are_written(invoke, tmp_path):
    status, out, _ = invoke("--preset", "tiny", "--json", "-", "--markdown", tmp_path / "a.md",
                            "--folder", tmp_path / "kept")
    found = json.loads(out)
    assert status == 0 and found["total"]["flip_flops"] == 2 and found["without"] == {}
    assert found["estimate"]["paths"][0]["blocks"] == ["lane0", "loader"]
    assert "| lane0 | loader | lane0 > loader (1 LUT) |" in (tmp_path / "a.md").read_text()
    assert (tmp_path / "kept" / "netlist.json").read_text() == SMALL.text()


def test_a_page_is_renewed_between_its_lines(invoke, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: synthesis -->\nold\n<!-- end -->\nafter\n")
    assert invoke("--preset", "tiny", "--page", page)[0] == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "Slowest paths from block to block" in text


@pytest.mark.parametrize("arguments, sentence", [
    (("--preset", "huge"), "There is no preset 'huge'; there are "),
    (("--part", "huge"), "There is no part 'huge'; there are LFE5U-25F, "),
    (("--without", "walls"), "Feature 'walls' cannot be left out of the accelerator; "),
    (("--page", "/nowhere/page.md"), "Page /nowhere/page.md cannot be read: ")])
def test_bad_input_is_one_sentence(invoke, arguments, sentence):
    status, out, err = invoke(*arguments)
    assert status == 2 and not out and err.startswith(sentence) and err.count("\n") == 1
