"""The commands that train networks, and that move the thresholds of trained ones."""

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwgate.cli.options import Json
from hwgate.cli.progress import training_bars
from hwgate.errors import UserError
from hwgate.show.output import display, fidelity_line, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from hwgate.evaluation.thresholds import Point
    from hwgate.train.recipe import Recipe
    from hwgate.train.runs import Run

__all__ = ["register"]

_TRAIN_EPILOG = """Examples:

`hwgate train digits` takes seconds. `hwgate train resnet20 --target 1.5 -o runs/t15` closes more
gates. `hwgate train resnet20 -o runs/t15 --target 1.5 --resume` continues after a kill, to the same
network. `hwgate train resnet20 --groups 0 -o runs/dense`, then
`hwgate train resnet20 --teacher runs/dense/model.safetensors`: an ungated teacher.
`hwgate train mine.toml --set loss.smoothing=0.1` changes any entry of a recipe;
`hwgate train resnet20 --show` prints them all."""

_SWEEP_EPILOG = """Examples:

`hwgate sweep runs/digits/network.npz --data digits`;
`hwgate sweep runs/t15/network.npz --data cifar10 --images 500 --deltas=-1,-0.5,0,0.5,1 --check 0`
also runs the hardware at one point, and ends with status 1 if it differs from the models."""


def register(app: typer.Typer) -> None:
    """Add `train` and `sweep` to a command line."""
    app.command(epilog=_TRAIN_EPILOG)(train)
    app.command(epilog=_SWEEP_EPILOG)(sweep)


def train(
    recipe: Annotated[str, typer.Argument(
        metavar="RECIPE", help="digits, mnist, resnet20, resnet20-postact, resnet18 or vgg16, or "
                               "a TOML file.")],
    output: Annotated[Path | None, typer.Option(
        "--output", "-o", metavar="DIR", help="Where everything goes; runs/RECIPE if left out.",
        )] = None,
    resume: Annotated[bool, typer.Option(
        "--resume", help="Continue the training in DIR; the result is the same as without the "
                         "interruption.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(
        help="One seed, one network, on one machine.")] = None,
    groups: Annotated[int | None, typer.Option(
        help="G: the base path is 1/G of the input channels, and G bounds the saving. "
             "0 trains the ungated network.")] = None,
    target: Annotated[float | None, typer.Option(
        help="T, where thresholds are pulled to, in deviations of the base sums. Higher closes "
             "more gates and costs accuracy.")] = None,
    penalty: Annotated[float | None, typer.Option(
        help="How hard thresholds are pulled to T; short trainings need more.")] = None,
    grouping: Annotated[bool | None, typer.Option(
        help="Every output group has its own base channels; channels are shuffled.")] = None,
    granularity: Annotated[str | None, typer.Option(
        help="Who shares a gate: activation, slice (of --slice channels) or pixel.")] = None,
    slice_: Annotated[int | None, typer.Option(
        "--slice", help="Channels of a slice.")] = None,
    tau: Annotated[float | None, typer.Option(
        help="A channel in which no larger share of gates opens stays closed.")] = None,
    teacher: Annotated[str | None, typer.Option(
        metavar="FILE", help="model.safetensors of an ungated training to imitate.")] = None,
    start: Annotated[str | None, typer.Option(
        metavar="FILE", help="model.safetensors to start from.")] = None,
    budget: Annotated[str | None, typer.Option(
        help="Aim at a share of the dense `cycles` or off-chip `bytes` of the accelerator "
             "instead of at T.")] = None,
    budget_share: Annotated[float | None, typer.Option(help="That share, in 0..1.")] = None,
    bits: Annotated[int | None, typer.Option(
        help="Width of weights and activations, 2..8.")] = None,
    changes: Annotated[list[str] | None, typer.Option(
        "--set", metavar="NAME=VALUE", help="Any entry of the recipe, as optimizer.rate=0.2; may "
                                            "be repeated.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the processor.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for large networks.")] = "cpu",
    show: Annotated[bool, typer.Option("--show", help="Print the recipe and stop.")] = False,
    json_file: Json = None,
) -> None:
    """Train a channel-gated network, quantize it, and count what it gets right and what it skips.

    A **gate** compares, for each output of a convolution, the sum over a share of the input
    channels with a learned threshold; only where it opens are the other channels added. RECIPE says
    which network, data, gates and schedule; options change single entries.

    MNIST and CIFAR-10 are read from the folder in the variable HWGATE_DATA.

    DIR gets recipe.toml, log.jsonl, model.safetensors (float), network.npz (integers, for
    `simulate`, `compare` and `sweep`), results.json with versions, and checkpoints.
    """
    from hwgate.train.recipe import load_recipe
    from hwgate.train.runs import FILES, run_recipe

    named = {"optimizer.epochs": epochs, "seed": seed, "gate.groups": groups,
             "loss.target": target, "loss.penalty": penalty, "gate.grouping": grouping,
             "gate.granularity": granularity, "gate.slice": slice_, "gate.tau": tau,
             "loss.teacher": teacher, "loss.start": start, "hardware.budget": budget,
             "hardware.share": budget_share, "quantize.activation": bits,
             "quantize.weight": bits, "threads": threads}
    made = load_recipe(recipe).changed(
        {name: value for name, value in named.items() if value is not None}
        | dict(map(_change, changes or [])))
    if show:
        sys.stdout.write(made.to_toml())
        return
    folder = output or Path("runs", Path(recipe).stem)
    with training_bars() as bars:
        try:
            run = run_recipe(made, folder, resume=resume, device=device, stage=bars.stage,
                             report=bars.epoch, step=bars.step)
        except KeyboardInterrupt:
            print(f"Stopped; the same command with --resume continues in {folder}",
                  file=sys.stderr)
            raise typer.Exit(130) from None
    if not write_json(json_file, run.to_dict()):
        written = [name for name in sorted(FILES.values()) if (folder / name).exists()]
        display(_scores_table(run), *run.notes, fidelity_line(run.network.fidelity),
                f"{folder}: {', '.join(written)}")


def sweep(
    network: Annotated[Path, typer.Argument(
        metavar="NETWORK", help="Integer network, as `hwgate train` writes network.npz.")],
    data: Annotated[str, typer.Option(
        help="Whose test images: digits, mnist or cifar10.")] = "digits",
    images: Annotated[int, typer.Option(help="Test images that accuracy is counted on.")] = 200,
    deltas: Annotated[str, typer.Option(
        metavar="D,D,...", help="By how many deviations of its base sums each threshold moves; "
                                "higher closes gates.")] = "-1,-0.5,-0.25,0,0.25,0.5,1",
    costed: Annotated[int, typer.Option(
        help="Test images, a batch, that cycles and bytes are counted on.")] = 1,
    check: Annotated[str, typer.Option(
        metavar="D,D,...", help="Deltas at which the simulated hardware runs, too.")] = "",
    figure: Annotated[Path | None, typer.Option(
        metavar="FILE", help="SVG of accuracy against speed-up and MAC reduction.")] = None,
    json_file: Json = None,
) -> None:
    """Move the thresholds of a trained network, and show what accuracy costs in cycles.

    Thresholds are numbers in the program's headers, so one trained network has a whole curve of
    operating points: no retraining. Accuracy is the integer golden model's, cycles and bytes are
    the cost model's; with --check the hardware must count the same.
    """
    from hwgate.data.datasets import load_dataset
    from hwgate.evaluation.thresholds import sweep as run_sweep
    from hwgate.files.atomic import write_atomic
    from hwgate.files.networks import load_network

    loaded, found = load_network(network), load_dataset(data)
    if found.shape != loaded.image_shape:
        raise UserError(f"Network {network} takes images of {_sizes(loaded.image_shape)}, but "
                        f"those of {data} are {_sizes(found.shape)}")
    if not 1 <= images <= len(found.test):
        raise UserError(f"Image count must be in 1..{len(found.test)}, not {images}")
    if not 1 <= costed <= images:
        raise UserError(f"Count of costed images must be in 1..{images}, not {costed}")
    split = found.test.first(images)
    with training_bars() as bars:
        points = run_sweep(loaded, found.unit(split.images).numpy(), split.labels.numpy(),
                           _numbers(deltas), costed=costed, checked=_numbers(check),
                           step=bars.stage)
    if figure is not None:
        write_atomic(figure, _figure(points, f"{images} test images of {data}"))
    if not write_json(json_file, {"network": str(network), "data": data, "images": images,
                                   "costed": costed, "points": [p.to_dict() for p in points],
                                   "fidelity": loaded.fidelity and loaded.fidelity.to_dict()}):
        display(_sweep_table(points, images, costed), fidelity_line(loaded.fidelity),
                *([f"Figure: {figure}"] if figure else []))
    if any(point.equal is False for point in points):
        print("Hardware and models differ; hwgate compare shows where", file=sys.stderr)
        raise typer.Exit(1)


def _change(text: str) -> tuple[str, Any]:
    """Name and value of NAME=VALUE; a value that is not TOML is a text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"A change of a recipe must be NAME=VALUE, not {text!r}")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"Deltas must be numbers with commas in between, not {text!r}") from None


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _scores_table(run: "Run") -> "Table":
    from hwgate.show.tables import new_table

    table = new_table(_title(run.recipe), "Network", "Images", "Accuracy", "Open", "MAC reduction")
    for name, what in (("validation", "float, validation"), ("test", "float, test"),
                       ("integers_validation", "integers, validation"),
                       ("integers", "integers, test")):
        if name in run.scores:
            found = run.scores[name]
            table.add_row(what, f"{found.images:,}", f"{found.accuracy:.2%}",
                          f"{found.density:.1%}", f"{found.reduction:.2f}x")
    return table


def _title(recipe: "Recipe") -> str:
    least = recipe.gate.base_channels
    gate = ("ungated" if not recipe.gate.groups else
            f"G={recipe.gate.groups}" + (f" (base of {least} channels at least)" if least else ""))
    return (f"{recipe.network.name} on {recipe.data.name}, {gate}, "
            f"{recipe.optimizer.epochs} epochs, seed {recipe.seed}")


def _sweep_table(points: "tuple[Point, ...]", images: int, costed: int) -> "Table":
    from hwgate.show.tables import new_table

    table = new_table(f"Accuracy on {images} images, cycles and bytes of {costed}", "Moved by",
                      "Accuracy", "Open", "MAC reduction", "Cycles\nmodel", "Cycles\nRTL",
                      "Speed-up", "Bytes\nmodel", "Off-chip\nreduction", "Equal")
    for point in points:
        table.add_row(
            f"{point.delta:+g}", f"{point.accuracy:.2%}", f"{point.density:.1%}",
            f"{point.reduction:.2f}x", f"{point.cycles:,}",
            "" if point.rtl_cycles is None else f"{point.rtl_cycles:,}", f"{point.speedup:.2f}x",
            f"{point.bytes:,}", f"{point.offchip:.2f}x",
            {None: "", True: "yes", False: "[bold red]no[/]"}[point.equal])
    return table


def _figure(points: "tuple[Point, ...]", title: str) -> str:
    from hwgate.show.figures import Line, Panel, lines

    names = [f"{point.delta:+g}" for point in points]
    return lines(f"Moved thresholds, {title}", [Panel("", "times fewer", "accuracy, %", [
        Line("cycles (speed-up)", [(p.speedup, 100 * p.accuracy) for p in points], names),
        Line("MACs", [(p.reduction, 100 * p.accuracy) for p in points])])])
