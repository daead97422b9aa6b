"""How closely a network's integers follow the float model that they were made of, as data."""

from dataclasses import dataclass

from hwgate.errors import UserError
from hwgate.machine.config import FormatConfig

__all__ = ["ERROR_DB", "WARNING_DB", "Fidelity", "LayerFidelity", "limits"]

#: Signal-to-noise ratios, in dB for each bit of the narrower of weights and activations, below
#: which a layer that is fed with what the float layer takes is refused, and below which there is a
#: warning. Rounding alone leaves some 5 dB a bit. Noise that adds up to more than the signal is
#: refused as well.
ERROR_DB, WARNING_DB = 1.25, 1.875


def limits(formats: FormatConfig) -> tuple[float, float]:
    """Ratios in dB below which a layer of these widths is refused, and is warned of."""
    bits = min(formats.activation, formats.weight)
    return ERROR_DB * bits, WARNING_DB * bits

#: What no ratio in dB and no count of images reaches.
_MOST = 1e12


@dataclass(frozen=True)
class LayerFidelity:
    """Signal-to-noise ratios of a layer's output in dB: of the float layer's variance to the mean
    square of the difference.

    Parameters
    ----------
    name : str
    own : float
        Where the integer layer takes what the float layer takes.
    through : float
        Where it takes what the integer layers before it put out: noise adds up.
    """

    name: str
    own: float
    through: float


@dataclass(frozen=True)
class Fidelity:
    """What was measured when a network was quantized.

    Parameters
    ----------
    images : int
        Calibration images that were compared.
    answers : float
        Share of them, or of the pixels of a map, that both put into the same class: the channel
        with the largest output.
    layers : tuple of LayerFidelity
    ignored : bool
        A ratio lies below the limit, and the user went on knowingly.
    """

    images: int
    answers: float
    layers: tuple[LayerFidelity, ...]
    ignored: bool = False

    @property
    def worst(self) -> LayerFidelity:
        """The layer with the lowest ratio of its own."""
        return min(self.layers, key=lambda layer: layer.own)

    def describe(self) -> str:
        """One line for people."""
        last, worst = self.layers[-1], self.worst
        text = (f"{self.answers:.1%} of {self.images} calibration images answered as by the float "
                f"model; signal to noise {last.through:.1f} dB at the end, lowest of a layer "
                f"{worst.own:.1f} dB ({worst.name})")
        return text + ("; below the limit, and ignored" if self.ignored else "")

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {"images": self.images, "answers": self.answers, "ignored": self.ignored,
                "layers": [[layer.name, layer.own, layer.through] for layer in self.layers]}

    @staticmethod
    def from_dict(values: dict[str, object]) -> "Fidelity":
        """What :meth:`to_dict` wrote.

        Raises
        ------
        UserError
            For anything else.
        """
        def number(value: object) -> bool:
            return (isinstance(value, (int, float)) and not isinstance(value, bool)
                    and abs(value) < _MOST)

        images, answers, layers, ignored = (values.get(name) for name in
                                            ("images", "answers", "layers", "ignored"))
        if not (set(values) == {"images", "answers", "layers", "ignored"}
                and isinstance(images, int) and images > 0 and number(images)
                and isinstance(answers, float) and 0 <= answers <= 1
                and isinstance(ignored, bool) and isinstance(layers, list) and layers
                and all(isinstance(layer, list) and len(layer) == 3 and isinstance(layer[0], str)
                        and number(layer[1]) and number(layer[2]) for layer in layers)):
            raise UserError("Field 'fidelity' of a network must be what was measured: images, a "
                            "share of answers, whether it is ignored, and two ratios a layer")
        return Fidelity(images, answers, tuple(LayerFidelity(name, float(own), float(through))
                                               for name, own, through in layers), ignored)
