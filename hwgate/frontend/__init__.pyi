from .fold import calibrate as calibrate
from .fold import fold as fold
from .fold import quantize as quantize
from .trace import Block as Block
from .trace import trace_blocks as trace_blocks
