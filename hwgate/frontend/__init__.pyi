from .fold import quantize as quantize
from .trace import Block as Block
from .trace import trace_blocks as trace_blocks
