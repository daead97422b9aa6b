"""From an integer network to a program in memory: choices, balanced lanes, and why it is as it is.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
