"""The packages of hwgate, in the order of their imports: declared once, drawn, and tested.

A package imports from those of lower levels only, so there are no circles of packages, and two of
one level never import each other: ``quant`` and ``rtl`` are written independently.
"""

from importlib import import_module

from hwgate.show.figures import boxes

__all__ = ["LEVELS", "level_of", "packages_figure", "packages_table", "sentence"]

#: From the bottom up; what everything may import is first.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("machine",),
    ("quant", "rtl"),
    ("files", "data"),
    ("nn", "plan"),
    ("frontend", "schedule"),
    ("compiler", "results"),
    ("cost", "sim"),
    ("evaluation",),
    ("show",),
    ("train", "boards"),
    ("zoo", "bench"),
    ("cli",),
)

#: Packages with a folder of their own beside ``hwgate/``.
_BESIDE = ("quant", "rtl", "sim")


def level_of(package: str) -> int:
    """Level of a package; raises KeyError for one that is not declared."""
    for level, packages in enumerate(LEVELS):
        if package in packages:
            return level
    raise KeyError(package)


def sentence(package: str) -> str:
    """What lives in a package: the first sentence of its docstring."""
    text = (import_module(f"hwgate.{package}").__doc__ or "").replace("``", "`")
    return " ".join(text.split("\n\n")[0].split())


def packages_figure() -> str:
    """SVG of the packages, the lowest level at the bottom."""
    rows = [[(name, sentence(name)) for name in level] for level in reversed(LEVELS)]
    return boxes("The packages of hwgate",
                 "Each imports from the rows below it, never from its own", rows)


def packages_table() -> str:
    """Markdown table of the packages, from the command line down to the errors."""
    rows = ["| Package | Folder | Holds |", "|---|---|---|"]
    for level in reversed(LEVELS):
        for name in level:
            folder = f"{name}/" if name in _BESIDE else f"hwgate/{name}/"
            where = "hwgate/errors.py" if name == "errors" else folder
            rows.append(f"| `hwgate.{name}` | `{where}` | {sentence(name)} |")
    return "\n".join(rows)
