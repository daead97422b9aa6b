"""Options that commands share, and what they mean for accelerator, network and images."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwgate.machine.config import PRESETS, AcceleratorConfig, BusConfig, MemoryTiming, preset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hwgate.quant.network import QuantizedNetwork

__all__ = ["TIMING", "BeatInterval", "Bus", "Channels", "Chunks", "Dense", "Images", "Json",
           "Lanes", "MapKib", "Network", "Preset", "ReadLatency", "SharedBus", "WriteLatency",
           "configured", "load", "load_batch", "with_maps"]

Preset = Annotated[str, typer.Option(
    "--preset", help=f"Accelerator to start from: {', '.join(sorted(PRESETS))}. "
                     "`hwgate info` describes them.")]
Lanes = Annotated[int | None, typer.Option(help="Lanes of the MAC array: a power of two, 1..16.")]
Channels = Annotated[int | None, typer.Option(
    help="R, channels of one channel group: a power of two, 2..16. A lane has 9R multipliers.")]
Bus = Annotated[int | None, typer.Option(help="Bits of the memory bus: 64 or 128.")]
MapKib = Annotated[int | None, typer.Option(
    metavar="N", help="KiB of on-chip memory for feature maps between layers: a power of two, "
                      "4..4096, or 0.")]
Chunks = Annotated[int | None, typer.Option(
    metavar="N", help="Chunks of eight beats of feature maps off chip whose zero bytes are left "
                      "out: a power of two, 16..65536, or 0.")]
Json = Annotated[str | None, typer.Option(
    "--json", metavar="FILE", help="Write the figures as JSON; - prints them instead of tables.")]
Network = Annotated[Path, typer.Argument(
    metavar="NETWORK", help="Quantized network, as `hwgate demo --save NETWORK` writes it.")]
Images = Annotated[str, typer.Option(
    metavar="N|FILE", help="The first N test digits, or a .npy file of (N, C, H, W) images: "
                           "floats, or int8 if already quantized.")]
Dense = Annotated[bool, typer.Option("--dense", help="Force all gates open.")]
ReadLatency = Annotated[int, typer.Option(help="Cycles from a read's address to its first data.")]
WriteLatency = Annotated[int, typer.Option(help="Cycles from a write's last data to its answer.")]
BeatInterval = Annotated[int, typer.Option(
    help="Cycles per beat of the memory bus; 1 is full speed.")]
SharedBus = Annotated[bool, typer.Option(
    "--shared-bus", help="Reads and writes take turns on one data bus, as those of an SDRAM do.")]

#: Defaults of the options of a memory.
TIMING = MemoryTiming()


def configured(name: str, lanes: int | None, channels: int | None,
            bus: int | None) -> AcceleratorConfig:
    return changed(preset(name), lanes, channels, bus)


def changed(config: AcceleratorConfig, lanes: int | None, channels: int | None,
             bus: int | None) -> AcceleratorConfig:
    """The configuration with the parts that the user named replaced."""
    changes: dict[str, Any] = {}
    if lanes is not None:
        changes["lanes"] = lanes
    if channels is not None:
        changes["channels"] = channels
    if bus is not None:
        changes["bus"] = BusConfig(data_bits=bus, address_bits=config.bus.address_bits,
                                   burst_beats=config.bus.burst_beats)
    return replace(config, **changes)


def with_maps(config: AcceleratorConfig, map_kib: int | None,
               chunks: int | None) -> AcceleratorConfig:
    """The accelerator with other memories for maps, which change none of a network's numbers."""
    changes = {} if map_kib is None else {"map_bytes": map_kib << 10}
    changes |= {} if chunks is None else {"compressed_chunks": chunks}
    return replace(config, buffers=replace(config.buffers, **changes)) if changes else config


def load(path: Path, map_kib: int | None, chunks: int | None) -> "QuantizedNetwork":
    from hwgate.files.networks import load_network

    network = load_network(path)
    return replace(network, config=with_maps(network.config, map_kib, chunks))


def load_batch(path: Path, images: str, lanes: int | None, channels: int | None, bus: int | None,
          map_kib: int | None, chunks: int | None
          ) -> "tuple[QuantizedNetwork, AcceleratorConfig, NDArray[Any]]":
    """A saved network, the configuration to run it on, and a batch of images."""
    from hwgate.data.images import load_images

    network = load(path, map_kib, chunks)
    return network, changed(network.config, lanes, channels, bus), load_images(images, network)
