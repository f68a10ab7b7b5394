"""The doors, with whatever Python is typed: they go on in the project's environment, or say what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lora_scripts import door
from lora_scripts.core.packages import MINIMUM_PYTHON, OPTIONAL, insufficient, older, requirements
from lora_scripts.door import MINIMUM_PYTHON as DOORS_MINIMUM

ROOT = Path(__file__).resolve().parents[2]
BARE = [sys._base_executable, "-I", "-S"]
"""A Python that sees the standard library only."""
NEEDED = (
    "train.py",
    "pyproject.toml",
    "tools/auto_label.py",
    "src/lora_scripts/__init__.py",
    "src/lora_scripts/door.py",
)


@pytest.fixture
def checkout(tmp_path):
    """The few files of a checkout that a door needs, in a folder with a space and Chinese in its name."""
    root = tmp_path / "my 文件夹"
    for name in NEEDED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "src/lora_scripts/core", root / "src/lora_scripts/core")
    return root


def knock(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
        check=False,
        timeout=60,
    )


def test_with_packages_the_door_is_the_command(tmp_path):
    done = knock(sys.executable, ROOT / "train.py", "--config", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("LS1001 ")


def test_without_packages_and_environment_one_sentence_says_what_to_run(checkout, tmp_path):
    done = knock(*BARE, checkout / "train.py", "--config", "x.yaml", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "`python3 scripts/setup.py`" in done.stderr
    assert str(checkout) in done.stderr


def test_the_sentence_speaks_the_users_language(checkout, tmp_path):
    done = subprocess.run(
        [*BARE[:1], "-S", str(checkout / "train.py")],
        capture_output=True,
        env=os.environ | {"LORA_SCRIPTS_LANG": "zh", "PYTHONIOENCODING": "utf-8"},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 4
    assert "缺少软件包" in done.stderr.decode()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for an environment's Python is a shell script")
def test_without_packages_the_door_goes_on_in_the_environment(checkout, tmp_path):
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$(pwd)|$*"\nexit 7\n')
    python.chmod(0o755)
    done = knock(*BARE, checkout / "train.py", "--config", "a b.yaml", cwd=tmp_path)
    assert done.returncode == 7
    assert done.stdout == f"{tmp_path}|{checkout / 'train.py'} --config a b.yaml\n"


def test_a_door_that_is_in_the_environment_already_does_not_go_round_in_circles(checkout, tmp_path):
    subprocess.run([sys._base_executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    python = checkout / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = knock(python, checkout / "train.py", cwd=tmp_path)
    assert done.returncode == 4
    assert "Packages are missing" in done.stderr


class Child:
    """A process that is interrupted once while it is waited for, and then ends by itself."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.answers = [KeyboardInterrupt(), 130]

    def wait(self):
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_on_windows_the_door_waits_for_the_command_through_control_c(monkeypatch):
    started: list[Child] = []

    def start(arguments):
        started.append(Child(arguments))
        return started[0]

    monkeypatch.setattr(door, "os", SimpleNamespace(name="nt"))
    monkeypatch.setattr(door.subprocess, "Popen", start)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "x.yaml"])
    assert door._go_on("python.exe", "train.py") == 130
    assert started[0].arguments == ["python.exe", "train.py", "--config", "x.yaml"]


def test_the_door_to_captions_is_the_command(checkout, tmp_path):
    done = knock(sys.executable, ROOT / "tools/auto_label.py", "--input", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("nowhere LS2020 ")
    bare = knock(*BARE, checkout / "tools/auto_label.py", "--input", "x", cwd=tmp_path)
    assert bare.returncode == 4
    assert "scripts/setup.py" in bare.stderr


def test_an_old_python_reaches_the_sentence(checkout, tmp_path):
    old = next(filter(None, map(shutil.which, ("python3.8", "python3.9", "python3.10"))), None)
    if old is None or subprocess.run([old, "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Python older than 3.11 is installed here")
    done = knock(old, checkout / "train.py", cwd=tmp_path)
    assert done.returncode == 4
    assert "3.11 or newer is needed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_door_and_the_project_agree_on_python():
    assert DOORS_MINIMUM == MINIMUM_PYTHON
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={MINIMUM_PYTHON[0]}.{MINIMUM_PYTHON[1]}"' in declared


@pytest.mark.parametrize(
    ("version", "minimum", "expected"),
    [
        ("2.13.0+cpu", "2.13", False),
        ("2.12.1", "2.13", True),
        ("2.13.0.dev1", "2.13", False),
        ("10.0", "9.9", False),
        ("0.42.1", "0.42.1", False),
        ("0.42", "0.42.1", True),
    ],
)
def test_versions_are_compared_as_numbers(version, minimum, expected):
    assert older(version, minimum) is expected


def test_optional_packages_do_not_keep_a_door_shut():
    versions: dict[str, str | None] = dict(requirements())
    assert set(requirements()) >= OPTIONAL
    assert insufficient(versions | dict.fromkeys(OPTIONAL)) == []
    assert insufficient(versions | {"torch": None, "peft": "0.1"}) == ["peft", "torch"]
