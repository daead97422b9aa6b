"""What the commands tell on stderr while they work."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwgate.train.training import Epoch

__all__ = ["TrainingBars", "complain", "steps", "training_bars", "working"]


def complain(sentence: str) -> None:
    """Say what went wrong."""
    print(sentence, file=sys.stderr)


@contextmanager
def steps() -> Iterator[tuple[Any, Any]]:
    """Functions that show the current step, and the epochs done, on stderr."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from hwgate.show.tables import console

    with Progress(TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn(),
                  console=console(stderr=True)) as bars:
        current: list[Any] = []

        def finish() -> None:
            if current:
                bars.update(current[-1], total=1, completed=1)
                bars.stop_task(current[-1])

        def step(text: str) -> None:
            finish()
            current.append(bars.add_task(text[0].upper() + text[1:], total=None))

        def progress(epoch: "Epoch") -> None:
            bars.update(current[-1], total=epoch.epochs, completed=epoch.number,
                        description=f"Training, {epoch.describe()}")

        yield step, progress
        finish()


@contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """A function that shows on stderr what is going on; in a file, at most a line in ten seconds.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from hwgate.show.tables import console

    with Progress(SpinnerColumn(), TextColumn("{task.description}", markup=False),
                  TimeElapsedColumn(), console=console(stderr=True), transient=True) as bars:
        task = bars.add_task("Starting", total=None)
        told = 0.0

        def progress(words: str) -> None:
            nonlocal told
            text = words[0].upper() + words[1:]
            bars.update(task, description=text)
            if not bars.console.is_terminal and time.monotonic() - told > 10:
                told = time.monotonic()
                bars.console.print(text, markup=False, soft_wrap=True)

        yield progress


class TrainingBars:
    """Progress on stderr: the stage, the epochs done, and the steps of the current one."""

    def __init__(self, bars: Any) -> None:
        self._bars, self._stage, self._steps = bars, None, None

    def stage(self, text: str) -> None:
        """Begin another stage."""
        self._finish()
        self._stage = self._bars.add_task(text[0].upper() + text[1:], total=None)

    def epoch(self, epoch: "Epoch") -> None:
        """An epoch has ended."""
        text = epoch.describe()
        self._bars.update(self._stage, total=epoch.epochs, completed=epoch.number,
                          description=text[0].upper() + text[1:])
        if not self._bars.console.is_terminal:
            self._bars.console.print(text, markup=False, soft_wrap=True)

    def step(self, done: int, steps: int) -> None:
        """A step of an epoch has ended."""
        if self._steps is None:
            self._steps = self._bars.add_task("Steps of this epoch")
        self._bars.update(self._steps, total=steps, completed=done)

    def _finish(self) -> None:
        if self._stage is not None:
            self._bars.update(self._stage, total=1, completed=1)
            self._bars.stop_task(self._stage)
        if self._steps is not None:
            self._bars.remove_task(self._steps)
        self._stage = self._steps = None


@contextmanager
def training_bars() -> Iterator[TrainingBars]:
    """Progress of a training, or of anything else in stages."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from hwgate.show.tables import console

    with Progress(TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
                  TimeElapsedColumn(), TimeRemainingColumn(), refresh_per_second=2,
                  console=console(stderr=True)) as bars:
        shown = TrainingBars(bars)
        yield shown
        shown._finish()
