"""Named arrays in one file that tells whether they are still what was written."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.errors import UserError
from hwgate.files.atomic import write_atomic

__all__ = ["digest_of", "read_archive", "write_archive"]

#: Name of the array that is the digest of all others.
DIGEST = "digest"

#: An archive may grow, when it is read, to so many bytes, and beyond that to so many times its
#: size. What compresses better than that is written without compression.
_BYTES, _GROWTH = 1 << 26, 64

#: Most arrays of an archive, of which each has a few hundred bytes of a zip file to itself.
_ARRAYS = 1 << 16

#: Types of arrays: truth values, integers and floats.
_KINDS = "biuf"


def digest_of(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """SHA-256 of the names, types, shapes and values of arrays, whatever their order.

    The digest itself, if it is among them, does not count.
    """
    state = hashlib.sha256()
    for name in sorted(set(arrays) - {DIGEST}):
        array = arrays[name]
        state.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        state.update(array.tobytes())
    return np.frombuffer(state.digest(), np.uint8)


def write_archive(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays and their digest to an ``.npz`` file, whole or not at all.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    whole = {**arrays, DIGEST: digest_of(arrays)}
    buffer = BytesIO()
    np.savez_compressed(buffer, **whole)  # type: ignore[arg-type]
    if sum(array.nbytes for array in whole.values()) > _room(buffer.tell()):
        buffer = BytesIO()
        np.savez(buffer, **whole)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def read_archive(path: str | Path) -> dict[str, NDArray[Any]]:
    """Arrays by name. With their digest, if there is one, they are what was written.

    Raises
    ------
    UserError
        If the file cannot be read, is no archive, is damaged, or grows out of proportion.
    """
    try:
        size = Path(path).stat().st_size
        file = zipfile.ZipFile(path)
    except OSError as error:
        raise UserError(f"File {path} cannot be read: {error.strerror or error}") from None
    except Exception:  # whatever the directory of a zip file raises on wrong bytes
        raise UserError(f"File {path} is no quantized network of hwgate") from None
    with file:
        entries = file.infolist()
        total = sum(entry.file_size for entry in entries)
        if total > _room(size) or len(entries) > _ARRAYS:
            raise UserError(f"File {path} of {size} bytes must not hold {len(entries)} arrays of "
                            f"{total} bytes, which is out of proportion")
        arrays: dict[str, NDArray[Any]] = {}
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            try:
                array = _array(path, name, _bytes(file, entry))
            except UserError:
                raise
            except Exception:  # whatever compression and headers raise on wrong bytes
                raise _damaged(path) from None
            if name in arrays:
                raise _damaged(path)
            arrays[name] = array
    if DIGEST in arrays and not np.array_equal(arrays[DIGEST], digest_of(arrays)):
        raise _damaged(path)
    return arrays


def _room(size: int) -> int:
    """Bytes that a file of ``size`` bytes may hold."""
    return _BYTES + _GROWTH * size


def _damaged(path: str | Path) -> UserError:
    return UserError(f"File {path} is damaged: it does not hold what was written; fetch or make it "
                     "anew")


def _bytes(file: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Content of an entry, which is as long as it says, or an error."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("other compressions may grow before they can be stopped")
    with file.open(entry) as stream:
        return stream.read(entry.file_size + 1)


def _array(path: str | Path, name: str, raw: bytes) -> NDArray[Any]:
    """An array of what ``numpy.save`` wrote; its size is looked at before its memory is taken."""
    stream = BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, transposed, dtype = read(stream)
    if dtype.kind not in _KINDS:
        raise UserError(f"File {path} must hold numbers, not {dtype} in array {name!r}")
    if min(shape, default=0) < 0:
        raise ValueError("reshape would take it for whatever fits")
    values = np.frombuffer(raw, dtype, offset=stream.tell())
    if dtype.kind == "b" and bool((values.view(np.uint8) > 1).any()):
        raise UserError(f"File {path} must hold 0 or 1 for a truth value, in array {name!r}")
    return values.reshape(shape, order="F" if transposed else "C").copy(order="C")
