"""Accuracy of the reference ResNet-20, float and int8: ``python -m hwgate.bench.accuracy``.

Calibrates on training images of CIFAR-10 and counts on test images; both come from the folder in
the variable HWGATE_DATA. ``--rtl 10`` also runs the first ten of them on the accelerator's Verilog
and compares every layer with golden and cost model.
"""

import argparse
import sys

from hwgate.data import cifar
from hwgate.errors import UserError
from hwgate.evaluation.accuracy import measure
from hwgate.evaluation.against_dense import simulate_and_estimate
from hwgate.frontend.fold import quantize
from hwgate.machine.config import preset
from hwgate.nn.models import load_reference_resnet20
from hwgate.show.tables import comparison_table, console

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; exit status 2 for what the user must mend, 1 if the RTL differs."""
    parser = argparse.ArgumentParser(prog="python -m hwgate.bench.accuracy", description=__doc__)
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
    out.print(comparison_table(pair))
    out.print(f"{len(pair.rtl.outputs)} images on the RTL, {pair.rtl.cycles:,} cycles, "
              f"{pair.rtl.cycles / pair.rtl.seconds:,.0f} cycles/s. {pair.comparison.describe()}",
              highlight=False)
    return int(not pair.comparison.equal)


if __name__ == "__main__":
    sys.exit(main())
