"""Accuracy of the reference ResNet-20, float and int8: ``python -m hwgate.accuracy``.

Calibrates on training images of CIFAR-10 and counts on test images; both come from the folder in
the variable HWGATE_DATA. ``--rtl 10`` also runs the first ten of them on the accelerator's Verilog
and compares every layer with golden and cost model.
"""

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from torch import nn

from hwgate import cifar
from hwgate.config import preset
from hwgate.errors import UserError
from hwgate.evaluate import Pair, simulate_and_estimate
from hwgate.models import load_reference_resnet20
from hwgate.quant.fold import quantize
from hwgate.quant.network import QuantizedNetwork
from hwgate.tables import console

__all__ = ["Accuracy", "float_logits", "layer_table", "main", "measure"]

_BATCH = 50


@dataclass(frozen=True)
class Accuracy:
    """How a quantized network compares with its float model.

    Parameters
    ----------
    images : int
    real, quantized : float
        Shares of correct images.
    agreement : float
        Share of images on which both name the same class.
    error : float
        Root mean square error of the quantized logits over the deviation of the float ones.
    images_per_second : float
        Of the integer golden model.
    """

    images: int
    real: float
    quantized: float
    agreement: float
    error: float
    images_per_second: float

    def describe(self) -> str:
        """One line for people."""
        return (f"{self.images} images: float {self.real:.1%}, quantized {self.quantized:.1%}, "
                f"same class {self.agreement:.1%}, error of the logits {self.error:.1%}, "
                f"golden model {self.images_per_second:.0f} images/s")


def float_logits(model: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (N, classes) of a model in evaluation mode, for a batch of any size."""
    model.eval()
    with torch.no_grad():
        parts = [model(torch.from_numpy(images[at:at + _BATCH])).numpy()
                 for at in range(0, len(images), _BATCH)]
    return np.concatenate(parts)


def measure(model: nn.Module, network: QuantizedNetwork, images: NDArray[np.float32],
            labels: NDArray[np.int64]) -> Accuracy:
    """Run float model and integer network on the same normalized images."""
    wanted = float_logits(model, images)
    start = time.perf_counter()
    steps = network(images)
    seconds = time.perf_counter() - start
    found = steps * network.layers[-1].out_scale
    classes, real = steps.argmax(1), wanted.argmax(1)
    return Accuracy(
        len(images), float((real == labels).mean()), float((classes == labels).mean()),
        float((classes == real).mean()), float(np.sqrt(np.square(found - wanted).mean())
                                               / wanted.std()), len(images) / seconds)


def layer_table(pair: Pair) -> Table:
    """What was compared in each layer of a run, and how much of it differs."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for name in ("layer", "outputs", "cycles", "bytes", "outputs off", "psums off", "cycles off",
                 "counts off", "bytes off"):
        table.add_column(name, justify="left" if name == "layer" else "right", no_wrap=True)
    for found, run in zip(pair.comparison.layers, pair.rtl.layers, strict=True):
        values = (run.activations.output.size, run.cycles, run.bytes_total, found.mismatches,
                  found.psum_mismatches, found.cycle_difference, found.counter_difference,
                  found.byte_difference)
        table.add_row(found.name, *(f"{value:,}" for value in values))
    return table


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; exit status 2 for what the user must mend, 1 if the RTL differs."""
    parser = argparse.ArgumentParser(prog="python -m hwgate.accuracy", description=__doc__)
    parser.add_argument("--preset", default="cifar", help="accelerator (default: cifar)")
    parser.add_argument("--calibration", type=int, default=512,
                        help="training images that steps are chosen from (default: 512)")
    parser.add_argument("--images", type=int, default=1000, help="test images (default: 1000)")
    parser.add_argument("--rtl", type=int, default=0, metavar="N",
                        help="test images that the Verilog runs, too (default: 0)")
    options = parser.parse_args(arguments)
    pair = None
    try:
        for name, count, least in (("Calibration", options.calibration, 1),
                                   ("Test", options.images, 1), ("RTL", options.rtl, 0)):
            if not least <= count <= 10_000:
                raise UserError(f"{name} images must be in {least}..10000, not {count}")
        model = load_reference_resnet20()
        calibration, _ = cifar.load_train(batches=[1])
        images, labels = cifar.load_test()
        network = quantize(model, cifar.normalize(calibration[:options.calibration]),
                           preset(options.preset))
        result = measure(model, network, cifar.normalize(images[:options.images]),
                         labels[:options.images])
        print(result.describe(), flush=True)
        if options.rtl:
            pair = simulate_and_estimate(network, network.config,
                                         cifar.normalize(images[:options.rtl]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if pair is None:
        return 0
    out = console()
    out.print(layer_table(pair))
    out.print(f"{len(pair.rtl.outputs)} images on the RTL, {pair.rtl.cycles:,} cycles, "
              f"{pair.rtl.cycles / pair.rtl.seconds:,.0f} cycles/s. {pair.comparison.describe()}",
              highlight=False)
    return int(not pair.comparison.equal)


if __name__ == "__main__":
    sys.exit(main())
