"""What a user meets who names a tracker: a missing package is said before training, secrets stay secret."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lora_scripts.core.packages import TRACKERS
from tests.contract.conftest import (  # noqa: F401 - fixtures
    ROOT,
    make_desk,
    make_text_desk,
    process,
    tiny_base,
    tiny_chat_base,
)

WANDB = """
import os
calls = []
class Settings:
    def __init__(self, **keywords): pass
class Image:
    def __init__(self, path): pass
class Run:
    url = "https://wandb.example/x"
    def __init__(self, id): self.id = id or "first"
    def define_metric(self, *a, **k): pass
    def log(self, values): open(os.environ["TOLD"], "a").write(repr(values) + "\\n")
    def finish(self, exit_code): open(os.environ["TOLD"], "a").write(f"end {self.id} {exit_code}\\n")
def login(prompt): return True
def init(**keywords):
    open(os.environ["TOLD"], "a").write(f"start {keywords['id']} {keywords['config']['lora_rank']}\\n")
    if os.environ.get("BROKEN"): raise ValueError("bad key " + os.environ["WANDB_API_KEY"])
    return Run(keywords["id"])
"""
CANARY = "canary-77aa55"


@pytest.fixture
def played(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds a ``wandb`` of ours, as if it were installed."""
    site = tmp_path / "site"
    (site / "wandb-9.0.dist-info").mkdir(parents=True)
    (site / "wandb-9.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: wandb\nVersion: 9.0\n")
    (site / "wandb.py").write_text(WANDB)
    return {"PYTHONPATH": str(site), "TOLD": str(tmp_path / "told.txt"), "WANDB_API_KEY": CANARY}


@pytest.fixture
def at_hand(played, monkeypatch) -> Path:
    """The same in this process; what was told to the library is in the file."""
    monkeypatch.syspath_prepend(played["PYTHONPATH"])
    monkeypatch.setenv("TOLD", played["TOLD"])
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    yield Path(played["TOLD"])
    sys.modules.pop("wandb", None)


def everything_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("name", TRACKERS)
def test_an_absent_library_is_said_before_training(make_desk, name):  # noqa: F811
    desk = make_desk()
    config = desk.config(logging={"trackers": [name], "tensorboard": False}, max_steps=1)
    package, _ = TRACKERS[name]
    try:
        __import__(name if name != "comet" else "comet_ml")
    except ImportError:
        pass
    else:
        pytest.skip(f"{name} is installed here")
    done = desk.train(config)
    assert done.code == 4, done.text
    assert "LS3020" in done.err
    assert f'-m pip install "{package}>=' in done.err
    assert not (desk.root / "output/my_style").exists()


@pytest.mark.long
def test_a_resumed_run_goes_on_in_the_tracker_and_no_key_is_written(
    make_text_desk,  # noqa: F811
    played,
    at_hand,
):
    desk = make_text_desk()
    desk.config(logging={"trackers": ["wandb"], "tensorboard": False}, max_steps=4, save_steps=2)
    first = desk.train("run.yaml", "--set", "max_steps=2")
    assert first.code == 0, first.text
    (desk.root / "output/voice/result.json").unlink()  # as if it had been killed before it was finished
    second = process(ROOT / "train.py", "--config", "run.yaml", cwd=desk.root, **played)
    assert second.code == 0, second.text
    told = at_hand.read_text().splitlines()
    assert [line for line in told if line.startswith(("start", "end"))] == [
        "start None 4", "end first 0", "start first 4", "end first 0",
    ]  # fmt: skip
    steps = [int(line.rpartition("'step': ")[2].rstrip("}")) for line in told if "'train/loss'" in line]
    assert steps == [1, 2, 3, 4]
    assert json.loads((desk.root / "output/voice/trackers.json").read_text()) == {"wandb": "first"}
    assert CANARY not in first.text + second.text
    assert CANARY.encode() not in everything_below(desk.root)


@pytest.mark.long
def test_a_tracker_that_refuses_does_not_end_the_run_and_the_key_is_not_said(
    make_text_desk,  # noqa: F811
    at_hand,
    monkeypatch,
):
    monkeypatch.setenv("BROKEN", "1")
    desk = make_text_desk()
    config = desk.config(logging={"trackers": ["wandb"], "tensorboard": False}, max_steps=2)
    done = desk.train(config)
    assert done.code == 0, done.text
    assert done.text.count("LS7200") == 1
    assert "bad key ***" in done.text
    assert at_hand.read_text() == "start None 4\n"
    assert CANARY.encode() not in done.text.encode() + everything_below(desk.root)


def test_nothing_is_sent_unless_named(make_text_desk, at_hand):  # noqa: F811
    desk = make_text_desk()
    done = desk.train(desk.config(logging={"tensorboard": False}, max_steps=1))
    assert done.code == 0, done.text
    assert not at_hand.exists()
