"""Set-up without installing anything: what it decides, what it says, and that a second time costs nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lora_scripts.core.packages import requirements

ROOT = Path(__file__).resolve().parents[2]
INDEX = "https://wheels.example/whl/cu130"


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """scripts/setup.py over an empty folder, with every command recorded instead of run."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    environment = tmp_path / ".venv"
    python = environment / "bin" / "python"
    monkeypatch.setattr(script, "ROOT", str(tmp_path))
    monkeypatch.setattr(script, "ENVIRONMENT", str(environment))
    monkeypatch.setattr(script, "CONSTRAINTS", str(tmp_path / "constraints.txt"))
    monkeypatch.setattr(script, "STAMP", str(environment / "setup.json"))
    monkeypatch.setattr(script, "environment_python", lambda: str(python))
    monkeypatch.setattr(script, "works", lambda path: os.path.exists(path))
    monkeypatch.setattr(script, "has_nvidia_card", lambda: False)
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    script.commands = []

    def record(command):
        script.commands.append(command[1:])
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    monkeypatch.setattr(script, "run", record)
    return script


def test_the_first_time_makes_and_fills_the_environment(setup, capsys):
    assert setup.main([]) == 0
    made, installed = setup.commands
    assert made == ["-m", "venv", "--clear", setup.ENVIRONMENT]
    assert installed[:2] == ["-m", "pip"]
    assert installed[-4:] == ["--constraint", setup.CONSTRAINTS, "--editable", setup.ROOT + "[dev]"]
    assert "[3/3]" in capsys.readouterr().out


def test_the_second_time_does_nothing(setup, capsys):
    setup.main([])
    setup.commands.clear()
    assert setup.main([]) == 0
    assert setup.commands == []
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed_into_the_same_environment(setup, name):
    setup.main([])
    setup.commands.clear()
    with open(Path(setup.ROOT) / name, "a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    assert setup.main([]) == 0
    assert [command[:2] for command in setup.commands] == [["-m", "pip"]]


def test_an_interrupted_installation_is_begun_again(setup, monkeypatch):
    recorded = setup.run

    def stop(command):
        recorded(command)
        if "pip" in command:
            raise setup.Stop("no network")

    monkeypatch.setattr(setup, "run", stop)
    assert setup.main([]) == 4
    monkeypatch.setattr(setup, "run", recorded)
    setup.commands.clear()
    assert setup.main([]) == 0
    assert len(setup.commands) == 1


def test_a_pasted_command_gives_the_torch_for_the_card(setup):
    assert setup.main(["--cuda", f"pip3 install torch torchvision --index-url {INDEX}"]) == 0
    torch = setup.commands[1]
    assert torch[-4:-2] == ["--force-reinstall", setup.pinned("torch")]
    assert torch[-2:] == ["--index-url", INDEX]
    setup.commands.clear()
    assert setup.main([]) == 0
    assert setup.commands == [], "what was chosen once is remembered"


def test_the_address_may_come_from_the_environment(setup, monkeypatch):
    monkeypatch.setenv("TORCH_INDEX", INDEX)
    assert setup.main([]) == 0
    assert INDEX in setup.commands[1]


def test_a_pasted_text_without_an_address_is_refused(setup, capsys):
    assert setup.main(["--cuda", "pip install torch"]) == 4
    assert "no address that begins with https://" in capsys.readouterr().err
    assert setup.commands == []


def on_windows_with_a_card(setup, monkeypatch):
    monkeypatch.setattr(setup, "has_nvidia_card", lambda: True)
    monkeypatch.setattr(setup, "needs_index", lambda: True)


def test_windows_with_a_card_and_nobody_to_ask_stops_with_what_to_do(setup, monkeypatch, capsys):
    on_windows_with_a_card(setup, monkeypatch)
    monkeypatch.setattr(sys, "stdin", None)
    assert setup.main([]) == 4
    captured = capsys.readouterr()
    assert "Get started" in captured.out
    assert "--cuda" in captured.err
    assert "--cpu" in captured.err
    assert setup.commands == []


@pytest.mark.parametrize(
    ("answer", "index"), [(f"pip3 install torch --index-url {INDEX}", INDEX), ("", None)]
)
def test_windows_with_a_card_asks(setup, monkeypatch, answer, index):
    on_windows_with_a_card(setup, monkeypatch)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert setup.main([]) == 0
    assert any(INDEX in command for command in setup.commands) is (index is not None)


def test_cpu_does_not_ask(setup, monkeypatch):
    on_windows_with_a_card(setup, monkeypatch)
    assert setup.main(["--cpu"]) == 0
    assert len(setup.commands) == 2


@pytest.mark.parametrize(("free", "code"), [(1, 4), (5, 0), (50, 0)])
def test_room_is_looked_at_first(setup, monkeypatch, capsys, free, code):
    usage = type("Usage", (), {"free": free * 2**30})
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda path: usage)
    assert setup.main([]) == code
    captured = capsys.readouterr()
    assert ("Too little room" in captured.err) is (free == 1)
    assert ("Note:" in captured.out) is (free == 5)


def test_an_old_python_is_told_what_is_needed(setup, monkeypatch, capsys):
    monkeypatch.setattr(setup.sys, "version_info", (3, 9, 7))
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    assert setup.main([]) == 4
    assert capsys.readouterr().err == (
        "Python 3.9.7 is too old: install Python 3.11 or newer, then run this again with it.\n"
    )


def test_an_old_python_hands_over_to_a_newer_one_beside_it(setup, monkeypatch):
    monkeypatch.setattr(setup.sys, "version_info", (3, 9, 7))
    monkeypatch.setattr(setup.sys, "argv", ["setup.py", "--cpu"])
    monkeypatch.setattr(
        setup.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "python3.12" else None
    )
    monkeypatch.setattr(setup, "works", lambda python: python == "/usr/bin/python3.12")

    def replaced(path, arguments):
        assert path == "/usr/bin/python3.12"
        assert arguments[1].endswith("setup.py")
        assert arguments[2:] == ["--cpu"]
        raise SystemExit(0)

    monkeypatch.setattr(setup.os, "execv", replaced)
    with pytest.raises(SystemExit):
        setup.main(["--cpu"])


def test_the_windows_script_is_ascii_and_hands_everything_over():
    """An old PowerShell reads a script in the system's code page."""
    text = (ROOT / "scripts" / "setup.ps1").read_bytes().decode("ascii")
    options = re.findall(r"add_argument\(\"--([a-z]+)\"", (ROOT / "scripts" / "setup.py").read_text("utf-8"))
    assert options == ["cuda", "cpu", "force"]
    assert all(f'"--{option}"' in text for option in options)


def test_a_python_without_venv_is_told_how_to_get_it(setup, monkeypatch, capsys):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(setup.importlib, "import_module", absent)
    assert setup.main([]) == 4
    assert "python3-venv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "knows"), [("cuda: Optional[str] = None", False), ("cuda: str = '13.0'", True)]
)
@pytest.mark.parametrize("place", ["lib/python3.12", "Lib"])
def test_torchs_build_is_read_from_its_files(setup, text, knows, place):
    folder = Path(setup.ENVIRONMENT) / place / "site-packages" / "torch"
    folder.mkdir(parents=True)
    (folder / "version.py").write_text(f"__version__ = '2.13.0'\n{text}\nhip: Optional[str] = None\n")
    assert setup.torch_knows_cuda() is knows


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (
        line.partition(";")[0].strip().partition("==") for line in lines if line and not line.startswith("#")
    )
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in pairs}


def test_every_requirement_is_pinned_and_no_pin_names_a_build():
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in requirements()}
    assert names <= pins().keys()
    assert all(version and "+" not in version for version in pins().values())
    assert not pins().keys() & {"pip", "wheel", "lora-scripts"}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")
def test_make_help_lists_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(targets) >= {"setup", "demo", "demo-base", "demo-reference", "test", "test-long"}
    assert set(targets) >= {"test-all", "test-gpu"}
    assert set(targets) >= {"help", "lint", "type", "format", "check"}
    assert all(f"make {target} " in shown for target in targets)


def test_ci_runs_the_long_tests_too_and_no_test_is_in_neither_set():
    left_out = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]
    assert left_out["ini_options"]["addopts"].endswith("-m 'not long and not slow and not gpu'")
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ntest-long:")[2].splitlines()[1]
    assert recipe.endswith('pytest -m "long and not slow and not gpu" -n auto')
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert {"make test", "make test-long"} <= set(steps)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")
def test_make_says_when_python_is_missing():
    done = subprocess.run(
        ["make", "setup", "PYTHON=no-such-python"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed and 'no-such-python' was not found" in done.stderr
