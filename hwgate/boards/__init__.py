"""What an accelerator takes of an FPGA, and how fast it is there: synthesis, timing, routing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
