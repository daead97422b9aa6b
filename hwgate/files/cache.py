"""What is dear to make is kept: entries named by a digest of all that they are made from.

An entry never goes stale, so ``$HWGATE_CACHE`` (or ``~/.cache/hwgate``) may be deleted at any
time. Makers may work in parallel: they wait for each other by entry.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hwgate.errors import ToolError

__all__ = ["cache_folder", "digest", "locked"]


def cache_folder() -> Path:
    """Folder of the cache: ``$HWGATE_CACHE``, else ``hwgate`` in the user's cache folder."""
    if chosen := os.environ.get("HWGATE_CACHE"):
        return Path(chosen).resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hwgate"


def digest(*parts: str) -> str:
    """Name of an entry that is made from these texts, in this order."""
    state = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return state.hexdigest()[:24]


@contextmanager
def locked(entry: Path) -> Iterator[None]:
    """Hold the lock of an entry of the cache, whose folder is made.

    Raises
    ------
    ToolError
        If the folder cannot be written.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = (entry.parent / f"{entry.name}.lock").open("w")
    except OSError as error:
        raise ToolError(f"The cache folder {cache_folder()} must be writable "
                        f"({error.strerror}); set HWGATE_CACHE to another one") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
