"""Accelerator configuration: the only place a hardware number is written down.

Golden model, RTL, compiler, cost model, register map and driver all take their widths, depths and
latencies from here. Every object is frozen, validates itself and derives the rest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from hwgate.errors import UserError, shown

__all__ = ["AcceleratorConfig", "BufferConfig", "BusConfig", "ConfigError", "FormatConfig",
           "MemoryTiming", "PRESETS", "preset", "preset_line"]

#: Taps of a 3x3 window, and banks of a window memory.
TAPS = 9

#: Beats of a chunk of a compressed feature map: one bit per byte of it fills a beat of any width.
CHUNK_BEATS = 8

#: Beats of a write that share a turn on a memory's shared bus, and beats that wait for theirs.
WRITE_PART, WRITE_BUFFER = 16, 32

#: Factors of a residual are multiples of two to this power: next to a psum's, they are large.
RESIDUAL_SHIFT = 8


class ConfigError(UserError):
    """A configuration that no consumer (RTL, golden model, cost model, driver) can honour."""


def _power_of_two(what: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value & (value - 1):
        raise ConfigError(f"{what} must be a power of two, not {value!r}")
    _in_range(what, value, low, high)


def _in_range(what: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{what} must be in {low}..{high}, not {value!r}")


def _zero(value: object) -> bool:
    """Whether a memory is left out; neither False nor 0.0 says so."""
    return type(value) is int and value == 0


@dataclass(frozen=True, kw_only=True)
class FormatConfig:
    """Widths, in bits, of the integers in the numeric contract.

    Parameters
    ----------
    activation, weight : int
        Signed activations and weights, 2..8 bits. Both are stored one to a byte.
    accumulator : int
        Signed partial sums, 20..32 bits. The compiler proves that no sum of a layer can leave it.
    multiplier : int
        Signed fixed-point factor of the requantizer.
    """

    activation: int = 8
    weight: int = 8
    accumulator: int = 32
    multiplier: int = 16

    def __post_init__(self) -> None:
        _in_range("Activation width", self.activation, 2, 8)
        _in_range("Weight width", self.weight, 2, 8)
        _in_range("Accumulator width", self.accumulator, 20, 32)
        _in_range("Multiplier width", self.multiplier, 8, 16)

    @staticmethod
    def limits(bits: int) -> tuple[int, int]:
        """Smallest and largest two's-complement integer of ``bits`` bits."""
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


@dataclass(frozen=True, kw_only=True)
class BufferConfig:
    """Depths of the on-chip buffers. A *half* is one side of a double buffer.

    Parameters
    ----------
    window_words : int
        Words of R channels per bank and half of a lane's window memory.
    pixels : int
        Output pixels of the largest tile: depth of the psum memory and of the task list.
    output_words : int
        Words per half of a lane's output column; one word holds one beat's pixels of a channel.
    passes : int
        Most channel groups (weight blocks) one job may have: width of the header's bitmaps.
    weight_blocks : int
        Blocks of 9·R weights in each of a lane's two weight FIFOs; half of it is one request.
    map_bytes : int
        Memory for feature maps that stay on chip between layers; 0 for none.
    weight_bytes : int
        Memory for weights of a layer that its later tiles read again; 0 for none.
    compressed_chunks : int
        Chunks of feature maps off chip whose zero bytes are left out; 0 for no compression.
    """

    window_words: int = 256
    pixels: int = 256
    output_words: int = 512
    passes: int = 32
    weight_blocks: int = 16
    map_bytes: int = 0
    weight_bytes: int = 0
    compressed_chunks: int = 0

    def __post_init__(self) -> None:
        _power_of_two("Window memory depth", self.window_words, 16, 1 << 14)
        _power_of_two("Pixel count of a tile", self.pixels, 16, 1 << 14)
        _power_of_two("Output column depth", self.output_words, 16, 1 << 16)
        _power_of_two("Pass count of a job", self.passes, 8, 1 << 10)
        _power_of_two("Weight FIFO depth", self.weight_blocks, 16, 1 << 8)
        if not _zero(self.map_bytes):
            _power_of_two("Bytes of on-chip map memory", self.map_bytes, 1 << 12, 1 << 22)
        if not _zero(self.weight_bytes):
            _power_of_two("Bytes of on-chip weight memory", self.weight_bytes, 1 << 10, 1 << 22)
        if not _zero(self.compressed_chunks):
            _power_of_two("Compressed chunk count", self.compressed_chunks, 1 << 4, 1 << 16)


@dataclass(frozen=True, kw_only=True)
class BusConfig:
    """The off-chip AXI4 master.

    Parameters
    ----------
    data_bits : int
        Data width, 64 or 128 bits.
    address_bits : int
        Byte address width, 16..32 bits.
    burst_beats : int
        Longest burst, 16..256 beats.
    """

    data_bits: int = 128
    address_bits: int = 32
    burst_beats: int = 256

    def __post_init__(self) -> None:
        if type(self.data_bits) is not int or self.data_bits not in (64, 128):
            raise ConfigError(f"Bus width must be 64 or 128 bits, not {self.data_bits!r}")
        _in_range("Bus address width", self.address_bits, 16, 32)
        _power_of_two("Longest burst", self.burst_beats, 16, 256)

    @property
    def bytes(self) -> int:
        """Bytes of one beat."""
        return self.data_bits // 8


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """Off-chip memory of fixed latency and bandwidth: the condition of the cycle contract.

    Not part of the hardware, so not part of a configuration's digest.

    With a shared bus, reads and writes take turns on one data bus, which moves a beat at a time, in
    the order of one queue. A read burst joins the queue with its address. Beats of a write burst
    gather in a buffer of :data:`WRITE_BUFFER` beats, and wait outside while that is full;
    :data:`WRITE_PART` of them, or those up to the burst's last one, join the queue together with
    the last of them, or in the first cycle after it in which no read address comes. So the bus
    never waits for the data of a write, and no read waits for more than what has come before it.

    Parameters
    ----------
    read_latency : int
        Cycles from the address handshake to the first data handshake, at least 2.
    write_latency : int
        Cycles from the last data handshake of a burst, or its last beat on a shared bus, to its
        response, at least 1.
    beat_interval : int
        Cycles per beat of the read channel, or of a shared bus: 1 is the full bus width every
        cycle.
    shared : bool
        Whether reads and writes share the data bus; else writes are taken as they come.
    """

    read_latency: int = 30
    write_latency: int = 30
    beat_interval: int = 1
    shared: bool = False

    def __post_init__(self) -> None:
        _in_range("Read latency", self.read_latency, 2, 1023)
        _in_range("Write latency", self.write_latency, 1, 1023)
        _in_range("Beat interval", self.beat_interval, 1, 16)
        if type(self.shared) is not bool:
            raise ConfigError(f"Shared bus must be true or false, not {shown(self.shared)}")


#: Nested configurations of an accelerator.
PARTS: dict[str, Any] = {"formats": FormatConfig, "buffers": BufferConfig, "bus": BusConfig}


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """One accelerator: the shape of its MAC array, its number formats, buffers and bus.

    Parameters
    ----------
    lanes : int
        Identical lanes, each with a dot-product engine of 9·R multipliers; a power of two, 1..16.
    channels : int
        R, the input channels of one channel group; a power of two, 2..16.
    formats, buffers, bus
        Nested configurations.
    """

    lanes: int = 4
    channels: int = 4
    formats: FormatConfig = field(default_factory=FormatConfig)
    buffers: BufferConfig = field(default_factory=BufferConfig)
    bus: BusConfig = field(default_factory=BusConfig)

    def __post_init__(self) -> None:
        for name, part in PARTS.items():
            if not isinstance(getattr(self, name), part):
                raise ConfigError(f"Part {name!r} of a configuration must be a {part.__name__}, "
                                  f"not {shown(getattr(self, name))}")
        _power_of_two("Lane count", self.lanes, 1, 16)
        _power_of_two("Channel count of a group", self.channels, 2, 16)
        if self.channels > self.bus.bytes:
            raise ConfigError(f"A group of {self.channels} channels must fit one beat "
                              f"of {self.bus.bytes} bytes")

    # Shape of the array

    @property
    def multipliers(self) -> int:
        """Multipliers of all lanes."""
        return self.lanes * self.block_bytes

    @property
    def block_bytes(self) -> int:
        """Weights, and bytes, of one weight block: the taps of a window times R channels."""
        return TAPS * self.channels

    @property
    def beat_pixels(self) -> int:
        """Pixels of one beat of a feature map, and of one word of an output column."""
        return self.bus.bytes // self.channels

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk of a compressed feature map."""
        return CHUNK_BEATS * self.bus.bytes

    @property
    def write_words(self) -> int:
        """Most pixels of a row that the loader writes into the window memories per cycle: those of
        a whole row of banks, or one, if a beat has no more."""
        return 3 if self.beat_pixels > 1 else 1

    @property
    def slot_reads(self) -> int:
        """Words of all output columns that hold one channel group."""
        return max(1, self.channels // self.lanes)

    @property
    def slot_groups(self) -> int:
        """Channel groups side by side in one word of all output columns."""
        return max(1, self.lanes // self.channels)

    @property
    def request_blocks(self) -> int:
        """Most weight blocks one read request asks for."""
        return self.buffers.weight_blocks // 2

    # Derived widths

    @property
    def product_bits(self) -> int:
        return self.formats.activation + self.formats.weight

    @cached_property
    def dot_bits(self) -> int:
        """Width of a lane's dot product: 9·R products cannot overflow it."""
        return self.product_bits + (self.block_bytes - 1).bit_length()

    # Sharing

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionary, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AcceleratorConfig":
        """Inverse of :meth:`to_dict`.

        Raises
        ------
        ConfigError
            For an unknown name or a value out of range.
        """
        for name, value in {"": values, **(values if isinstance(values, dict) else {})}.items():
            if name in ("", *PARTS) and not isinstance(value, dict):
                what = f"Part {name!r} of a configuration" if name else "Configuration"
                raise ConfigError(f"{what} must be a dictionary, not {shown(value)}")
        try:
            return cls(**{name: PARTS[name](**value) if name in PARTS else value
                          for name, value in values.items()})
        except TypeError as error:
            known = ", ".join(cls.__dataclass_fields__)
            raise ConfigError(f"Configuration has an unknown name ({error}); "
                              f"the top level has {known}") from None

    @cached_property
    def digest(self) -> int:
        """32 bits that identify the hardware; carried by the registers and by every program."""
        text = json.dumps({"isa": PROGRAM_VERSION, **self.to_dict()}, sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    def describe(self) -> str:
        """One line for people."""
        buffers = self.buffers
        maps, weights, chunks = buffers.map_bytes, buffers.weight_bytes, buffers.compressed_chunks
        return (f"{self.lanes} lanes x {self.block_bytes} multipliers (R={self.channels}), "
                f"{self.bus.data_bits}-bit bus, "
                + (f"{maps >> 10} KiB for maps, " if maps else "")
                + (f"{weights >> 10} KiB for weights, " if weights else "")
                + (f"{chunks:,} compressed chunks, " if chunks else "")
                + f"digest {self.digest:08x}")


#: Version of the program format, part of every digest.
PROGRAM_VERSION = 6

_CIFAR = BufferConfig(window_words=1024, pixels=1024, output_words=2048, passes=128)

#: Named configurations.
PRESETS: dict[str, AcceleratorConfig] = {
    "digits": AcceleratorConfig(),
    "tiny": AcceleratorConfig(lanes=1, channels=2, bus=BusConfig(data_bits=64)),
    "cifar": AcceleratorConfig(buffers=_CIFAR),
    "resident": AcceleratorConfig(buffers=replace(_CIFAR, map_bytes=1 << 16,
                                                          weight_bytes=1 << 16)),
    "ulx3s": AcceleratorConfig(buffers=BufferConfig(window_words=512, pixels=1024,
                                                    output_words=1024, map_bytes=1 << 16)),
    "small": AcceleratorConfig(lanes=1, channels=2, bus=BusConfig(data_bits=64),
                               buffers=BufferConfig(window_words=512, pixels=512,
                                                    output_words=512, map_bytes=1 << 15)),
    "wide": AcceleratorConfig(lanes=8, channels=8, buffers=_CIFAR),
}


def preset(name: str, **changes: Any) -> AcceleratorConfig:
    """Configuration ``name`` of :data:`PRESETS`, with top-level fields replaced by ``changes``.

    A mapping replaces some fields of a nested configuration, and leaves its others:
    ``preset("cifar", buffers={"passes": 256})``.

    Raises
    ------
    ConfigError
        If there is no such preset or field, or the changed configuration cannot exist.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"There is no preset {shown(name)}; "
                          f"there are {', '.join(sorted(PRESETS))}")
    for other in changes:
        if other not in AcceleratorConfig.__dataclass_fields__:
            raise ConfigError(f"Configuration has no field {other!r}; "
                              f"there are {', '.join(AcceleratorConfig.__dataclass_fields__)}")
    base = PRESETS[name]
    try:
        return replace(base, **{
            field: replace(getattr(base, field), **value) if isinstance(value, Mapping) else value
            for field, value in changes.items()})
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"Preset {name!r} cannot be changed so ({error})") from None


def preset_line(config: AcceleratorConfig) -> str:
    """Python that makes a configuration, from the preset of which it changes the fewest fields."""
    def changes(name: str) -> dict[str, Any]:
        base, found = PRESETS[name].to_dict(), {}
        for key, value in config.to_dict().items():
            if isinstance(value, dict):
                value = {inner: own for inner, own in value.items() if own != base[key][inner]}
            if value not in ({}, base[key]):
                found[key] = value
        return found

    def count(name: str) -> int:
        return sum(len(value) if isinstance(value, dict) else 1
                   for value in changes(name).values())

    name = min(PRESETS, key=count)
    shown = (f"{key}={json.dumps(value)}" for key, value in changes(name).items())
    return f"hwgate.preset({', '.join([json.dumps(name), *shown])})"
