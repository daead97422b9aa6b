"""Utilisation, gating efficiency, lost cycles and simulation speed: ``python -m hwgate.bench``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
