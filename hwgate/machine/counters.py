"""Names of what the engine counts, and what each name means."""

__all__ = ["LANE_COUNTERS", "STREAMS"]

#: Per-lane counters. Every cycle of a lane adds one to exactly one of them.
LANE_COUNTERS: dict[str, str] = {
    "base": "issued a window of a base pass",
    "conditional": "issued a window of a conditional pass",
    "weights": "waited for a job header or a weight block",
    "windows": "waited for a channel group of its tile, or of the residual operand",
    "output": "waited for a free half of the output buffer",
    "gate": "waited for decisions of the gate",
    "turnaround": "chose and started a pass",
    "idle": "had no job left in this layer, or no layer ran",
}

#: Streams on the off-chip bus, counted in bytes of whole beats.
STREAMS: dict[str, str] = {
    "program": "layer descriptors",
    "windows": "input feature maps",
    "base": "job headers and base weight blocks",
    "conditional": "conditional weight blocks",
    "output": "output feature maps",
    "residual": "operands of residual adds",
}
