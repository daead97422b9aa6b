"""What hardware and software agree on: configuration, registers, layouts of the program, counters,
driver.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
