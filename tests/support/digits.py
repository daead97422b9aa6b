"""A small gated network, trained once for all tests and their workers."""

import fcntl
import hashlib
from functools import cache
from pathlib import Path

import torch

import hwgate
from hwgate.sim.build import cache_folder
from hwgate.train.digits import TrainedDigits, train_digits

__all__ = ["trained_digits"]

#: What the training depends on.
_PACKAGES = ("data", "nn", "train")


@cache
def trained_digits() -> TrainedDigits:
    """Four epochs, from the cache if nothing that they depend on has changed. Not to be changed."""
    folder, digest = Path(hwgate.__file__).parent, hashlib.sha256(torch.__version__.encode())
    for package in _PACKAGES:
        for path in sorted((folder / package).rglob("*.[pt]*")):
            if path.suffix in (".py", ".toml"):
                digest.update(path.read_bytes())
    entry = cache_folder() / "digits" / f"{digest.hexdigest()[:24]}.pt"
    entry.parent.mkdir(parents=True, exist_ok=True)
    with entry.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not entry.exists():
            torch.save(train_digits(seed=0, epochs=4), entry.with_suffix(".new"))
            entry.with_suffix(".new").replace(entry)
    found: TrainedDigits = torch.load(entry, weights_only=False)
    return found
