from .blocks import Block as Block
from .fold import quantize as quantize
from .graph import Graph as Graph
from .graph import Node as Node
from .lower import lower as lower
from .passes import simplify as simplify
from .torch_reader import read_torch as read_torch
