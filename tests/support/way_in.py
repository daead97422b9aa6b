"""How far a public network gets on its way onto the accelerator, and what stops it."""

import statistics
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

import hwgate
from hwgate.compiler.program import Program
from hwgate.errors import FidelityWarning, UserError
from hwgate.frontend import Graph, lower, read_torch, simplify
from hwgate.frontend.model import evaluating
from hwgate.frontend.passes import drop_softmax
from hwgate.machine.config import AcceleratorConfig
from hwgate.plan.fitting import Placed, smallest
from hwgate.plan.layer import stored_layer
from hwgate.quant.network import QuantizedNetwork
from support.public_networks import Definition, random_images

__all__ = ["STAGES", "WayIn", "compile_fitting", "take_in"]

#: What a network has reached, in order; the first is none.
STAGES = ("none", "exported", "lowered", "quantized", "compiled", "simulated")

#: Most MACs of a network that is simulated.
_SMALL = 50_000_000

#: Calibration images, small and large ones.
_IMAGES = 8, 2


@dataclass(frozen=True)
class WayIn:
    """What became of one network.

    Parameters
    ----------
    name : str
    macs : int
        Of one image, as far as the graph of the network is known.
    stage : str
        The last one of :data:`STAGES` that it reached.
    worst, median : float or None
        Lowest and median signal-to-noise ratio of a layer's own, in dB.
    cycles, bytes : int or None
        Of one image, by the cost model.
    differences : int or None
        Of RTL and models on one image: outputs, psums, decisions, cycles, counts and bytes.
    buffers : mapping of str to int
        Buffers that had to be larger than those of the preset.
    obstacles : tuple of str
        Every sentence that says why it got no further.
    crash : str
        Traceback of an error that is no sentence.
    stopped : float or None
        Seconds after which the time was up.
    seconds : float
    """

    name: str
    macs: int = 0
    stage: str = STAGES[0]
    worst: float | None = None
    median: float | None = None
    cycles: int | None = None
    bytes: int | None = None
    differences: int | None = None
    buffers: dict[str, int] = field(default_factory=dict)
    obstacles: tuple[str, ...] = ()
    crash: str = ""
    stopped: float | None = None
    seconds: float = 0.0

    @property
    def inside(self) -> bool:
        """Whether it runs: the cost model knows its cycles."""
        return self.cycles is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "WayIn":
        """What :meth:`to_dict` wrote."""
        return WayIn(**{**values, "obstacles": tuple(values["obstacles"])})


def take_in(definition: Definition, config: AcceleratorConfig,
            tell: Callable[[WayIn], None] = lambda found: None, *,
            rtl: int = _SMALL) -> WayIn:
    """Take a network in, from its definition to the RTL.

    Parameters
    ----------
    definition : Definition
    config : AcceleratorConfig
        Whose buffers grow until the network fits.
    tell : callable
        Told what is known after each stage.
    rtl : int
        Most MACs of a network that is simulated.
    """
    return _Journey(definition, config, tell, rtl).run()


def compile_fitting(network: QuantizedNetwork) -> Program:
    """A program for the network's accelerator, with its buffers no larger than they must be.

    Raises
    ------
    CompileError
        If no buffer is large enough.
    """
    config, layers = network.config, network.layers
    shapes = [[network.shape(source) for source in network.inputs(n)] for n in range(len(layers))]
    placed = [Placed(stored_layer(layer, [channels for channels, _, _ in own], config),
                     None if layer.residual is None else network.shape(layer.residual))
              for layer, own in zip(layers, shapes, strict=True)]
    enough = smallest(placed, config)
    return hwgate.compile(network if enough is None else replace(network, config=enough))


class _Journey:
    """One network on its way."""

    def __init__(self, definition: Definition, config: AcceleratorConfig,
                 tell: Callable[[WayIn], None], rtl: int) -> None:
        self.definition, self.config, self.tell, self.rtl = definition, config, tell, rtl
        self.found, self.begin = WayIn(definition.name), time.perf_counter()

    def run(self) -> WayIn:
        try:
            self._go()
        except UserError as error:
            self._note(obstacles=(str(error),))
        except Exception as error:  # a bug, of hwgate or of the definition
            lines = str(error).strip().splitlines()
            self._note(obstacles=(f"{type(error).__name__}: {lines[0] if lines else ''}",),
                       crash=traceback.format_exc())
        return self.found

    def _note(self, **what: Any) -> None:
        self.found = replace(self.found, seconds=time.perf_counter() - self.begin, **what)
        self.tell(self.found)

    def _go(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the definitions
            model = self.definition.build()
        with evaluating(model):
            graph = drop_softmax(simplify(read_torch(model, self.definition.shape)))
            self._note(stage="exported", macs=_macs(graph))
            _, obstacles = lower(graph)
        if obstacles:
            self._note(obstacles=obstacles)
            return
        self._note(stage="lowered")
        network = self._quantize(model)
        if network is None:
            return
        program = compile_fitting(network)
        buffers = program.config.buffers
        self._note(stage="compiled", buffers={
            name: have for name, have in vars(buffers).items()
            if have != getattr(self.config.buffers, name)})
        image = random_images(self.definition.shape, 1, 4).numpy()
        model_run = hwgate.estimate(program, image)
        self._note(cycles=model_run.cycles, bytes=model_run.bytes_total)
        if sum(layer.macs for layer in program.network.layers) <= self.rtl:
            comparison = hwgate.compare(hwgate.simulate(program, image), model_run)
            self._note(stage="simulated", differences=(
                comparison.mismatches + comparison.psum_mismatches
                + comparison.decision_mismatches + comparison.cycle_difference
                + comparison.counter_difference + comparison.byte_difference))

    def _quantize(self, model: nn.Module) -> QuantizedNetwork | None:
        """The integers, if they follow the model; how closely is known if they do not, too."""
        images = random_images(self.definition.shape, _IMAGES[self.definition.large], 3)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", FidelityWarning)
            network = hwgate.quantize(model, images, self.config, check="warn")
        fidelity = network.fidelity
        assert fidelity is not None
        self._note(worst=fidelity.worst.own,
                   median=statistics.median(layer.own for layer in fidelity.layers))
        if fidelity.ignored:
            self._note(obstacles=(str(said[-1].message),))
            return None
        self._note(stage="quantized")
        return network


def _macs(graph: Graph) -> int:
    """Multiplications of convolutions and linear layers for one image."""
    return sum(node.tensors["weight"][0].numel() * int(np.prod(node.shape))
               for node in graph.nodes if node.op in ("Conv", "Linear"))
