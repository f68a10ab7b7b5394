"""S2: nothing opens a pickle but the worker of ``lora-scripts convert``, and that one by torch's restricted
reader; nothing evaluates text as a program."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.sources import ROOT, SRC, python_files, shown, tree

PROGRAM = [path for path in python_files() if path.relative_to(ROOT).parts[0] != "tests"]
WORKER = "src/lora_scripts/toolbox/pickle_worker.py"
PEER = "bench/peer_diffusers.py"
"""Runs another trainer's own script, to be timed beside ours."""
PICKLERS = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle",
    "yaml",
}  # fmt: skip
READERS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.serialization.load",
    "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip
LOADERS = {
    "exec_module",
    "run_path",
    "run_module",
    "SourceFileLoader",
    "spec_from_file_location",
}
VALUES = {"allow_pickle": False, "trust_remote_code": False, "weights_only": True}
EVALUATORS = {"eval", "exec", "compile", "__import__"}


def what_is_wrong(node: ast.AST) -> str | None:
    match node:
        case ast.Import(names=names):
            return next((a.name for a in names if a.name.partition(".")[0] in PICKLERS), None)
        case ast.ImportFrom(module="torch", names=names):
            return next((a.name for a in names if a.name in {"load", "save"}), None)
        case ast.ImportFrom(module=str(module)):
            return module if module.partition(".")[0] in PICKLERS else None
        case ast.Call(func=ast.Name(id=name)) if name in EVALUATORS:
            return name
        case ast.Call(func=ast.Attribute() as func, keywords=words) if ast.unparse(func) in {
            "np.load",
            "numpy.load",
        }:
            return None if any(word.arg == "allow_pickle" for word in words) else "np.load"
        case ast.Attribute(attr=attr) if ast.unparse(node) in READERS or attr in LOADERS:
            return attr
        case ast.keyword(arg=str(arg), value=value):
            given = getattr(value, "value", None)
            wrong = arg in VALUES and given is not VALUES[arg]
            return arg if wrong or (arg == "typ" and given == "unsafe") else None
    return None


def problems_of(module: ast.AST) -> list[str]:
    return [wrong for node in ast.walk(module) if (wrong := what_is_wrong(node))]


def test_s02_nothing_opens_a_pickle_or_evaluates_text():
    others = [path for path in PROGRAM if shown(path) not in {WORKER, PEER}]
    assert {shown(path): wrong for path in others if (wrong := problems_of(tree(path)))} == {}


def test_s02_the_worker_opens_it_once_and_by_the_restricted_reader():
    nodes = list(ast.walk(tree(ROOT / WORKER)))
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]
    assert len(calls) == 1
    given = {word.arg: getattr(word.value, "value", None) for word in calls[0].keywords}
    assert (given["weights_only"], given["map_location"]) == (True, "cpu")
    used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("pickle.")} == {"pickle.UnpicklingError"}
    assert problems_of(tree(ROOT / WORKER)) == ["pickle", "load"]


def test_s02_nobody_imports_the_worker():
    """It runs in a process of its own only."""
    for path in SRC.rglob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "pickle_worker" not in ast.unparse(node), shown(path)


@pytest.mark.parametrize(
    "planted",
    [
        "import torch\ntorch.load(path)",
        "from torch import load",
        "import pickle",
        "from pickle import loads",
        "np.load(path, allow_pickle=True)",
        "np.load(path)",
        "import yaml\nyaml.load(text)",
        "eval(text)",
        "exec(text)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=asked)",
        "torch.hub.load('a/b', 'c')",
        "joblib = __import__('joblib')",
        "YAML(typ='unsafe')",
        "read(path, weights_only=False)",
        "importlib.util.spec_from_file_location('x', path)",
    ],
)
def test_s02_what_is_planted_is_found(planted):
    assert problems_of(ast.parse(planted))
