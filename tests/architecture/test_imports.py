"""Who may import whom: the rules of docs/architecture.md, held by reading every import statement."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.architecture.sources import SRC, at_import_time, imports, python_files, shown

LEVELS = (
    {"core"},
    {"config"},
    {"data", "adapters"},
    {"families"},
    {"export"},
    {"toolbox", "labeling", "doctor"},
    {"preflight"},
    {"training"},
    {"cli"},
)
"""From the bottom to the top; a room imports itself and what lies below it, never a neighbour."""
LEVEL = {room: height for height, rooms in enumerate(LEVELS) for room in rooms}
KNOWN = {"adapters": ("lora_scripts.families._base",)}
"""What a room may know beyond its level: an adapter is attached to a ``Model``, a shape of the families'."""
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "bitsandbytes", "torchvision")
NEVER_HEAVY = {"core", "config", "data"}
LAZY_HEAVY = {"families", "adapters", "export", "toolbox", "labeling", "doctor", "preflight", "cli"}
FILES = [path for path in python_files("src/lora_scripts") if path.parent != SRC]


def room(path) -> str:
    return path.relative_to(SRC).parts[0]


def is_heavy(module: str) -> bool:
    return module.partition(".")[0] in HEAVY


def test_every_folder_is_a_room_with_a_level():
    folders = {path.name for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"builtin"} == set(LEVEL)


def points_up(mine: str, module: str) -> bool:
    parts = module.split(".")
    other = parts[1] if parts[0] == "lora_scripts" and len(parts) > 1 else mine
    above = other in LEVEL and other != mine and LEVEL[other] >= LEVEL[mine]
    return above and not module.startswith(KNOWN.get(mine, ()))


def imported_in(rooms) -> list[tuple[Path, str, ast.stmt]]:
    return [(path, module, node) for path in FILES if room(path) in rooms for module, node in imports(path)]


def test_imports_point_down():
    found = imported_in(LEVEL)
    assert [f"{shown(path)}:{node.lineno} {m}" for path, m, node in found if points_up(room(path), m)] == []


def test_core_config_and_data_never_import_torch():
    found = imported_in(NEVER_HEAVY)
    assert [f"{shown(path)}:{node.lineno} {m}" for path, m, node in found if is_heavy(m)] == []


def test_the_heavy_stack_is_imported_inside_functions():
    heavy = [each for each in imported_in(LAZY_HEAVY) if is_heavy(each[1])]
    early = [f"{shown(path)}:{node.lineno} {m}" for path, m, node in heavy if node in at_import_time(path)]
    assert early == []


def test_the_loop_knows_no_family():
    loop = SRC / "training" / "loop.py"
    known = {module for module, _ in imports(loop) if module.startswith("lora_scripts.families.")}
    assert all(module.startswith("lora_scripts.families._base") for module in known)


def test_a_family_never_imports_another():
    families = [path for path in (SRC / "families").glob("*.py") if not path.stem.startswith("_")]
    names = {path.stem for path in families}
    for path in (SRC / "families").rglob("*.py"):
        for module, node in imports(path):
            parts = module.split(".")
            if parts[:2] == ["lora_scripts", "families"] and len(parts) > 2:
                assert parts[2] not in names - {path.stem}, f"{shown(path)}:{node.lineno}"


def test_the_program_never_imports_its_demo_or_tests():
    for path in python_files("src/lora_scripts"):
        for module, node in imports(path):
            assert module.partition(".")[0] not in {"demo", "tests"}, f"{shown(path)}:{node.lineno}"
