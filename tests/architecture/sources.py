"""The project's own files as the architecture tests see them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "lora_scripts"


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Every Python file of ours under the named folders, or of the whole repository."""
    if folders:
        found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    else:
        found = [path for path in ROOT.rglob("*.py") if not path.relative_to(ROOT).parts[0].startswith(".")]
    return tuple(sorted(path for path in found if "__pycache__" not in path.parts and ours(path)))


def ours(path: Path) -> bool:
    return path.relative_to(ROOT).parts[0] not in {"build", "dist", "output", "models"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Every imported module of a file by its full name; ``from x import y`` gives ``x`` and ``x.y``."""
    inside = path.is_relative_to(SRC)
    package = ("lora_scripts", *path.relative_to(SRC).parts[:-1]) if inside else ()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            yield module, node
            for alias in node.names:
                yield f"{module}.{alias.name}", node


@cache
def at_import_time(path: Path) -> set[ast.stmt]:
    """Import statements that run with the file: outside functions and ``TYPE_CHECKING`` blocks."""
    found: set[ast.stmt] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import | ast.ImportFrom):
                found.add(child)
            visit(child)

    visit(tree(path))
    return found
