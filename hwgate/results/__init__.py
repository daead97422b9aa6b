"""What a run yields, on the RTL or by the cost model, and whether two runs agree."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
