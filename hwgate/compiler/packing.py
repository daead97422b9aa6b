"""Feature maps as they lie in memory, and back: off chip, on chip, without their zero bytes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.machine.config import AcceleratorConfig
from hwgate.plan.geometry import plane_beats
from hwgate.quant.compress import decompress

__all__ = ["pack_maps", "restored", "unpack_maps", "written"]


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


def pack_maps(config: AcceleratorConfig, maps: NDArray[np.int8]) -> NDArray[np.int8]:
    """Feature maps (N, C, H, W) as they lie in memory, (groups, N, pixels, R).

    The maps of a group lie together, so that any images that share a tile are one run of it.
    """
    count, channels, height, width = maps.shape
    groups = _ceil(channels, config.channels)
    packed = np.zeros((count, groups * config.channels,
                       plane_beats(config, height * width) * config.beat_pixels), np.int8)
    packed[:, :channels, :height * width] = maps.reshape(count, channels, -1)
    return np.ascontiguousarray(
        packed.reshape(count, groups, config.channels, -1).transpose(1, 0, 3, 2))


def unpack_maps(config: AcceleratorConfig, memory: NDArray[np.uint8],
                shape: tuple[int, int, int, int]) -> NDArray[np.int8]:
    """Feature maps of ``shape`` (N, C, H, W) from their bytes, as :func:`pack_maps` places them."""
    count, channels, height, width = shape
    raw = memory.view(np.int8).reshape(_ceil(channels, config.channels), count, -1, config.channels)
    planes = raw[:, :, :height * width].transpose(1, 0, 3, 2).reshape(count, -1, height, width)
    return np.ascontiguousarray(planes[:, :channels])


def restored(config: AcceleratorConfig, memory: NDArray[np.uint8], chunks: NDArray[Any],
             start: int, size: int) -> NDArray[np.uint8]:
    """Bytes of a compressed map.

    Parameters
    ----------
    config
    memory : uint8 (bytes,)
        Off-chip memory.
    chunks : structured array (n,)
        Of each chunk, ``address``: its first byte, and ``data``: its stored beats, less one.
    start, size : int
        First byte of the map, and how many it has.
    """
    found = np.zeros(size, np.uint8)
    for address, data in zip(chunks["address"].tolist(), chunks["data"], strict=True):
        stored = memory[address:address + (int(data[0]) + 1) * config.bus.bytes]
        at = address - start
        found[at:at + config.chunk_bytes] = decompress(
            stored.reshape(-1, config.bus.bytes)).reshape(-1)
    return found


def written(config: AcceleratorConfig, writes: NDArray[Any]) -> NDArray[np.uint8]:
    """On-chip map memory with nothing but these writes: a structured array (n,) of ``address`` and
    ``data``."""
    beats = np.zeros((config.buffers.map_bytes // config.bus.bytes, config.bus.bytes), np.uint8)
    beats[writes["address"] // config.bus.bytes] = writes["data"][:, :config.bus.bytes]
    return beats.reshape(-1)
