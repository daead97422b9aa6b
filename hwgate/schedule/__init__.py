"""Cycle model of one layer: the schedule that the RTL follows, without stepping through cycles.

Every block is a generator that computes *when* it does things from the times at which others did
theirs, and yields the list that lacks a time it needs. The read arbiter is the only place where
requests compete; granting them in order makes further times known. Latencies are the constants
beside the blocks. Times are cycles since the layer's start strobe.
"""

from hwgate.schedule.layer import LayerSchedule, OpenPixels, end_cycles, schedule_layer

__all__ = ["LayerSchedule", "OpenPixels", "end_cycles", "schedule_layer"]
