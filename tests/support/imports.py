"""The imports of hwgate's own modules, read from the source without running it."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["PARTS", "Import", "circles", "forbidden", "modules", "read_imports"]

#: Folder of a checkout: the package that it is imported as.
PARTS = {"hwgate": "hwgate", "quant": "hwgate.quant", "rtl": "hwgate.rtl", "sim": "hwgate.sim"}


class Import(NamedTuple):
    """Module ``source`` needs module ``target``; see line ``line`` of ``path``."""

    path: Path
    line: int
    source: str
    target: str

    @property
    def packages(self) -> tuple[str, str]:
        """Packages of both, below hwgate; of the public API itself an empty name."""
        source, target = (f"{name}.".split(".")[1] for name in (self.source, self.target))
        return source, target


def modules(root: Path) -> dict[str, Path]:
    """Source file of every module below ``root``, by its name."""
    found = {}
    for folder, package in PARTS.items():
        for path in sorted((root / folder).rglob("*.py")):
            names = path.relative_to(root / folder).with_suffix("").parts
            found[".".join((package, *(n for n in names if n != "__init__")))] = path
    return found


def read_imports(root: Path) -> list[Import]:
    """Every import of one module of hwgate by another, also inside functions and for types only.

    A name that a package exports counts as an import of the module that defines it.
    """
    known = modules(root)
    exports = {name: _exports(name, path, known) for name, path in known.items()
               if path.name == "__init__.py"}
    found = []
    for name, path in known.items():
        lines = _targets(name, path, known, exports)
        if path.name == "__init__.py":
            lines = {**lines, **dict.fromkeys(exports[name].values(), 1)}
        found += [Import(path.relative_to(root), line, name, target)
                  for target, line in lines.items() if target != name]
    return found


def _exports(package: str, path: Path, known: Mapping[str, Path]) -> dict[str, str]:
    """Module that defines each name of a package's stub."""
    stub = path.with_suffix(".pyi")
    tree = ast.parse(stub.read_text() if stub.is_file() else "")
    return {alias.asname or alias.name: f"{package}.{node.module}" for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and f"{package}.{node.module}" in known
            for alias in node.names}


def _targets(name: str, path: Path, known: Mapping[str, Path],
             exports: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Modules that a file imports, with a line that does."""
    found: dict[str, int] = {}
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import hwgate` by itself says nothing; the names that are then used do.
                if alias.name in known and alias.name != "hwgate":
                    found.setdefault(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[:len(parents) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f"{base}.{alias.name}"
                target = target if target in known else exports.get(base, {}).get(alias.name, base)
                if target in known and target != "hwgate":
                    found.setdefault(target, node.lineno)
        elif (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
              and node.value.id == "hwgate" and node.attr in exports.get("hwgate", {})):
            found.setdefault(exports["hwgate"][node.attr], node.lineno)
    return found


def forbidden(imports: list[Import], levels: tuple[tuple[str, ...], ...]) -> list[str]:
    """A sentence for each import that does not go down: file, import and rule."""
    place = {name: level for level, names in enumerate(levels) for name in names}
    sentences = []
    for found in imports:
        source, target = found.packages
        if not source or source == target:
            continue  # the public API may show anything, a package its own
        rule = None
        if source not in place or target not in place:
            lost = source if source not in place else target
            rule = f"package {lost or 'hwgate'!r} has no place among the levels"
        elif place[target] >= place[source]:
            rule = (f"{source!r} is on level {place[source]} and may import from lower levels "
                    f"only, but {target!r} is on level {place[target]}")
        if rule:
            sentences.append(f"{found.path}:{found.line} imports {found.target}: {rule}")
    return sentences


def circles(imports: list[Import]) -> Iterator[list[str]]:
    """Groups of modules that import each other, directly or over others (Tarjan, 1972)."""
    needs: dict[str, list[str]] = {}
    for found in imports:
        needs.setdefault(found.source, []).append(found.target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in needs.get(name, ()):
            if other not in index:
                yield from visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name):]
            del stack[stack.index(name):]
            if len(group) > 1:
                yield sorted(group)

    for name in list(needs):
        if name not in index:
            yield from visit(name)
