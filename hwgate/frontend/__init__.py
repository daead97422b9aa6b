"""From a user's PyTorch network to integers: its graph, calibration, folding."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
