"""How files look: short, named after a subject, readable by the Pythons that meet them, harmless."""

from __future__ import annotations

import ast

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
PROGRAM = python_files("src/lora_scripts", "demo", "scripts", "tools")


@pytest.mark.parametrize("path", python_files(), ids=shown)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_LINES


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


@pytest.mark.parametrize("path", PROGRAM, ids=shown)
def test_exceptions_are_caught_by_name(path):
    if shown(path) in CATCH_ALL:
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler) and not passes_on(node):
            kinds = ast.walk(node.type or ast.Name(""))
            caught = {child.id for child in kinds if isinstance(child, ast.Name)}
            assert not caught & {"", "Exception", "BaseException"}, f"{shown(path)}:{node.lineno}"


@pytest.mark.parametrize("path", PROGRAM, ids=shown)
def test_nothing_dangerous(path):
    if shown(path) == READS_PICKLES:  # tests/security/test_s02_no_pickle.py says what it may
        return
    for node in ast.walk(tree(path)):
        where = f"{shown(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.partition(".")[0] for alias in node.names}
            module = (getattr(node, "module", None) or "").partition(".")[0]
            assert not (names | {module}) & UNPICKLERS, where
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in {"torch.load", "torch.save", "os.system", "os.popen"}, where
            assert node.attr != "LOAD_TRUNCATED_IMAGES", where
        if isinstance(node, ast.keyword) and node.arg in {"shell", "trust_remote_code"}:
            assert getattr(node.value, "value", None) is False, where
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec"}, where


def test_every_package_folder_has_its_init():
    folders = {path.parent for path in SRC.rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)
