"""What stops networks, counted by operator: from the sentences of the obstacles."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from support.way_in import WayIn

__all__ = ["NEEDS", "OPERATORS", "OTHER", "Operator", "Refusal", "operator_of", "refusals"]

#: What it would take to run an operator.
NEEDS = ("hardware", "open")


@dataclass(frozen=True)
class Operator:
    """A kind of obstacle.

    Parameters
    ----------
    title : str
    needs : str
        ``hardware``: the accelerator has not what it takes yet. ``open``: that is not planned, or
        nobody knows.
    pattern : str
        What a sentence says about it; the first operator that fits is it.
    """

    title: str
    needs: str
    pattern: str


#: All kinds, those with the plainest words first.
OPERATORS = (
    Operator("crash", "open", r"^\w+(Error|Exception|Interrupt|Warning)?: "),
    Operator("time is up", "open", r"^Stopped after"),
    Operator("integers that do not follow", "open", r"dB of signal to noise|Rounding adds up"),
    Operator("size of a buffer", "hardware", r"buffers\.\w+|of memory, but the bus reaches"),
    Operator("max pooling of other windows", "hardware", r"is a max pooling of"),
    Operator("kernels beyond 7x7, dilation", "hardware",
             r"has kernel size|is a linear layer on \d|padding of a kernel|has padding"),
    Operator("stride 3 and more", "hardware", r"has stride"),
    Operator("averages of unequal windows", "open", r"averages "),
    Operator("table activation", "hardware",
             r"is a (silu|hardswish|sigmoid|hardsigmoid|gelu|tanh)\b|"
             r"calls (c?elu|selu|softplus|mish|log_?sigmoid|erf|exp)\("),
    Operator("LeakyReLU, PReLU", "hardware", r"leaky_relu|prelu"),
    Operator("attention, layer norm, tokens", "open",
             r"native_layer_norm|softmax|multiplies two values|moves values between images|"
             r"\b(bmm|matmul|baddbmm|eq|any|where|logical_not|full_like|sum)\(|"
             r"is a linear layer on values|with a constant of the shape|"
             r"joins a value with constants"),
    Operator("multiplication, squeeze-and-excite", "open",
             r"multiplies tensors|product of two values|depend on the image"),
    Operator("statistics of the image", "open", r"running statistics|group_norm"),
    Operator("upsampling, transposed convolution", "open", r"upsample|transposed conv"),
    Operator("maxima over channels or maps", "open", r"calls (adaptive_max_pool2d|max|amax)\("),
    Operator("values moved about", "open",
             r"rearranges|picks values|is a mean over|joins values along|adds tensors of|"
             r"pads a map that no"),
    Operator("convolution in other dimensions", "open", r"convolution in \d dimensions"),
    Operator("results", "open", r"must return one tensor|takes more than one tensor"),
    Operator("export", "open", r"cannot be exported|does not run on calibration images"),
)

#: Sentences that fit no other.
OTHER = Operator("other", "open", "")


@dataclass(frozen=True)
class Refusal:
    """How many networks an operator stops.

    Parameters
    ----------
    operator : Operator
    first : int
        Networks whose first obstacle it is.
    all : int
        Networks that have it.
    alone : int
        Networks that have nothing else.
    """

    operator: Operator
    first: int
    all: int
    alone: int


def operator_of(sentence: str) -> Operator:
    """The kind of an obstacle."""
    what = sentence.partition("; supported are ")[0]
    return next((operator for operator in OPERATORS if re.search(operator.pattern, what)), OTHER)


def refusals(found: Sequence[WayIn]) -> list[Refusal]:
    """Operators that stop networks, the most frequent first."""
    first: Counter[Operator] = Counter()
    every: Counter[Operator] = Counter()
    alone: Counter[Operator] = Counter()
    for network in found:
        operators = [operator_of(sentence) for sentence in network.obstacles]
        if operators:
            first[operators[0]] += 1
            every.update(set(operators))
            if len(set(operators)) == 1:
                alone[operators[0]] += 1
    return [Refusal(operator, first[operator], count, alone[operator])
            for operator, count in sorted(every.items(), key=lambda item: (-item[1],
                                                                         item[0].title))]
