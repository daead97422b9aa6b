"""What the commands print: tables and sentences, or JSON."""

import json
import sys
from typing import Any

__all__ = ["display", "write_json"]


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
    """Print tables and sentences."""
    from hwgate.show.tables import console

    out = console()
    for thing in things:
        out.print(thing, markup=False, soft_wrap=isinstance(thing, str))
