"""The parts of a recipe: network, data, gates, loss, optimizer, accelerator, quantization."""

from dataclasses import dataclass

from hwgate.data.datasets import DATASETS
from hwgate.errors import UserError
from hwgate.machine.config import preset

__all__ = ["BUDGETS", "GRANULARITIES", "NETWORKS", "SCHEDULES", "DataPart", "GatePart",
           "HardwarePart", "LossPart", "NetworkPart", "OptimizerPart", "PRECISIONS", "QuantizePart"]

NETWORKS = ("digits", "lenet", "resnet18", "resnet18-postact", "resnet20", "resnet20-postact",
            "vgg16")

#: Whom a gate serves: one activation, a slice of channels, or all channels of a pixel.
GRANULARITIES = ("activation", "pixel", "slice")

SCHEDULES = ("constant", "cosine", "onecycle", "steps")

BUDGETS = ("", "bytes", "cycles")

PRECISIONS = ("bfloat16", "float32")


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        named = ", ".join(name or repr(name) for name in known)
        raise UserError(f"{what} must be one of {named}, not {value!r}")


def _between(what: str, value: float, low: float, high: float = float("inf")) -> None:
    if not low <= value <= high:
        rule = f"in {low:g}..{high:g}" if high != float("inf") else f"at least {low:g}"
        raise UserError(f"{what} must be {rule}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class NetworkPart:
    """Which network: a name of :data:`NETWORKS`, and a factor of its channel counts."""

    name: str = "digits"
    width: float = 1.0

    def __post_init__(self) -> None:
        _one_of("Network", self.name, NETWORKS)


@dataclass(frozen=True, kw_only=True)
class DataPart:
    """Which data set, and how much of it.

    Parameters
    ----------
    name : str
        One of :data:`hwgate.data.datasets.DATASETS`.
    validation : int
        Training images that are held out; -1 is the data set's own number.
    images : int
        Training images to use, the first ones; 0 for all.
    augment : bool
        Move and mirror training images, as the data set says.
    """

    name: str = "digits"
    validation: int = -1
    images: int = 0
    augment: bool = True

    def __post_init__(self) -> None:
        _one_of("Data set", self.name, DATASETS)
        _between("Validation image count", self.validation, -1)
        _between("Training image count", self.images, 0)


@dataclass(frozen=True, kw_only=True)
class GatePart:
    """How convolutions are gated; see :class:`hwgate.nn.gated.GatedConv2d`.

    Parameters
    ----------
    groups : int
        G; 0 trains the ungated network.
    base_channels : int
        Lowers G in layers whose base path would have fewer input channels; 0 never does.
    grouping, alpha, sparse_bp, tau
        As for the layer.
    granularity : str
        One of :data:`GRANULARITIES`.
    slice : int
        Channels that share a gate, where the granularity is ``slice``.
    shuffle : bool
        With grouping, shuffle channels between gated layers.
    threshold : float
        Where thresholds start, in deviations of the base sums. A network that starts from trained
        weights (``loss.start``) can start with gates half closed.
    skip : str
        Layers that stay ungated: names or patterns such as ``layer1.*``, separated by commas.
    """

    groups: int = 4
    base_channels: int = 0
    grouping: bool = False
    shuffle: bool = True
    alpha: float = 2.0
    sparse_bp: bool = True
    granularity: str = "activation"
    slice: int = 4
    tau: float = 0.0
    threshold: float = 0.0
    skip: str = ""

    def __post_init__(self) -> None:
        _one_of("Gate granularity", self.granularity, GRANULARITIES)
        _between("Slice of a gate", self.slice, 1)
        _between("Base channel count", self.base_channels, 0)

    @property
    def share(self) -> int:
        """Channels that share a gate; 0 for all."""
        return {"activation": 1, "pixel": 0, "slice": self.slice}[self.granularity]


@dataclass(frozen=True, kw_only=True)
class LossPart:
    """What is minimized.

    ``(1 - distill) * cross entropy + distill * distillation
    + penalty * sum of (delta - target)^2 + coherence * incoherence + hardware.weight * excess``

    Parameters
    ----------
    target, penalty : float
        Target threshold T and its factor lambda. The pull over a run grows with
        ``rate * penalty * steps``, so short runs need a larger penalty.
    smoothing : float
        Label smoothing.
    teacher : str
        File of a trained network whose outputs are imitated, or the name of one of the zoo; none if
        empty. ``reference`` is the dense ResNet-20 of the data folder.
    distill, temperature : float
        Share of the loss that imitates, and the temperature of the soft targets.
    start : str
        File of a trained network to start from, or its name in the zoo, gated or not; none if
        empty.
    coherence : float
        Factor of the disagreement among neighbouring channels' decisions.
    coherence_slice : int
        Channels that should agree; 0 for all channels of a pixel.
    """

    target: float = 1.0
    penalty: float = 1e-4
    smoothing: float = 0.0
    teacher: str = ""
    distill: float = 0.5
    temperature: float = 4.0
    start: str = ""
    coherence: float = 0.0
    coherence_slice: int = 0

    def __post_init__(self) -> None:
        _between("Label smoothing", self.smoothing, 0, 1)
        _between("Distillation share", self.distill, 0, 1)
        if not self.temperature > 0:
            raise UserError(f"Temperature must be positive, not {self.temperature!r}")


@dataclass(frozen=True, kw_only=True)
class OptimizerPart:
    """SGD with Nesterov momentum, and its learning rate over the run.

    Parameters
    ----------
    epochs, batch : int
        Passes over the images, and images of a step; a last single image is left out.
    rate : float
        Largest learning rate.
    schedule : str
        ``onecycle``: up from a 25th by a cosine, then down to nothing; ``cosine``: up linearly,
        then down to nothing; ``steps``: a tenth after 60 % and a hundredth after 80 % of the run;
        ``constant``.
    warmup : float
        Share of the run in which the rate of ``onecycle`` and ``cosine`` rises.
    momentum, weight_decay : float
        Thresholds and 1-D parameters do not decay.
    precision : str
        Of the training's multiplications: ``float32``, or ``bfloat16`` where the processor is
        quicker with it (weights, sums of norms and evaluation stay in float32).
    """

    epochs: int = 10
    batch: int = 128
    rate: float = 0.1
    schedule: str = "onecycle"
    warmup: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    precision: str = "float32"

    def __post_init__(self) -> None:
        _one_of("Precision", self.precision, PRECISIONS)
        _between("Epoch count", self.epochs, 1)
        _between("Batch size", self.batch, 2)
        _between("Learning rate", self.rate, 0)
        _one_of("Schedule", self.schedule, SCHEDULES)
        _between("Warm-up", self.warmup, 0, 0.9)


@dataclass(frozen=True, kw_only=True)
class HardwarePart:
    """The accelerator, and a budget on it in place of the target threshold.

    Parameters
    ----------
    preset : str
        Name of the accelerator.
    budget : str
        ``cycles`` or off-chip ``bytes``; none if empty.
    share : float
        The budget, as a share of what the network takes with every gate open.
    weight : float
        Factor of the excess over the budget, in shares.
    """

    preset: str = "cifar"
    budget: str = ""
    share: float = 0.5
    weight: float = 1.0

    def __post_init__(self) -> None:
        preset(self.preset)
        _one_of("Budget", self.budget, BUDGETS)
        _between("Budget share", self.share, 0, 1)


@dataclass(frozen=True, kw_only=True)
class QuantizePart:
    """Quantization, and fine-tuning of the quantized network.

    Parameters
    ----------
    epochs : int
        Of fine-tuning with simulated rounding; 0 quantizes what was trained.
    rate : float
        Largest learning rate of the fine-tuning.
    activation, weight : int
        Bits.
    calibration : int
        Training images that the steps of activations are chosen from.
    """

    epochs: int = 0
    rate: float = 0.002
    activation: int = 8
    weight: int = 8
    calibration: int = 512

    def __post_init__(self) -> None:
        _between("Fine-tuning epoch count", self.epochs, 0)
        _between("Calibration image count", self.calibration, 1)
