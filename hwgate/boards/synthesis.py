"""From a configuration to a netlist of ECP5 cells, kept in the cache."""

import gzip
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hwgate.boards import yosys
from hwgate.boards.netlist import Netlist
from hwgate.boards.tools import run_tool, yosys_version
from hwgate.errors import expect
from hwgate.files.atomic import write_atomic
from hwgate.files.cache import cache_folder, digest, locked
from hwgate.machine.config import AcceleratorConfig
from hwgate.rtl.verilog import TOPLEVEL
from hwgate.sim.build import generated_verilog

__all__ = ["Progress", "netlist_text", "synthesize", "synthesize_verilog"]

#: Told what is going on, in a few words.
Progress = Callable[[str], None]


def synthesize(config: AcceleratorConfig, progress: Progress = lambda words: None) -> Netlist:
    """Netlist of an accelerator, from the cache if it is there.

    Parameters
    ----------
    config : AcceleratorConfig
    progress : callable

    Raises
    ------
    ToolError
        If Yosys is missing or fails.
    UserError
        For something else than a configuration.
    """
    return Netlist.read(netlist_text(config, progress))


def netlist_text(config: AcceleratorConfig, progress: Progress = lambda words: None) -> str:
    """Netlist of an accelerator as Yosys writes it; the arguments of :func:`synthesize`."""
    expect("Configuration", config, AcceleratorConfig, hint="hwgate.preset makes one")
    yosys_version()
    progress("writing Verilog")
    return synthesize_verilog(generated_verilog(config), TOPLEVEL, progress)


def synthesize_verilog(verilog: str, top: str, progress: Progress = lambda words: None) -> str:
    """Netlist of any module that has inputs ``clk`` and ``rst``, as Yosys writes it.

    Raises
    ------
    ToolError
        If Yosys is missing or fails.
    """
    key = digest("netlist", yosys_version(), Path(yosys.__file__).read_text(), top, verilog)
    entry = cache_folder() / "netlists" / f"{key}.json.gz"
    with locked(entry):
        if not entry.exists():
            with tempfile.TemporaryDirectory(prefix="hwgate-") as name:
                folder = Path(name)
                (folder / "design.v").write_text(verilog)

                def line(text: str) -> None:
                    if text.startswith(yosys.STEP):
                        progress(f"synthesis {text.removeprefix(yosys.STEP)}")

                run_tool("Yosys", [sys.executable, "-m", yosys.__name__, name, top],
                         folder / "log", line)
                write_atomic(entry, gzip.compress((folder / "netlist.json").read_bytes(), 3))
    return gzip.decompress(entry.read_bytes()).decode()
