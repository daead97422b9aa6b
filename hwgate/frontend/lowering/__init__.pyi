from .blocks import Block as Block
from .blocks import Lowered as Lowered
from .lower import lower as lower
