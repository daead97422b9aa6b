"""Schedule of the loaders: feature maps and residual operands of one tile after another."""

from hwgate.rtl.loader import LOADED_LATENCY
from hwgate.rtl.tiles import TILE_CHUNK, TILE_QUEUE
from hwgate.schedule.state import HALVES, Block, LayerState, Times

__all__ = ["load", "load_residual"]



def load(layer: LayerState, source: int) -> Block:
    """The loader: windows of one tile after another."""
    d, config = layer.d, layer.config
    steps = config.beat_pixels if d["bank_mode"] else config.beat_pixels // config.write_words
    plane = d["images"] * d["plane_beats"]
    yield from _tiles(layer, source, "in", "windows", plane, steps, layer.loaded)


def load_residual(layer: LayerState, source: int) -> Block:
    """The residual loader."""
    d = layer.d
    steps = layer.config.slot_reads * (layer.config.beat_pixels if d["res_step"] == 2 else 1)
    plane = d["images"] * d["res_beats"]
    yield from _tiles(layer, source, "res", "residual", plane, steps, layer.operands)


def _tiles(layer: LayerState, source: int, prefix: str, stream: str, plane: int, steps: int,
           loaded: Times) -> Block:
    """A :class:`TileQueue`, whose user takes ``steps`` cycles per beat."""
    d, config = layer.d, layer.config
    popped: list[int] = []  # cycle from which each beat's place in the queue is free
    valid, busy = 1, 0
    for tile in range(d["tiles"]):
        for lane in layer.lanes:
            jobs = len(lane.jobs) // d["tiles"]
            if tile >= HALVES and jobs:
                while len(lane.done) < (tile - HALVES + 1) * jobs:
                    yield lane.done
                valid = max(valid, lane.done[(tile - HALVES + 1) * jobs - 1])
        valid += 1
        first = d[f"{prefix}_address"] + tile * d[f"{prefix}_stride"]
        for run in range(d[f"{prefix}_runs"]):
            address = first + run * d[f"{prefix}_run_stride"]
            left = d[f"{prefix}_run_beats"]
            while left:
                chunk = min(TILE_CHUNK, left)
                short = len(popped) + chunk - TILE_QUEUE
                if short > 0:
                    valid = max(valid, popped[short - 1])
                grant, beat = yield from layer.read(source, valid, address, chunk, stream)
                for n in range(chunk):
                    busy = max(busy, beat + n * layer.timing.beat_interval + 1) + steps
                    popped.append(busy)
                    if len(popped) % plane == 0:
                        loaded.add(busy - 1 + LOADED_LATENCY)
                valid, left = grant + 1, left - chunk
                address += chunk * config.bus.bytes
    layer.map_ends.add(busy)
