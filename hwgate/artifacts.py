"""Files hwgate writes and reads: quantized networks, and anything else, whole or not at all."""

import json
import os
import tempfile
import zipfile
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.config import AcceleratorConfig
from hwgate.errors import UserError
from hwgate.quant.network import QuantizedLayer, QuantizedNetwork, check_images

__all__ = ["load_images", "load_network", "save_network", "write_atomic"]

#: Version of the file format.
VERSION = 1

#: Fields of a layer kept as arrays; the others are JSON.
_ARRAYS = {"weight": np.int8, "base": np.bool_, "threshold": np.int64, "bias": np.int64,
           "mult": np.int64, "shift": np.int64, "mult_residual": np.int64, "score": np.int8,
           "gate": np.int64}
_SCALARS = tuple(f.name for f in fields(QuantizedLayer) if f.name not in _ARRAYS)


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file, with its folders, so that ``path`` never holds half of it.

    Raises
    ------
    UserError
        If the folder or the file cannot be written.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise UserError(f"File {path} cannot be written: {error.strerror}") from None


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
            return QuantizedNetwork(AcceleratorConfig.from_dict(meta["config"]), tuple(layers),
                                    arrays["image_mean"], arrays["image_std"])
    except UserError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError,
            zipfile.BadZipFile):
        raise UserError(f"File {path} is no quantized network of hwgate") from None


def load_images(source: str, network: QuantizedNetwork) -> NDArray[Any]:
    """Batch for a network: the first test digits, or the content of a file.

    Parameters
    ----------
    source : str
        A number of test digits, or the path of a ``.npy`` file.
    network : QuantizedNetwork
        Gives the shape of an image.

    Returns
    -------
    float or int8 (N, C, H, W)

    Raises
    ------
    UserError
        If the network takes no digits, or the file is missing or holds no such batch.
    """
    shape = network.layers[0].in_shape
    if source.lstrip("-").isdigit():
        from hwgate.digits import load_digits

        _, _, digits, _ = load_digits()
        if digits.shape[1:] != shape:
            raise UserError(f"A network for {shape} images cannot run digits of "
                            f"{digits.shape[1:]}; give it a .npy file of images")
        if not 1 <= int(source) <= len(digits):
            raise UserError(f"Image count must be in 1..{len(digits)}, not {source}")
        return digits[:int(source)]
    try:
        images = np.load(source, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"Image file {source} does not exist") from None
    except (OSError, ValueError, EOFError):
        raise UserError(f"File {source} is no NumPy array; np.save writes one") from None
    if not isinstance(images, np.ndarray):
        images.close()
        raise UserError(f"Image file {source} must hold one array, not several")
    return check_images(images, shape)
