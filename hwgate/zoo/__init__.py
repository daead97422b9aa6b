"""Trained networks that come with hwgate: integer weights, the float model, and what made them.

Each has a folder as ``hwgate train`` wrote it: ``recipe.toml``, ``log.jsonl``, ``results.json``,
``network.npz`` (integers) and ``model.safetensors`` (float). Of a training that others start from
or are compared with, and of a large one, either or both may be left out.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
