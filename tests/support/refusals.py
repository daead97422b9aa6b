"""What stops networks, counted by operator: from the sentences of the obstacles."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from support.way_in import WayIn

__all__ = ["NEEDS", "OPERATORS", "OTHER", "Operator", "Refusal", "operator_of", "refusals"]

#: What it would take to run an operator.
NEEDS = ("compiler", "hardware", "open")


@dataclass(frozen=True)
class Operator:
    """A kind of obstacle.

    Parameters
    ----------
    title : str
    needs : str
        ``compiler``: the accelerator has what it takes. ``hardware``: it has not. ``open``: neither
        is planned, or nobody knows.
    pattern : str
        What a sentence about it says; the first operator that fits is it.
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
    Operator("grouped and depthwise convolution", "compiler", r"\bgroups\b|depthwise|grouped conv"),
    Operator("max pooling of other windows", "hardware", r"is a max pooling of|max_pool"),
    Operator("dilation", "hardware", r"\bdilation \d|adaptive_max"),
    Operator("kernel size", "hardware", r"kernel size|has kernel \d|has a kernel"),
    Operator("stride", "hardware", r"has stride|has a stride"),
    Operator("padding", "compiler", r"has padding|\bpads\b"),
    Operator("table activation", "hardware",
             r"is a (silu|hardswish|sigmoid|hardsigmoid|gelu|tanh)\b|"
             r"calls (c?elu|selu|softplus|mish|log_?sigmoid|hardswish|erf|exp|tanh)\("),
    Operator("LeakyReLU, PReLU", "hardware", r"(leaky_relu|prelu|leaky ReLU)\b"),
    Operator("clamp", "compiler", r"\bclamp"),
    Operator("average pooling", "compiler", r"averages over|average pooling of"),
    Operator("attention, layer norm, tokens", "open",
             r"native_layer_norm|layer norm|group_norm|softmax|multiplies two values|"
             r"\b(bmm|matmul|baddbmm|scaled_dot_product\w*|eq|any|where|logical_not)\(|"
             r"is a linear layer on values|moves values between images"),
    Operator("multiplication, squeeze-and-excite", "open",
             r"multiplies tensors|product of two values|mul(_\d+)?' takes|depend on the image"),
    Operator("concatenation", "compiler", r"\bConcat|\bjoins\b|concatenat|more than one tensor;"),
    Operator("upsampling, transposed convolution", "open", r"upsample|transposed conv|\bResize\b"),
    Operator("linear layers, averages before them", "compiler",
             r"linear layer|Linear layer|average pooling"),
    Operator("norm, activation or addition of its own", "compiler",
             r"also used elsewhere|not directly behind|no convolution can take in|value to itself|"
             r"before the first convolution|second max pooling|follows the shortcut"),
    Operator("channels moved about", "open",
             r"rearranges|some of the channels|shuffles|by an index|is a mean over|"
             r"combines a value|combines values|adds tensors of the shapes"),
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
    return next((operator for operator in OPERATORS if re.search(operator.pattern, sentence)),
                OTHER)


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
