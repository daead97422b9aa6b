"""Utilisation, gating efficiency, lost cycles and simulation speed: ``python -m hwgate.bench``."""

from hwgate.bench.command import main
from hwgate.bench.dense import MACS, PEERS, SHAPES, Peer, dense_layer

__all__ = ["MACS", "PEERS", "Peer", "SHAPES", "dense_layer", "main"]
