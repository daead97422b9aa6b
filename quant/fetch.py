"""Golden model of the weight fetch: a lane's jobs, and the read requests of a run of blocks."""

from collections.abc import Mapping
from dataclasses import dataclass

from hwgate.config import AcceleratorConfig

__all__ = ["LaneJob", "Request", "lane_jobs", "requests"]


@dataclass(frozen=True)
class LaneJob:
    """One job of a lane.

    Parameters
    ----------
    tile, channel : int
        Which outputs it computes.
    column : int
        First word in the lane's output column.
    address : int
        First byte of its header.
    conditional : int
        First byte of its conditional blocks.
    tile_last, last : bool
        The lane's last job of the tile, of the layer.
    round_first, round_last : bool
        The tile is the first, the last one of its round.
    keep, there : bool
        Its weights have a place in the weight memory; header and base weights are in it already.
    """

    tile: int
    channel: int
    column: int
    address: int
    conditional: int
    tile_last: bool
    last: bool
    round_first: bool
    round_last: bool
    keep: bool = False
    there: bool = False


@dataclass(frozen=True)
class Request:
    """A read request: ``blocks`` weight blocks, or a header and these, in ``beats`` beats."""

    address: int
    beats: int
    blocks: int
    header: bool = False


def lane_jobs(config: AcceleratorConfig, layer: Mapping[str, int], lane: int) -> list[LaneJob]:
    """Jobs of a lane in the order in which it runs them; none if it has no channel.

    Parameters
    ----------
    config : AcceleratorConfig
    layer : mapping
        Fields of the layer descriptor.
    lane : int
    """
    channels = range(lane, layer["out_channels"], config.lanes)
    jobs = []
    for tile in range(layer["tiles"]):
        number_in_round = tile % layer["round_tiles"]
        for number, channel in enumerate(channels):
            address = layer["weights_address"] + channel * layer["job_stride"]
            keep = channel < layer["kept_channels"]
            jobs.append(LaneJob(tile, channel, number * layer["slot_words"], address,
                                address + layer["cond_offset"], channel == channels[-1],
                                channel == channels[-1] and tile == layer["tiles"] - 1,
                                number_in_round == 0,
                                number_in_round == layer["round_tiles"] - 1,
                                keep, keep and tile > 0))
    return jobs


def requests(config: AcceleratorConfig, address: int, blocks: int) -> list[Request]:
    """Requests for a run of blocks without a header, which begins on a beat.

    Each asks for ``config.request_blocks`` blocks, the last one for the rest, in whole beats.
    """
    found, size = [], config.bus.bytes
    while blocks:
        taken = min(blocks, config.request_blocks)
        beats = -(-taken * config.block_bytes // size)
        found.append(Request(address, beats, taken))
        address, blocks = address + beats * size, blocks - taken
    return found
