"""S1: no command is ever put together as a string, and no shell reads one."""

from __future__ import annotations

import ast
import tomllib

import pytest

from tests.architecture.sources import ROOT, python_files, shown, tree

PROGRAM = [path for path in python_files() if path.relative_to(ROOT).parts[0] != "tests"]
SHELLS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "commands.getoutput",
    "pty.spawn",
}
STARTS = {"run", "Popen", "call", "check_call", "check_output"}


def problems_of(module: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(module):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in SHELLS:
            found.append(f"{where}: {ast.unparse(node)}")
        if (
            isinstance(node, ast.keyword)
            and node.arg == "shell"
            and getattr(node.value, "value", 1) is not False
        ):
            found.append(f"line {node.value.lineno}: shell")
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("subprocess."):
            first = node.args[0] if node.args else None
            text = isinstance(first, ast.JoinedStr) or isinstance(getattr(first, "value", None), str)
            if text and ast.unparse(node.func).split(".")[1] in STARTS:
                found.append(f"{where}: a command as one string")
    return found


def test_s01_no_command_is_a_string():
    assert {shown(path): wrong for path in PROGRAM if (wrong := problems_of(tree(path)))} == {}


@pytest.mark.parametrize(
    "planted",
    ["os.system('ls ' + name)", "subprocess.run(f'ls {name}')", "subprocess.run(words, shell=True)",
     "subprocess.Popen('ls', shell=flag)", "os.popen(name)"],
)  # fmt: skip
def test_s01_what_is_planted_is_found(planted):
    assert problems_of(ast.parse(planted))


def test_s01_the_linter_s_security_rules_are_errors():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in settings["select"]
    left_out = {rule for rule in settings["ignore"] if rule.startswith("S")}
    assert left_out == {"S101", "S311"}, "assertions, and random numbers that are no secrets"
    for folder, rules in settings["per-file-ignores"].items():
        assert folder.startswith(("tests/", "demo/")) or not {r for r in rules if r.startswith("S")}, folder


def test_s01_every_exception_from_a_security_rule_says_why():
    bare = []
    for path in PROGRAM:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            _, mark, tail = line.partition("# noqa: S")
            rule, _, reason = tail.partition(" - ")
            if mark and rule[:3].isdigit() and not reason.strip():
                bare.append(f"{shown(path)}:{number}")
    assert bare == []
