"""Cycle model of one layer: the schedule that the RTL follows, without stepping through cycles.

Every block is a generator that computes *when* it does things from the times at which others did
theirs, and yields the list that lacks a time it needs. The read arbiter is the only place where
requests compete; granting them in order makes further times known. Latencies are the constants
beside the blocks. Times are cycles since the layer's start strobe.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
