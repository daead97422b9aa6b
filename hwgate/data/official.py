"""Files of published data sets: found below the data folder, unpacked, and checked."""

import gzip
import hashlib
import lzma
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwgate.errors import UserError

__all__ = ["Collection"]

#: How a file may be packed, by the end of its name.
_PACKED = ("", ".xz", ".gz")


@dataclass(frozen=True)
class Collection:
    """The official files of a data set.

    Parameters
    ----------
    title : str
        Name of the data set, for messages.
    page : str
        Address of the official page.
    source : str
        What to take from there, the page included.
    places : tuple of str
        Folders below the data folder where the files may lie; the last one is the folder itself.
    """

    title: str
    page: str
    source: str
    places: tuple[str, ...]

    def read(self, names: Sequence[str], digests: Mapping[str, str],
             folder: str | Path | None = None) -> bytes:
        """Unpacked content of the first of some files that exists.

        Parameters
        ----------
        names : sequence of str
            File names without the ending of a packer, in order of preference.
        digests : mapping
            SHA-1 of the unpacked content by name.
        folder : path, optional
            The data folder; by default the variable ``HWGATE_DATA``.

        Raises
        ------
        UserError
            If none exists, or the file is not the official one.
        """
        base = folder or os.environ.get("HWGATE_DATA")
        if not base:
            raise UserError(f"{self.title} needs the variable HWGATE_DATA, a folder with "
                            f"{names[0]} of {self.page}")
        for name in names:
            for place in self.places:
                for ending in _PACKED:
                    path = Path(base, place, name + ending)
                    if path.is_file():
                        return self._unpack(path, digests[name])
        raise UserError(f"Folder {base} has no {self.title} file {' or '.join(names)}, plain, .gz "
                        f"or .xz, itself or in {' or '.join(self.places[:-1])}; take "
                        f"{self.source}")

    def _unpack(self, path: Path, digest: str) -> bytes:
        try:
            raw = path.read_bytes()
            if path.suffix == ".xz":
                raw = lzma.decompress(raw)
            elif path.suffix == ".gz":
                raw = gzip.decompress(raw)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise UserError(f"File {path} cannot be read: {error}") from None
        found = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        if found != digest:
            raise UserError(f"File {path} must be the official one of {self.page} with SHA-1 "
                            f"{digest}, not {found}")
        return raw
