"""Programs and memory images for ``copier.sv``, the stand-in for the accelerator."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwgate.machine.config import AcceleratorConfig

__all__ = ["CONFIG", "DATA", "Copy", "image", "verilog"]

#: Configuration that ``copier.sv`` claims to be.
CONFIG = AcceleratorConfig(lanes=2)

#: First byte that :func:`image` fills with random data.
DATA = 4096

_BEAT = CONFIG.bus.bytes


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One layer of the copier; ``opcode`` and ``digest`` may be wrong on purpose."""

    source: int = DATA
    target: int = 2 * DATA
    beats: int = 64
    burst: int = 16
    stall: int = 0
    opcode: int = 1
    digest: int = CONFIG.digest

    def pack(self) -> bytes:
        words = [self.opcode | self.stall << 8, self.digest, 0, 0,
                 self.source, self.target, self.beats, self.burst]
        return np.array(words, "<u4").tobytes()


def image(layers: Sequence[Copy], *, size: int = 3 * DATA, seed: int = 1) -> np.ndarray:
    """Memory with the program at address 0 and random data in the page at :data:`DATA`."""
    memory = np.zeros(size, np.uint8)
    program = b"".join(layer.pack() for layer in [*layers, Copy(opcode=2)])
    memory[:len(program)] = np.frombuffer(program, np.uint8)
    memory[DATA:2 * DATA] = np.random.default_rng(seed).integers(0, 256, DATA)
    return memory


def verilog(*, channels: int = 4, pixels: int = 16) -> str:
    """Verilog of the copier; its events number channels and pixels as given."""
    text = Path(__file__).with_name("copier.sv").read_text()
    for name, value in (("DIGEST", f"{CONFIG.digest:08x}"), ("PIXELS", str(pixels)),
                        ("CHANNELS", str(channels))):
        text = text.replace(f"@{name}@", value)
    return text
