"""What the commands print: tables and sentences, or JSON."""

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwgate.quant.fidelity import Fidelity

__all__ = ["display", "fidelity_line", "write_json"]


def write_json(target: str | None, content: dict[str, Any]) -> bool:
    """Write JSON to a file, or to stdout for ``-``; true if nothing else may be printed there."""
    from hwgate.files.atomic import write_atomic

    if target is None:
        return False
    text = json.dumps(content, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return True
    write_atomic(target, text)
    return False


def display(*things: Any) -> None:
    """Print tables, whose cells may have markup, and sentences, which have none."""
    from hwgate.show.tables import console

    out = console()
    for thing in things:
        sentence = isinstance(thing, str)
        out.print(thing, markup=not sentence, soft_wrap=sentence)


def fidelity_line(fidelity: "Fidelity | None") -> str:
    """How closely a network's integers follow its float model, or that nobody has measured it."""
    return (f"Fidelity: {fidelity.describe()}." if fidelity else
            "Fidelity: not measured; this network was not compared with a float model.")
