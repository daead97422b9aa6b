"""Batches of images that a network is run on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgate.data.digits import load_digits
from hwgate.errors import UserError
from hwgate.quant.network import QuantizedNetwork, check_images

__all__ = ["load_images"]


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
