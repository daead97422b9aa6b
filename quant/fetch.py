"""Golden model of the weight fetch: a lane's jobs, and the read requests of a run of blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwgate.machine.config import AcceleratorConfig

__all__ = ["LaneJob", "Request", "lane_jobs", "lane_order", "requests"]


@dataclass(frozen=True)
class LaneJob:
    """One job of a lane.

    Parameters
    ----------
    tile, channel : int
        Which outputs it computes; of a score, those of the job behind it.
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
    score : bool
        It only decides, for the jobs behind it.
    tasks : int
        Task list that it fills, or that its score has filled.
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
    score: bool = False
    tasks: int = 0


@dataclass(frozen=True)
class Request:
    """A read request: ``blocks`` weight blocks, or a header and these, in ``beats`` beats."""

    address: int
    beats: int
    blocks: int
    header: bool = False


def lane_order(lane: int, lanes: int, channels: int,
               gate: Sequence[int] | None = None) -> list[tuple[int, bool]]:
    """Jobs of a lane in one tile, (channel, whether it is the score before that channel).

    Parameters
    ----------
    lane, lanes : int
    channels : int
        Output channels of the layer.
    gate : sequence of int, optional
        Gate of each channel, if channels share gates: its score comes before the first channel of
        those that follow each other in the lane.
    """
    order, before = list[tuple[int, bool]](), None
    for channel in range(lane, channels, lanes):
        if gate is not None and gate[channel] != before:
            before = gate[channel]
            order.append((channel, True))
        order.append((channel, False))
    return order


def lane_jobs(config: AcceleratorConfig, layer: Mapping[str, int], lane: int,
              gate: Sequence[int] | None = None) -> list[LaneJob]:
    """Jobs of a lane in the order in which it runs them; none if it has no channel.

    Parameters
    ----------
    config : AcceleratorConfig
    layer : mapping
        Fields of the layer descriptor.
    lane : int
    gate : sequence of int, optional
        See :func:`lane_order`.
    """
    order = lane_order(lane, config.lanes, layer["out_channels"], gate)
    jobs, decided = list[LaneJob](), 0
    for tile in range(layer["tiles"]):
        number_in_round = tile % layer["round_tiles"]
        for number, (channel, score) in enumerate(order):
            place = number * config.lanes + lane
            address = layer["weights_address"] + place * layer["job_stride"]
            keep, final = channel < layer["kept_channels"], number == len(order) - 1
            decided += score or gate is None
            jobs.append(LaneJob(tile, channel, channel // config.lanes * layer["slot_words"],
                                address, address + layer["cond_offset"], final,
                                final and tile == layer["tiles"] - 1,
                                number_in_round == 0,
                                number_in_round == layer["round_tiles"] - 1,
                                keep, keep and tile > 0, score, (decided - 1) % 2))
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
