"""Compiled simulators, kept in the cache, and the cocotb benches that run on them.

A model is one executable. Its cache entry is named by a digest of all sources, flags and tool
versions, and appears whole. ``$HWGATE_QUICK`` names an optimisation of the C++ compiler, such as
``-Og``: models are then compiled with half of the work and run more slowly, which suits many
models that run shortly.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwgate.errors import ToolError
from hwgate.files.cache import cache_folder, digest, locked
from hwgate.machine.config import AcceleratorConfig
from hwgate.sim import toolchain

__all__ = ["BenchError", "build_model", "cache_folder", "generated_verilog", "run_bench"]

_log = logging.getLogger(__name__)

#: Verilator options of every model. Not among them: public flat signals, the default of cocotb's
#: runner, which cost a factor of seven in speed.
_FLAGS = ("--cc", "--exe", "--vpi", "--prefix", "Vtop", "-O3",
          "--x-assign", "fast", "--x-initial", "fast", "--timescale", "1ns/1ns",
          "-Wno-fatal", "-Wno-lint", "-Wno-style", "--Mdir", ".")

#: Variables of make with which all sources are one unit, so that headers are read once.
_ONE_UNIT = {"VM_PARALLEL_BUILDS": "0", "VM_USER_CLASSES": ""}

#: Lines of a log that an error message shows.
_TAIL = 40


class BenchError(AssertionError):
    """A cocotb bench that failed; the message ends with the tail of its log."""


def generated_verilog(config: AcceleratorConfig) -> str:
    """Verilog of the whole accelerator, from the cache if hwgate's sources have not changed."""
    import hwgate
    import hwgate.rtl

    folders = {Path(folder) for package in (hwgate, hwgate.rtl) for folder in package.__path__}
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    key = digest("verilog", str(sorted(config.to_dict().items())), *toolchain.verilog_versions(),
                  *(text for path in files for text in (path.name, path.read_text())))
    entry = cache_folder() / "verilog" / f"{key}.v"
    with locked(entry):
        if not entry.exists():
            from hwgate.rtl.verilog import verilog
            _write(entry, verilog(config).encode())
    return entry.read_text()


def build_model(verilog: str, toplevel: str, *, extra: Sequence[Path] = (),
                parameters: Mapping[str, int] | None = None, timing: bool = False,
                public: bool = True, waves: bool | str = False) -> Path:
    """Compile a cocotb model with Verilator, or find it in the cache.

    Parameters
    ----------
    verilog : str
        Text of the design.
    toplevel : str
        Top module.
    extra : sequence of Path
        Verilator control files (.vlt), SystemVerilog (.sv, .v) and C++ (.cpp) to add.
    parameters : mapping
        Integer parameters of the top module.
    timing : bool
        Allow delays in the design, such as a clock it makes itself.
    public : bool
        All ports and signals of the top module are visible to cocotb; otherwise only those that
        the design marks for Verilator.
    waves : bool or str
        Able to write a trace of everything, slowly: as ``"fst"`` (or True) or as ``"vcd"``.

    Returns
    -------
    Path
        The executable, named like ``toplevel``; for :func:`run_bench`.

    Raises
    ------
    ToolError
        If a tool is missing, or Verilator or the compiler fails; the message has the log's tail.
    """
    kind = "fst" if waves is True else waves
    if kind == "fst":
        toolchain.require_trace_headers()
    flags = [*_FLAGS, "--top-module", toplevel, "-o", toplevel,
             "--timing" if timing else "--no-timing", *(["--public-depth", "1"] if public else []),
             *([f"--trace-{kind}"] if kind else []),
             *(f"-G{name}={value}" for name, value in (parameters or {}).items())]
    variables = toolchain.make_variables()
    if quick := os.environ.get("HWGATE_QUICK"):
        variables |= {"OPT_FAST": quick, "OPT_GLOBAL": quick, **_ONE_UNIT}
    sources = {path.name: path.read_text() for path in extra} | {"design.v": verilog}
    shared = [" ".join(toolchain.model_versions()), str(timing), str(kind),
              *(f"{name}={value}" for name, value in variables.items() if name != "OBJCACHE")]
    key = digest("model", *shared, *flags, *(part for item in sources.items() for part in item))
    entry = cache_folder() / "models" / key / toplevel
    with locked(entry.parent):
        if not entry.exists():
            _log.info("Compiling the simulator of %s (once for each design)", toplevel)
            runtime = cache_folder() / "runtime" / digest("runtime", *shared)
            _compile(sources, flags, variables, runtime, entry)
    return entry


def run_bench(model: Path, test_module: str, *, test_case: str | None = None,
              env: Mapping[str, str] | None = None, search: Sequence[Path] = (),
              seed: int = 1, waves: Path | None = None, timeout: float = 600) -> str:
    """Run the cocotb tests of a module on a model; quiet unless they fail.

    Parameters
    ----------
    model : Path
        From :func:`build_model`.
    test_module : str
        Importable name of the module.
    test_case : str, optional
        Name of one test; default all.
    env : mapping, optional
        Environment variables for the bench.
    search : sequence of Path
        Folders to import from, besides those of this process.
    seed : int
        cocotb's random seed.
    waves : Path, optional
        Trace to write, in the format that the model was built for.
    timeout : float
        Seconds of wall time after which the simulator is stopped.

    Returns
    -------
    str
        The log.

    Raises
    ------
    BenchError
        If a test fails, none was found, the simulator crashes or runs out of time.
    """
    with tempfile.TemporaryDirectory(prefix="hwgate-") as work:
        results = Path(work) / "results.xml"
        variables = {**os.environ, **_cocotb_environment(), **(env or {}),
                     "COCOTB_TOPLEVEL": model.name, "COCOTB_TEST_MODULES": test_module,
                     "COCOTB_RESULTS_FILE": str(results), "COCOTB_RANDOM_SEED": str(seed)}
        # By default cocotb has pytest rewrite, and compile, every module the bench imports. Benches
        # of hwgate itself say what is wrong, and start faster without.
        variables["COCOTB_REWRITE_ASSERTION_FILES"] = (
            "" if test_module.startswith("hwgate.") else f"{test_module.rpartition('.')[2]}.py")
        variables["PYTHONPATH"] = os.pathsep.join(
            [*map(str, search), *(folder or os.getcwd() for folder in sys.path)])
        if test_case is not None:
            variables["COCOTB_TEST_FILTER"] = rf"\.{test_case}$"
        trace = ["--trace", "--trace-file", str(waves.resolve())] if waves else []
        try:
            done = subprocess.run([str(model), *trace], cwd=work, env=variables, text=True,
                                  errors="replace", stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            log = error.stdout or b""
            text = log.decode(errors="replace") if isinstance(log, bytes) else log
            raise BenchError(f"Bench {test_module} did not end within {timeout:g} s\n"
                             f"{_tail(text)}") from None
        count, failures = _results(results)
    if done.returncode or failures or not count:
        what = (f"failed {len(failures)} of {count} tests ({', '.join(failures)})" if failures
                else f"ended with exit status {done.returncode}" if done.returncode
                else f"has no test {test_case}" if test_case else "has no tests")
        raise BenchError(f"Bench {test_module} {what}\n{_tail(done.stdout)}")
    return done.stdout


def _compile(sources: Mapping[str, str], flags: Sequence[str], variables: Mapping[str, str],
             runtime: Path, entry: Path) -> None:
    """Build in a temporary folder, whose path has no space: make cannot stand one."""
    main = toolchain.cocotb_library().parent / "share" / "lib" / "verilator" / "verilator.cpp"
    make = toolchain.make()
    with tempfile.TemporaryDirectory(prefix="hwgate-") as folder:
        work = Path(folder)
        (work / "verilator").symlink_to(toolchain.verilator_root(), target_is_directory=True)
        (work / "cocotb").symlink_to(toolchain.cocotb_library(), target_is_directory=True)
        for name, text in {**sources, "cocotb_main.cpp": main.read_text()}.items():
            (work / name).write_text(text)
        env = {**os.environ, "VERILATOR_ROOT": str(work / "verilator"),
               "CCACHE_BASEDIR": folder, "CCACHE_NOHASHDIR": "1",
               "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath),
                                        str(Path(sys.executable).parent)])}
        env.pop("MAKEFLAGS", None)
        _run([str(work / "verilator" / "bin" / "verilator_bin"), *flags,
              "-LDFLAGS", f"-rdynamic -L{work / 'cocotb'} -lcocotbvpi_verilator",
              "cocotb_main.cpp", *sources], work, env, "Verilator")
        if _ONE_UNIT.items() <= variables.items():
            users = [Path(name).stem for name in ("cocotb_main.cpp", *sources)
                     if name.endswith(".cpp")]
            with (work / "Vtop_classes.mk").open("a") as file:
                file.write(f"VM_SUPPORT_SLOW += {' '.join(users)}\n")
        # The run-time library is the same for every model with the same flags.
        if runtime.is_dir():
            for path in runtime.iterdir():
                shutil.copy(path, work)
        jobs = str(min(os.cpu_count() or 1, 8))
        _run([make, "-j", jobs, "-f", "Vtop.mk",
              *(f"{name}={value}" for name, value in variables.items())],
             work, env, "The C++ compiler")
        if not runtime.is_dir():
            _keep(runtime, list(work.glob("verilated*.o")))
        entry.parent.mkdir(parents=True, exist_ok=True)
        _write(entry, (work / entry.name).read_bytes(), mode=0o755)


def _keep(folder: Path, files: Sequence[Path]) -> None:
    """Make ``folder`` with copies of ``files``, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    for path in files:
        shutil.copy(path, temporary)
    try:
        temporary.rename(folder)
    except OSError:  # another builder was first
        shutil.rmtree(temporary)


def _run(command: Sequence[str], work: Path, env: Mapping[str, str], who: str) -> None:
    done = subprocess.run(command, cwd=work, env=dict(env), text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise ToolError(f"{who} failed on the simulation with exit status {done.returncode}:\n"
                        f"{_tail(done.stdout)}")


def _cocotb_environment() -> dict[str, str]:
    """What cocotb's libraries need to find Python and each other."""
    from cocotb_tools.config import pygpi_entry_point

    libraries = str(toolchain.cocotb_library())
    path = {name: os.pathsep.join(filter(None, [libraries, os.environ.get(name)]))
            for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")}
    return {**path, "GPI_USERS": f"{toolchain.python_library()};{pygpi_entry_point()}",
            "PYGPI_PYTHON_BIN": sys.executable, "TOPLEVEL_LANG": "verilog",
            "COCOTB_TRUST_INERTIAL_WRITES": "1", "COCOTB_ANSI_OUTPUT": "0",
            "OPENBLAS_NUM_THREADS": "1"}


def _results(path: Path) -> tuple[int, list[str]]:
    """Count of tests and names of those that failed."""
    if not path.is_file():
        return 0, []
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    failed = [case.get("name", "?") for case in cases
              if case.find("failure") is not None or case.find("error") is not None]
    return len(cases), failed


def _tail(log: str) -> str:
    return "\n".join(log.splitlines()[-_TAIL:])


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file that appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, mode)
    os.replace(file.name, path)
