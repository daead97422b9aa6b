"""What the tests of the control blocks share: configurations, and blocks side by side."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from hwgate.machine.config import AcceleratorConfig, BufferConfig, BusConfig, FormatConfig

__all__ = ["CONFIGS", "Together"]

#: By test id. Beats of eight, four and one words; headers of two beats and of seven.
CONFIGS = {
    "1x18": AcceleratorConfig(
        lanes=1, channels=2,
        buffers=BufferConfig(window_words=64, pixels=64, output_words=64, passes=8)),
    "4x36": AcceleratorConfig(),
    "2x72": AcceleratorConfig(
        lanes=2, channels=8, bus=BusConfig(data_bits=64, address_bits=24),
        formats=FormatConfig(activation=7, weight=6, accumulator=24, multiplier=12),
        buffers=BufferConfig(window_words=512, pixels=128, passes=128, weight_blocks=32)),
}


class Together(wiring.Component):
    """Components side by side in one simulator; the ports of each begin with its name.

    Also for a single one: a port must not be named like the simulator's top module.
    """

    def __init__(self, **parts):
        self.parts = parts
        super().__init__({name: Out(part.signature) for name, part in parts.items()})

    def elaborate(self, platform):
        m = Module()
        for name, part in self.parts.items():
            m.submodules[name] = part
            wiring.connect(m, wiring.flipped(getattr(self, name)), part)
        return m
