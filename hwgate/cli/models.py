"""The command that looks at a user's own model."""

import typer

from hwgate.cli.options import Bus, Channels, Json, Lanes, Preset, configured
from hwgate.cli.user_model import Input, Model, Weights, load_model, parse_shape
from hwgate.show.output import display, write_json

__all__ = ["register"]

_CHECK_EPILOG = """Examples:

`hwgate check hwgate.nn:resnet20 --input 3x32x32` looks at a network of hwgate itself.
`hwgate check mine.py:Network --input 3x32x32 --preset cifar` looks at a class in a file of yours;
`hwgate check mine.py:Network --input 3x32x32 --lanes 8 --json -` prints what it finds as JSON."""


def register(app: typer.Typer) -> None:
    """Add `check` to a command line."""
    app.command(epilog=_CHECK_EPILOG)(check)


def check(
    model: Model, image: Input, base: Preset = "digits", lanes: Lanes = None,
    channels: Channels = None, bus: Bus = None, weights: Weights = None, json_file: Json = None,
) -> None:
    """List all that keeps a model from running on an accelerator, and the buffers that it needs.

    Takes seconds, needs no images and no trained weights. Each obstacle is a sentence: the layer by
    its module path, the limit, and the way out. If larger buffers are all that it takes, prints the
    smallest ones as a line of Python, and the smallest preset that runs the model.

    Ends with status 2 if there are obstacles.
    """
    import hwgate

    config = configured(base, lanes, channels, bus)
    found = hwgate.check(load_model(model, weights), parse_shape(image), config)
    if not write_json(json_file, found.to_dict()):
        display(f"{model} on {config.describe()}", found.describe())
    raise typer.Exit(0 if found.fits else 2)
