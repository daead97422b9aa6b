"""hwgate: from a channel-gated PyTorch network to a verified accelerator."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwgate.comparison import Comparison, compare
    from hwgate.compiler import Program, compile
    from hwgate.config import AcceleratorConfig, ConfigError, MemoryTiming, preset
    from hwgate.conversion import Conversion, gate
    from hwgate.cost import estimate
    from hwgate.errors import UserError
    from hwgate.quant.fold import quantize
    from hwgate.rtl.verilog import verilog
    from hwgate.sim.simulate import simulate

#: Public name: module that defines it. Loaded on first use, so that `import hwgate` stays quick
#: and the parts never import each other in circles.
_EXPORTS = {
    "AcceleratorConfig": "hwgate.config", "ConfigError": "hwgate.config",
    "MemoryTiming": "hwgate.config", "preset": "hwgate.config",
    "UserError": "hwgate.errors",
    "Conversion": "hwgate.conversion", "gate": "hwgate.conversion",
    "quantize": "hwgate.quant.fold",
    "Program": "hwgate.compiler", "compile": "hwgate.compiler",
    "simulate": "hwgate.sim.simulate",
    "estimate": "hwgate.cost",
    "Comparison": "hwgate.comparison", "compare": "hwgate.comparison",
    "verilog": "hwgate.rtl.verilog",
}

__all__ = ["AcceleratorConfig", "Comparison", "ConfigError", "Conversion", "MemoryTiming",
           "Program", "UserError", "compare", "compile", "estimate", "gate", "preset", "quantize",
           "simulate", "verilog"]

try:
    __version__ = version("hwgate")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'hwgate' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
