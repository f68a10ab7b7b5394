"""A token in the environment, a password in an address, and what a user wrote: looked for in everything
that a run leaves and says, and in the report about it."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from tests.contract.conftest import Done, command, make_desk, make_text_desk, tiny_base, tiny_chat_base  # noqa: F401

SECRETS = {
    "HF_TOKEN": "hf_canaryAAAAAAAAAAAAAAAA1",
    "HUGGING_FACE_HUB_TOKEN": "canary-hub-22",
    "WANDB_API_KEY": "canary-wandb-33",
    "COMET_API_KEY": "canary-comet-44",
    "AWS_SECRET_ACCESS_KEY": "canary-aws-55",
    "MY_PASSWORD": "canary-password-66",
    "LORA_SCRIPTS_LABEL_KEY": "canary-label-77",
}


@pytest.fixture
def secrets(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def leaks(folder: Path, *texts: str) -> list[str]:
    """Which secrets stand in which files below ``folder``, however they are packed, or in ``texts``."""
    found = [f"said: {name}" for name, value in SECRETS.items() for text in texts if value in text]
    for path in folder.rglob("*"):
        if path.is_file():
            parts = [path.read_bytes()]
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    parts += [archive.read(name) for name in archive.namelist()]
            found += [
                f"{path.relative_to(folder)}: {n}"
                for n, v in SECRETS.items()
                if any(v.encode() in p for p in parts)
            ]
    return found


@pytest.mark.long
def test_no_secret_is_in_anything_a_run_leaves_or_says(make_desk, secrets):  # noqa: F811
    desk = make_desk()
    preview = {"prompts": ["a red house"], "steps": 1, "width": 16, "height": 16}
    done = desk.train(desk.config(max_steps=2, save_steps=1, preview=preview))
    assert done.code == 0, done.text
    assert "HF_TOKEN" not in os.environ, "what trains has no hub's token"
    report = desk.cli("bug-report", "output/my_style", "--output", "report.zip")
    assert report.code == 0, report.text
    assert leaks(desk.root, done.text, report.text) == []
    found = leaks(desk.root, "a secret that leaks: canary-aws-55")
    assert found == ["said: AWS_SECRET_ACCESS_KEY"], "the search finds what is there"


def test_a_run_that_fails_says_no_secret(make_desk, secrets, monkeypatch):  # noqa: F811
    """The hub's address with a password in it, and a token typed where none belongs."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://me:canary-password-66@127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    desk = make_desk()
    config = desk.config(base_model="owner/name")
    done = desk.train(config, "--set", f"output_name={SECRETS['MY_PASSWORD']}")
    assert done.code == 2, done.text
    assert "LS4006" in done.err
    (desk.root / "run.yaml").unlink()
    assert leaks(desk.root, done.text) == []


PRIVATE = {
    "prompt": "Purple elephants of Anneliese",
    "system": "You are the butler of Schloss Canary",
    "caption": "a red house, number 3",
}


def entries(report: Path) -> dict[str, str]:
    with zipfile.ZipFile(report) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture
def somebody(tmp_path, monkeypatch) -> Path:
    home = tmp_path / "home" / "anneliese"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "anneliese")
    return home


def planted(run: Path, home: Path) -> None:
    """Canaries in every file that the report reads."""
    token, password = SECRETS["HF_TOKEN"], SECRETS["MY_PASSWORD"]
    with open(run / "events.jsonl", "a", encoding="utf-8") as log:
        for data in (
            {"code": "LS7200", "text": f"denied for {token} at {home}/models"},
            {"code": "LS2037", "text": f"'{PRIVATE['caption']}' is odd"},
            {"files": [], "texts": [PRIVATE["prompt"]]},
        ):
            kind = "preview" if "texts" in data else "note"
            log.write(json.dumps({"v": 1, "seq": 9, "step": 1, "type": kind, "data": data}) + "\n")
        log.write('{"torn": "' + token)
    environment = json.loads((run / "environment.json").read_text())
    environment["command"] = ["train.py", "--set", f"api_key={password}", "C:\\Users\\anneliese\\x"]
    (run / "environment.json").write_text(json.dumps(environment))
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(
        json.dumps(result | {"folder": str(home), "prompts": [PRIVATE["prompt"]]})
    )


def test_a_report_holds_what_helps_and_nothing_that_is_the_user_s(
    make_text_desk, secrets, somebody, monkeypatch, tmp_path  # noqa: F811
):  # fmt: skip
    from lora_scripts.cli import console

    desk = make_text_desk()
    config = desk.config(
        max_steps=2, save_steps=1, system=PRIVATE["system"],
        preview={"prompts": [PRIVATE["prompt"]], "max_new_tokens": 2},
    )  # fmt: skip
    done = desk.train(config)
    assert done.code == 0, done.text
    run = desk.root / "output" / "voice"
    planted(run, somebody)
    monkeypatch.setattr(console, "_crash_folders", lambda: (tmp_path / "crashes",))
    monkeypatch.setattr(
        "sys.argv", ["lora-scripts", "chat", "--ask", PRIVATE["prompt"], f"--x={SECRETS['HF_TOKEN']}"]
    )
    console.save_crash(ValueError(f"{somebody}/data: {SECRETS['WANDB_API_KEY']}"))
    log = tmp_path / "console.log"
    log.write_text(f"{done.text}\n{PRIVATE['prompt']}\npassword={SECRETS['MY_PASSWORD']}\n{somebody}\n")
    said = desk.cli("bug-report", "output/voice", "--output", "report.zip", "--log", log)
    assert said.code == 0, said.text
    assert "Nothing was sent" in said.out
    found = entries(desk.root / "report.zip")
    assert set(found) == {
        "environment.txt", "packages.txt", "run/config.yaml", "run/environment.json", "run/result.json",
        "run/events.jsonl", "run/files.txt", "console.txt",
        *(n for n in found if n.startswith("crashes/crash-")),
    }  # fmt: skip
    assert len(found) == 9
    assert all(name in said.out for name in found)
    whole = "\n".join(found.values())
    assert not [name for name, value in SECRETS.items() if value in whole]
    assert not [name for name, text in PRIVATE.items() if text in whole]
    assert "anneliese" not in whole.lower()
    assert os.uname().nodename not in found["run/environment.json"]
    # what helps is there
    assert "lora_rank: 4" in found["run/config.yaml"]
    assert json.loads(found["run/result.json"])["step"] == 2
    assert '"type": "run_ended"' in found["run/events.jsonl"]
    assert "LS7200" in found["run/events.jsonl"]
    assert "torch==" in found["packages.txt"]
    crash = next(text for name, text in found.items() if name.startswith("crashes/"))
    assert "ValueError: ~/data: ***" in crash
    assert "checkpoints/step-000002/adapter.safetensors" in found["run/files.txt"]


def test_captions_are_in_it_on_request_and_secrets_are_not(make_text_desk, secrets):  # noqa: F811
    desk = make_text_desk()
    config = desk.config(max_steps=1, save_steps=1, system=PRIVATE["system"])
    assert desk.train(config).code == 0
    said = desk.cli("bug-report", "output/voice", "--output", "report.zip", "--with-captions")
    found = entries(desk.root / "report.zip")
    assert PRIVATE["system"] in found["run/config.yaml"]
    assert not [name for name, value in SECRETS.items() if value in "\n".join(found.values()) + said.text]


def test_a_report_without_a_run_and_of_no_run(tmp_path):
    done: Done = command("bug-report", cwd=tmp_path)
    assert done.code == 0, done.text
    (report,) = tmp_path.glob("lora-scripts-report-*.zip")
    assert {"environment.txt", "packages.txt"} <= set(entries(report))
    done = command("bug-report", tmp_path, cwd=tmp_path)
    assert done.code == 2
    assert "LS5020" in done.err
