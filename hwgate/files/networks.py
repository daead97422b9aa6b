"""Archives of quantized networks."""

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.errors import UncheckedWarning, UserError, expect, shown
from hwgate.files.archive import DIGEST, read_archive, write_archive
from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.fidelity import Fidelity
from hwgate.quant.fields import ARRAYS, FIELDS
from hwgate.quant.layer import QuantizedLayer
from hwgate.quant.network import QuantizedNetwork

__all__ = ["load", "load_network", "save", "save_network"]

#: Version of the file format: 2 has a digest of its content, 1 has none.
VERSION, UNCHECKED = 2, 1

#: Fields of a layer kept as arrays have a rule in ``ARRAYS``; the others are JSON.
_SCALARS = tuple(name for name in FIELDS if name not in ARRAYS)

#: Fields of a layer that old archives may lack, for they have a default.
_DEFAULTS = {field.name for field in fields(QuantizedLayer) if field.default is not MISSING}

#: Arrays of the network itself.
_OWN = ("image_mean", "image_std")


def save_network(path: str | Path, network: QuantizedNetwork) -> None:
    """Write a quantized network, with its configuration, to an ``.npz`` file.

    Raises
    ------
    UserError
        If the file cannot be written, or an argument is of another type.
    """
    expect("Path of a network file", path, str, os.PathLike)
    expect("Network to save", network, QuantizedNetwork, hint="hwgate.quantize makes one")
    meta: dict[str, Any] = {"hwgate": VERSION, "config": network.config.to_dict(),
                            "layers": [{name: getattr(layer, name) for name in _SCALARS}
                                       for layer in network.layers]}
    if not network.flat:
        meta["flat"] = False
    if network.fidelity is not None:
        meta["fidelity"] = network.fidelity.to_dict()
    text = json.dumps(meta, default=lambda number: number.item())  # NumPy's own numbers
    arrays: dict[str, NDArray[Any]] = {
        "meta": np.frombuffer(text.encode(), np.uint8),
        **{name: np.asarray(getattr(network, name), np.float64) for name in _OWN}}
    for index, layer in enumerate(network.layers):
        arrays |= {f"{index}.{name}": value for name in ARRAYS
                   if (value := getattr(layer, name)) is not None}
    write_archive(path, arrays)


def load_network(path: str | Path) -> QuantizedNetwork:
    """Read what :func:`save_network` wrote, exactly: a damaged file is never another network.

    Warns
    -----
    UncheckedWarning
        If the file is of a version that has no digest of its content.

    Raises
    ------
    UserError
        If the file is missing, is no network of this version of hwgate, is damaged, or holds what
        no network can be.
    """
    expect("Path of a network file", path, str, os.PathLike)
    path = Path(path)
    if os.path.isdir(path):
        raise UserError(f"Network file {path} must be a file, not a folder")
    if not os.path.isfile(path):  # unlike a Path, of names that no file can have as well
        raise UserError(f"Network file {path} does not exist; "
                        f"`hwgate demo --save {path}` writes one")
    arrays = read_archive(path)
    meta, checked = _meta(path, arrays), arrays.pop(DIGEST, None) is not None
    version = meta.get("hwgate")
    if version not in (VERSION, UNCHECKED) or isinstance(version, (bool, float)):
        raise UserError(f"Network file {path} must have version {VERSION}, not {shown(version)}")
    if checked != (version == VERSION):
        raise UserError(f"Network file {path} is damaged: a file of version {version} must "
                        f"have {'no' if checked else 'a'} digest of its content")
    network = _network(path, meta, arrays)
    if not checked:
        warnings.warn(f"Network file {path} has no digest of its content, which is not checked; "
                      "hwgate.save writes one with a digest", UncheckedWarning, stacklevel=2)
    return network


#: Public names, as ``hwgate.save`` and ``hwgate.load``.
save, load = save_network, load_network


def _meta(path: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Whatever of an archive is no array; taken out of it."""
    raw = arrays.pop("meta", None)
    try:
        meta = None if raw is None else json.loads(raw.tobytes())
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise UserError(f"File {path} is no quantized network of hwgate")
    return meta


def _network(path: Path, meta: Mapping[str, Any],
             arrays: dict[str, NDArray[Any]]) -> QuantizedNetwork:
    """The network of an archive, whose arrays are taken out of it."""
    entries = {"hwgate": int, "config": dict, "layers": list}
    entries |= {name: kind for name, kind in (("fidelity", dict), ("flat", bool)) if name in meta}
    _known(f"Network file {path}", meta, set(entries), set(entries))
    for name, kind in entries.items():
        expect(f"Entry {name!r} of network file {path}", meta[name], kind)
    layers = tuple(_layer(index, values, arrays) for index, values in enumerate(meta["layers"]))
    own = {name: arrays.pop(name) for name in _OWN if name in arrays}
    _known(f"Network file {path}", own | arrays, set(_OWN), set(_OWN))
    return QuantizedNetwork(
        AcceleratorConfig.from_dict(meta["config"]), layers, **own,
        fidelity=Fidelity.from_dict(meta["fidelity"]) if "fidelity" in meta else None,
        flat=meta.get("flat", True))


def _layer(index: int, values: Any, arrays: dict[str, NDArray[Any]]) -> QuantizedLayer:
    """The layer of an entry and its arrays. Its fields are checked with the network."""
    expect(f"Layer {index} of a network", values, dict)
    _known(f"Layer {shown(values.get('name'))} (number {index})", values, set(_SCALARS),
           set(_SCALARS) - _DEFAULTS)
    own: dict[str, Any] = {name: arrays.pop(f"{index}.{name}", None) for name in ARRAYS}
    return QuantizedLayer(**own, **{name: _tuples(value) for name, value in values.items()})


def _known(what: str, values: Mapping[str, Any], known: set[str], needed: set[str]) -> None:
    """Raise if a name is missing, or none of those that are known."""
    for name in sorted(needed - set(values)):
        raise UserError(f"{what} must have a field {name!r}, but has none")
    for name in sorted(set(values) - known):
        raise UserError(f"{what} has an unknown field {shown(name)}; "
                        f"there are {', '.join(sorted(known))}")


def _tuples(value: Any) -> Any:
    """JSON has lists for tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
