"""Archives of quantized networks."""

import json
import zipfile
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from hwgate.errors import UserError
from hwgate.files.atomic import write_atomic
from hwgate.machine.config import AcceleratorConfig
from hwgate.quant.fidelity import Fidelity
from hwgate.quant.layer import QuantizedLayer
from hwgate.quant.network import QuantizedNetwork

__all__ = ["load_network", "save_network"]

#: Version of the file format.
VERSION = 1

#: Fields of a layer kept as arrays; the others are JSON.
_ARRAYS = {"weight": np.int8, "base": np.bool_, "threshold": np.int64, "bias": np.int64,
           "mult": np.int64, "shift": np.int64, "mult_residual": np.int64, "score": np.int8,
           "gate": np.int64}
_SCALARS = tuple(f.name for f in fields(QuantizedLayer) if f.name not in _ARRAYS)


def save_network(path: str | Path, network: QuantizedNetwork) -> None:
    """Write a quantized network, with its configuration, to an ``.npz`` file.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    meta: dict[str, Any] = {"hwgate": VERSION, "config": network.config.to_dict(),
                            "layers": [{name: getattr(layer, name) for name in _SCALARS}
                                       for layer in network.layers]}
    if network.fidelity is not None:
        meta["fidelity"] = network.fidelity.to_dict()
    arrays: dict[str, Any] = {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
                              "image_mean": np.asarray(network.image_mean, np.float64),
                              "image_std": np.asarray(network.image_std, np.float64)}
    for index, layer in enumerate(network.layers):
        for name, dtype in _ARRAYS.items():
            value = getattr(layer, name)
            if value is not None:
                arrays[f"{index}.{name}"] = np.asarray(value, dtype)
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def load_network(path: str | Path) -> QuantizedNetwork:
    """Read what :func:`save_network` wrote.

    Raises
    ------
    UserError
        If the file is missing or is no network of this version of hwgate.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"Network file {path} does not exist; "
                        f"`hwgate demo --save {path}` writes one")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            meta = json.loads(arrays["meta"].tobytes())
            if meta["hwgate"] != VERSION:
                raise UserError(f"Network file {path} must have version {VERSION}, "
                                f"not {meta['hwgate']!r}")
            layers = []
            for index, scalars in enumerate(meta["layers"]):
                values: dict[str, Any] = {name: arrays.get(f"{index}.{name}") for name in _ARRAYS}
                values |= {**scalars, "in_shape": tuple(scalars["in_shape"])}
                layers.append(QuantizedLayer(**values))
            measured = meta.get("fidelity")
            return QuantizedNetwork(AcceleratorConfig.from_dict(meta["config"]), tuple(layers),
                                    arrays["image_mean"], arrays["image_std"],
                                    None if measured is None else Fidelity.from_dict(measured))
    except UserError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError,
            AssertionError, zipfile.BadZipFile):
        raise UserError(f"File {path} is no quantized network of hwgate") from None
