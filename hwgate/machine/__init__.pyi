from .config import (
    PRESETS as PRESETS,
)
from .config import (
    AcceleratorConfig as AcceleratorConfig,
)
from .config import (
    BufferConfig as BufferConfig,
)
from .config import (
    BusConfig as BusConfig,
)
from .config import (
    ConfigError as ConfigError,
)
from .config import (
    FormatConfig as FormatConfig,
)
from .config import (
    MemoryTiming as MemoryTiming,
)
from .config import (
    preset as preset,
)
from .counters import LANE_COUNTERS as LANE_COUNTERS
from .counters import STREAMS as STREAMS
from .driver import Bus as Bus
from .driver import Driver as Driver
from .driver import EngineError as EngineError
from .driver import Status as Status
from .layouts import descriptor_layout as descriptor_layout
from .layouts import header_layout as header_layout
from .regs import ErrorCause as ErrorCause
from .regs import engine_registers as engine_registers
