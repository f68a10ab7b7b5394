"""S15: secrets come from the environment and are in nothing that is written or said. S16: what trains has no
hub's token any more. Row 48 of the fault table looks through a whole run: tests/faults/test_48_tokens.py."""

from __future__ import annotations

import os

import pytest

from lora_scripts.cli import console
from lora_scripts.core.problems import Problem
from lora_scripts.core.secrets import HUB_TOKENS, drop_hub_tokens, without_named_secrets, without_secrets

HF = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    "text",
    [
        f"401 for {HF} at /api",
        "Authorization: Bearer abcdef.123456-xyz",
        "https://me:sesame-77@hub.example/x",
        "sk-proj-abcdefghijklmnop1234",
        "ghp_abcdefghijklmnopqrst1234",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abcdef-123456",
    ],
)
def test_s15_what_looks_like_a_token_is_masked_whosever_it_is(text):
    shown = without_secrets(text)
    assert "***" in shown
    assert not any(
        part in shown for part in (HF, "abcdef.123456", "sesame-77", "proj-abc", "qrst1234", "eyJzdWI")
    )


@pytest.mark.parametrize(
    "text", ["max_new_tokens: 128", "lora_rank: 8", "the token </s> ends it", "key: value"]
)
def test_s15_plain_words_stay(text):
    assert without_secrets(text) == text
    assert without_named_secrets(text) == text


def test_s15_secrets_in_files_of_the_user_are_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "hub-token"))
    (tmp_path / "hub-token").write_text("canary-of-a-file\n")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password canary-of-netrc\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert without_secrets("canary-of-a-file and canary-of-netrc") == "*** and ***"


def test_s15_values_with_a_name_are_masked_where_a_text_leaves_the_computer():
    text = 'wandb_api_key: 12345abc, "password": "tulip", hf_token=zzzz1'
    assert without_named_secrets(text) == 'wandb_api_key: ***, "password": "***", hf_token=***'


def test_s15_neither_the_screen_nor_a_crash_shows_one(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SOME_API_KEY", "canary-9981")
    monkeypatch.setattr(console, "_crash_folders", lambda: (tmp_path,))
    console.print_problems([Problem("LS9001", {"error": "no entry for canary-9981", "path": "x"})])
    assert "canary-9981" not in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["lora-scripts", "train", "--set", "x=canary-9981"])
    path = console.save_crash(ValueError("denied: canary-9981"))
    assert "denied: ***" in path.read_text()
    assert "canary-9981" not in path.read_text()


def test_s15_an_internal_error_points_to_the_report(monkeypatch, capsys):
    from lora_scripts.cli import explain, main

    def fails():
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(explain, "explain", fails)
    assert main.run(["explain"]) == 1
    said = capsys.readouterr().err
    assert "LS9001" in said
    assert "lora-scripts bug-report" in said


def test_s16_hub_tokens_leave_the_environment_and_a_tracker_s_stay(monkeypatch):
    for name in (*HUB_TOKENS, "WANDB_API_KEY"):
        monkeypatch.setenv(name, "canary-1")
    drop_hub_tokens()
    assert not set(HUB_TOKENS) & set(os.environ)
    assert os.environ["WANDB_API_KEY"] == "canary-1"


def test_s16_the_processes_of_a_run_start_without_hub_tokens(monkeypatch):
    from lora_scripts.training import launch

    started = []

    class Child:
        returncode = 0

        def __init__(self, command, env):
            started.append(env)

        def poll(self):
            return 0

        def wait(self, seconds=None):
            return 0

    monkeypatch.setattr(launch.subprocess, "Popen", Child)
    monkeypatch.setenv("HF_TOKEN", "canary-2")
    monkeypatch.setenv("WANDB_API_KEY", "canary-3")
    launch.run_processes(2, ["train"])
    assert len(started) == 2
    assert all("HF_TOKEN" not in env and env["WANDB_API_KEY"] == "canary-3" for env in started)
