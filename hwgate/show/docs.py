"""Writes the tables and pictures of the documentation that come from declarations in the code.

``python -m hwgate.show.docs`` rewrites the generated parts of the files in ``docs/``, for the
default configuration, and pictures; ``--check`` only reports whether they are stale. A generated
part lies between a line ``<!-- generated: name -->`` and the next ``<!-- end -->``; text
around it is kept.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.layouts import Layout, descriptor_layout, header_layout
from hwgate.machine.regs import engine_registers
from hwgate.show.packages import packages_figure, packages_table

__all__ = ["DOCS", "PARTS", "PICTURES", "main", "render", "stale"]

#: The documentation of a checkout; an installed package has none.
DOCS = Path(__file__).resolve().parents[2] / "docs"

_PART = re.compile(r"(<!-- generated: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _registers() -> str:
    config = AcceleratorConfig()
    return f"Configuration: {config.describe()}.\n\n{engine_registers(config).as_markdown()}"


def _layout(layout: Layout) -> str:
    return f"{layout.size_bytes} bytes, with padding.\n\n{layout.as_markdown()}"


#: File below ``docs/``: its generated parts by name.
PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "architecture.md": {"packages": packages_table},
    "registers.md": {"registers": _registers},
    "program.md": {
        "descriptor": lambda: _layout(descriptor_layout()),
        "header": lambda: _layout(header_layout(AcceleratorConfig())),
    },
}


#: File below ``docs/`` that is drawn as a whole.
PICTURES: dict[str, Callable[[], str]] = {"packages.svg": packages_figure}


def render(text: str, parts: dict[str, Callable[[], str]]) -> str:
    """``text`` with its generated parts renewed.

    Raises
    ------
    UserError
        If a part has no place in the text, or the text has a place for none of the parts.
    """
    places = [match["name"] for match in _PART.finditer(text)]
    if sorted(places) != sorted(parts):
        raise UserError(f"The text must have the generated parts {', '.join(sorted(parts))}, "
                        f"not {', '.join(sorted(places)) or 'none'}")
    return _PART.sub(lambda match: f"{match[1]}\n{parts[match['name']]()}\n\n{match[3]}", text)


def stale(docs: Path = DOCS, *, write: bool = False) -> list[str]:
    """Files below ``docs`` that are out of date; ``write`` renews them.

    Raises
    ------
    UserError
        If a file is missing or has not the parts it should.
    """
    names = []
    for name, parts in PARTS.items():
        path = docs / name
        if not path.is_file():
            raise UserError(f"There is no {name} in {docs.name}/; run this in a checkout")
        text = path.read_text(encoding="utf-8")
        renewed = render(text, parts)
        if renewed != text:
            names.append(name)
            if write:
                path.write_text(renewed, encoding="utf-8")
    for name, draw in PICTURES.items():
        path, drawn = docs / name, draw()
        if not path.is_file() or path.read_text(encoding="utf-8") != drawn:
            names.append(name)
            if write:
                path.write_text(drawn, encoding="utf-8")
    return names


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status: 1 if ``--check`` finds a stale file, 2 on errors."""
    parser = argparse.ArgumentParser(prog="python -m hwgate.show.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")
    check = parser.parse_args(arguments).check
    try:
        names = stale(write=not check)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for name in names:
        print(f"docs/{name} is stale; run python -m hwgate.show.docs" if check
              else f"docs/{name} written")
    return int(check and bool(names))


if __name__ == "__main__":
    sys.exit(main())
