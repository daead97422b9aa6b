from .compiler.program import Program as Program
from .compiler.program import compile as compile
from .cost.model import estimate as estimate
from .errors import UserError as UserError
from .files.networks import load as load
from .files.networks import save as save
from .frontend.check import Check as Check
from .frontend.check import check as check
from .frontend.fold import quantize as quantize
from .machine.config import (
    AcceleratorConfig as AcceleratorConfig,
)
from .machine.config import (
    ConfigError as ConfigError,
)
from .machine.config import (
    MemoryTiming as MemoryTiming,
)
from .machine.config import (
    preset as preset,
)
from .nn.convert import Conversion as Conversion
from .nn.convert import gate as gate
from .results.comparison import Comparison as Comparison
from .results.comparison import compare as compare
from .rtl.verilog import verilog as verilog
from .sim.simulate import simulate as simulate

__version__: str
