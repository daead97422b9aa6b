"""Layouts for waveform viewers: gate decisions, task lists and counters by name.

Beside a trace ``run.fst`` lie ``run.gtkw``, a save file of GTKWave, and ``run.sucl``, a command
file of Surfer. What the harness names is always there; signals inside a lane are looked up in the
Verilog, so a layout names nothing that the trace does not have.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from vcd.gtkw import GTKWSave

from hwgate.files.atomic import write_atomic
from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.regs import counter_names
from hwgate.rtl.engine import LANE_MODULE
from hwgate.rtl.verilog import TOPLEVEL

__all__ = ["Group", "Wave", "groups", "gtkwave", "surfer", "write_layouts"]

#: Scope of the accelerator in ``harness.sv``.
_TOP = "harness.dut"

#: Fields of the monitor's events, which the harness names; psums are signed.
_EVENT = {"valid": 1, "channel": 16, "tile": 16, "pixel": 16, "psum": 32, "decision": 1,
          "score": 1}

#: Blocks of a lane that are shown: name of their Verilog module within the lane, and members.
_BLOCKS = {
    "gate": ("gate", "psum", "threshold", "open"),
    "tasks": ("clear", "append", "counted", "dropped", "count", "rewind", "next", "valid",
              "position"),
}

_MODULE = re.compile(r"^module (\S+) ?\(.*?^endmodule", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(r"^  (\S+) +(\S+) +\($", re.MULTILINE)
_SIGNAL = re.compile(r"^  (?:input|output|reg|wire) (?:\[(\d+):0\] )?(\w+)(?: = .*)?;$",
                     re.MULTILINE)


@dataclass(frozen=True)
class Wave:
    """One signal of a trace.

    Parameters
    ----------
    path : str
        Scopes and name, joined by dots.
    width : int
        Bits.
    signed : bool
    """

    path: str
    width: int = 1
    signed: bool = False


@dataclass(frozen=True)
class Group:
    """Signals under one heading."""

    name: str
    waves: tuple[Wave, ...]


def groups(config: AcceleratorConfig, verilog: str) -> tuple[Group, ...]:
    """What a layout shows of the harness around an accelerator, ``verilog``."""
    found = [Group("run", tuple(Wave(f"harness.{name}", width) for name, width in
                                (("cycle", 48), ("layer_done", 1), ("halt", 1),
                                 ("m_arvalid", 1), ("m_rvalid", 1), ("m_wvalid", 1))))]
    modules = _modules(verilog)
    inside = list(_walk(modules, TOPLEVEL, _TOP))
    for lane in range(config.lanes):
        scope = f"harness.g_lane[{lane}]"
        found.append(Group(f"lane {lane}: outputs and their decisions", tuple(
            Wave(f"{scope}.{name}", width, signed=name == "psum")
            for name, width in _EVENT.items())))
        for block, members in _BLOCKS.items():
            waves = [Wave(f"{path}.{name}", signals[name], signed=name in ("psum", "threshold"))
                     for path, module, signals in inside
                     if path.startswith(f"{_TOP}.lane{lane}.")
                     and re.fullmatch(rf"{LANE_MODULE}\.{block}(_?\d+)?(\$\d+)?", module)
                     for name in members if name in signals]
            if waves:
                found.append(Group(f"lane {lane}: {block}", tuple(waves)))
    known = modules[TOPLEVEL].signals if TOPLEVEL in modules else {}
    names = [f"{name}__value" for name in counter_names(config)]
    counters = tuple(Wave(f"{_TOP}.{name}", known[name]) for name in names if name in known)
    return (*found, Group("counters", counters)) if counters else tuple(found)


def gtkwave(shown: tuple[Group, ...], trace: Path) -> str:
    """Save file of GTKWave for a trace in the same folder."""
    out = StringIO()
    save = GTKWSave(out)
    save.dumpfile(trace.name, abspath=False)
    save.timestart(0)
    save.signals_width(320)
    for group in shown:
        with save.group(group.name):
            for wave in group.waves:
                bits = f"[{wave.width - 1}:0]" if wave.width > 1 else ""
                save.trace(wave.path + bits, datafmt="signed" if wave.signed else
                           "dec" if bits else "bin")
    return out.getvalue()


def surfer(shown: tuple[Group, ...]) -> str:
    """Command file of Surfer; a divider's name is one word there."""
    lines = []
    for group in shown:
        lines.append("divider_add " + re.sub(r"\W+", "_", group.name))
        lines += [f"variable_add {wave.path}" for wave in group.waves]
    return "\n".join([*lines, "zoom_fit", ""])


def write_layouts(trace: Path, config: AcceleratorConfig, verilog: str) -> tuple[Path, Path]:
    """Write both layouts beside a trace; returns their paths.

    Raises
    ------
    UserError
        If they cannot be written.
    """
    shown = groups(config, verilog)
    paths = trace.with_suffix(".gtkw"), trace.with_suffix(".sucl")
    write_atomic(paths[0], gtkwave(shown, trace))
    write_atomic(paths[1], surfer(shown))
    return paths


@dataclass(frozen=True)
class _Module:
    """Signals with their widths, and instances (module, name), of a Verilog module."""

    signals: dict[str, int]
    instances: list[tuple[str, str]]


def _modules(verilog: str) -> dict[str, _Module]:
    """Modules by name, from Verilog as Yosys writes it."""
    found = {}
    for match in _MODULE.finditer(verilog):
        signals = {name: int(high or 0) + 1 for high, name in _SIGNAL.findall(match[0])}
        instances = [(module.lstrip("\\"), name.lstrip("\\"))
                     for module, name in _INSTANCE.findall(match[0])]
        found[match[1].lstrip("\\")] = _Module(signals, instances)
    return found


def _walk(modules: dict[str, _Module], module: str,
          scope: str) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Every instance below a module: its scope, its module and the module's signals."""
    if module not in modules:
        return
    for name, instance in modules[module].instances:
        if name in modules:
            path = f"{scope}.{instance}"
            yield path, name, modules[name].signals
            yield from _walk(modules, name, path)
