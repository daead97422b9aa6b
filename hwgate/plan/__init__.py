"""How a layer runs: tiles and bands, jobs and their weights, what stays on chip, what is
compressed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
