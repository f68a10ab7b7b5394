"""The command line's manners: language, exit codes, wrong words, encodings, and bugs of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_scripts import __version__
from lora_scripts.cli import main
from lora_scripts.core.catalogue import codes, language
from lora_scripts.core.problems import Location, Problem, ProblemsError

ROOT = Path(__file__).resolve().parents[2]


def in_a_process(
    *arguments: str, encoding: str = "utf-8", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "lora_scripts.cli.main", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": encoding} | environment,
        capture_output=True,
        check=False,
    )


def where_nobody_reads(*arguments: str, cwd: Path, **environment: str) -> int:
    """The exit code of a process that speaks into a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-m", "lora_scripts.cli.main", *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
            cwd=cwd, stdout=writer, stderr=writer, check=False,
        ).returncode  # fmt: skip
    finally:
        os.close(writer)


def replace_command(
    monkeypatch, name: str, error: BaseException | None = None, result: int | None = None
) -> None:
    def command() -> int | None:
        if error is not None:
            raise error
        return result

    module = __import__(f"lora_scripts.cli.{name}", fromlist=[name])
    monkeypatch.setattr(module, name, command)


def test_version(capsys):
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"lora-scripts {__version__}\n"


def test_help_lists_every_command(capsys):
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in main.COMMANDS)


@pytest.mark.parametrize("where", ["before", "after", "equals"])
def test_the_language_may_stand_anywhere(capsys, where):
    words = {
        "before": ["--lang", "zh", "explain", "LS1001"],
        "after": ["explain", "LS1001", "--lang", "zh"],
        "equals": ["explain", "--lang=zh", "LS1001"],
    }[where]
    assert main.run(words) == 0
    assert "无法读取配置文件" in capsys.readouterr().out


def test_help_speaks_the_language_asked_for():
    done = in_a_process("train", "--help", "--lang", "zh")
    assert done.returncode == 0
    assert "描述训练的 YAML 文件" in done.stdout.decode()


def test_an_unknown_language_is_refused(capsys):
    assert main.run(["--lang", "fr", "schema"]) == 2
    assert "one of en, zh" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("locale", "expected"), [("zh_CN.GBK", "zh"), ("zh_TW.UTF-8", "zh"), ("de_DE.UTF-8", "en"), ("C", "en")]
)
def test_the_language_follows_the_locale(monkeypatch, locale, expected):
    monkeypatch.delenv("LORA_SCRIPTS_LANG")
    monkeypatch.setenv("LC_ALL", locale)
    assert language() == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tarin"], "there is no command 'tarin' (did you mean train?)\n    → lora-scripts --help\n"),
        (["schema", "--markdwn"], "there is no option --markdwn (did you mean --markdown?)"),
        (["train"], "--config is missing\n    → lora-scripts train --help\n"),
        (["logs", "--port", "0"], "--port: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_words_are_said_plainly(capsys, words, expected):
    assert main.run(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(expected)
    assert captured.out == ""


def test_problems_become_lines_on_stderr_and_an_exit_code(capsys, monkeypatch):
    found = [
        Problem("LS1007", {"key": "lora"}, Location("x.yaml", 3, 1)),
        Problem("LS3007", {"wanted": 2, "found": 1}),
    ]
    replace_command(monkeypatch, "env", error=ProblemsError(found))
    assert main.run(["env"]) == 4
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "x.yaml:3:1 LS1007 unknown key 'lora'"
    assert lines[2].startswith("LS3007 ")
    assert lines[-1].startswith("Errors: 2. `lora-scripts explain LS1007`")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train --set a=1 b=2 --resume", "train --set a=1 --set b=2 --resume"),
        ("train --set a=1 --set b=2", "train --set a=1 --set b=2"),
        ("train --set a=1 --config x=y.yaml", "train --set a=1 --config x=y.yaml"),
        ("train --output-dir x=1 y=2", "train --output-dir x=1 y=2"),
    ],
)
def test_several_keys_may_follow_one_set(typed, meant):
    assert main._each_set(typed.split()) == meant.split()


def test_a_commands_number_is_the_exit_code(monkeypatch):
    replace_command(monkeypatch, "env", result=143)
    assert main.run(["env"]) == 143


def test_control_c_gives_130_and_no_traceback(capsys, monkeypatch):
    replace_command(monkeypatch, "env", error=KeyboardInterrupt())
    assert main.run(["env"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_is_named_and_its_traceback_goes_to_a_file(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("platformdirs.user_log_path", lambda *a, **k: tmp_path / "log")
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    replace_command(monkeypatch, "env", error=ZeroDivisionError("one by zero"))
    assert main.run(["env"]) == 1
    shown = capsys.readouterr().err
    (kept,) = (tmp_path / "log").iterdir()
    assert shown.startswith("LS9001 something inside lora-scripts went wrong: ZeroDivisionError: one by zero")
    assert str(kept) in shown
    assert "Traceback" not in shown
    assert "Traceback" in kept.read_text(encoding="utf-8")
    assert "hf_canary" not in kept.read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "utf-8"])
def test_every_console_can_be_spoken_to(encoding):
    done = in_a_process("explain", "LS1005", "--lang", "zh", encoding=encoding)
    assert done.returncode == 0
    readable = "utf-8" if encoding == "ascii" else encoding  # typer takes ascii for a forgotten setting
    assert "键" in done.stdout.decode(readable)


def test_a_reader_that_leaves_is_no_error():
    command = f'"{sys.executable}" -m lora_scripts.cli.main explain | head -n 1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""
    assert done.returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("told", [{}, {"PYTHONUNBUFFERED": "1"}, {"PYTHONIOENCODING": "ascii"}])
def test_what_is_wrong_decides_the_exit_code_where_nobody_reads_it(tmp_path, told):
    (tmp_path / "c.yaml").write_text("lora_rnk: 8\n", encoding="utf-8")
    assert where_nobody_reads("check", "--config", "c.yaml", cwd=tmp_path, **told) == 2
    assert where_nobody_reads("explain", cwd=tmp_path, **told) == 0


def test_explain_lists_every_code(capsys):
    assert main.run(["explain"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("LS")] == codes()


@pytest.mark.parametrize("code", ["LS1006", "ls1006", " LS1006 "])
def test_explain_tells_cause_remedy_and_example(capsys, code):
    assert main.run(["explain", code]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("LS1006  unknown key")
    assert "→ " in shown
    assert "Example:" in shown


def test_explain_an_unknown_code(capsys):
    assert main.run(["explain", "LS101"]) == 2
    assert capsys.readouterr().err.startswith("there is no code 'LS101' (did you mean LS10")


def test_env_names_versions_and_no_secrets(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    assert main.run(["env"]) == 0
    shown = capsys.readouterr().out
    assert f"lora-scripts {__version__}" in shown
    assert "torch 2." in shown
    assert "hf_canary" not in shown
