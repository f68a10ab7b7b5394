"""How files look: short, named after a subject, readable by the Pythons that meet them, harmless."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection

import pytest

from tests.architecture.sources import ROOT, SRC, python_files, shown, tree

MAX_LINES = 400
NAMELESS = {"utils", "util", "common", "helpers", "helper", "misc"}
OLD_PYTHON = (3, 6)
BEFORE_PACKAGES = (
    "train.py",
    "tools/auto_label.py",
    "scripts/setup.py",
    "src/lora_scripts/__init__.py",
    "src/lora_scripts/door.py",
    "src/lora_scripts/core/__init__.py",
    "src/lora_scripts/core/language.py",
)
CATCH_ALL = {
    "src/lora_scripts/data/pixels.py": "the picture decoder's boundary: damaged files raise anything",
    "src/lora_scripts/cli/main.py": "the end of the program: a bug becomes a sentence and a file",
}
READS_PICKLES = "src/lora_scripts/toolbox/pickle_worker.py"
"""A process of its own, without secrets: what `lora-scripts convert` opens a pickle in."""
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
DANGEROUS = {"torch.load", "torch.save", "os.system", "os.popen"}
PROGRAM = python_files("src/lora_scripts", "demo", "scripts", "tools")


def test_files_are_short():
    lines = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert {name: count for name, count in lines.items() if count >= MAX_LINES} == {}


def test_every_module_is_named_after_its_subject():
    parts = {part for path in python_files() for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & NAMELESS


@pytest.mark.parametrize("name", BEFORE_PACKAGES)
def test_what_stands_before_the_packages_is_readable_by_an_old_python(name):
    ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=OLD_PYTHON)


def passes_on(handler: ast.ExceptHandler) -> bool:
    """Whether a handler only tidies up: it ends by raising what it caught."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def catches_anything(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler) or passes_on(node):
        return False
    kinds = ast.walk(node.type or ast.Name(""))
    caught = {child.id for child in kinds if isinstance(child, ast.Name)}
    return bool(caught & {"", "Exception", "BaseException"})


def places(wrong: Callable[[ast.AST], bool], allowed: Collection[str]) -> list[str]:
    """Where the program does what is ``wrong``, but for files where it is allowed."""
    return [
        f"{shown(path)}:{getattr(node, 'lineno', 0)}"
        for path in PROGRAM
        if shown(path) not in allowed
        for node in ast.walk(tree(path))
        if wrong(node)
    ]


def test_exceptions_are_caught_by_name():
    assert places(catches_anything, CATCH_ALL) == []


def is_dangerous(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            modules = {alias.name for alias in names} | {getattr(node, "module", None) or ""}
            return bool({module.partition(".")[0] for module in modules} & UNPICKLERS)
        case ast.Attribute():
            return node.attr == "LOAD_TRUNCATED_IMAGES" or ast.unparse(node) in DANGEROUS
        case ast.keyword(arg="shell" | "trust_remote_code"):
            return getattr(node.value, "value", None) is not False
        case ast.Call(func=ast.Name(id="eval" | "exec")):
            return True
    return False


def test_nothing_dangerous():
    assert places(is_dangerous, [READS_PICKLES]) == []  # what it may: tests/security/test_s02_no_pickle.py


def test_every_package_folder_has_its_init():
    folders = {path.parent for path in SRC.rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
