"""Runs on several processes: how they are started, stopped and compared with a run on one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contract.conftest import ROOT, Desk, Done, environment, process

TWO = ("--set", "num_processes=2")
LAUNCHERS = {
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    "accelerate": (
        "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    ),
}  # fmt: skip
"""Words behind ``python`` that start the script named next in two processes."""


def events(desk: Desk, output: str) -> list[dict]:
    lines = (desk.root / output / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(desk: Desk, output: str) -> dict[int, float | None]:
    """Step -> loss; None where it was not finite."""
    return {each["step"]: each["data"]["loss"] for each in events(desk, output) if each["type"] == "step"}


def same_losses(desk: Desk, one: str, two: str) -> None:
    """A second run's losses are the first's within 1e-5."""
    first, second = losses(desk, one), losses(desk, two)
    assert first
    assert first.keys() == second.keys()
    for step, loss in first.items():
        assert second[step] == (loss if loss is None else pytest.approx(loss, rel=1e-5)), step


def train(desk: Desk, *words: object, launcher: str | None = None) -> Done:
    """``train.py --config run.yaml WORDS`` in processes of its own, behind a launcher or by itself."""
    before = LAUNCHERS[launcher] if launcher else ()
    return process(*before, ROOT / "train.py", "--config", "run.yaml", *words, cwd=desk.root)


def start(desk: Desk, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), "--config", "run.yaml", *words]
    return subprocess.Popen(
        command, cwd=desk.root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ranks_of(child: subprocess.Popen[str]) -> list[int]:
    """Process numbers of a run's ranks, in their order."""
    import psutil

    return sorted(each.pid for each in psutil.Process(child.pid).children())


def wait_for(path: Path, child: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not path.exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert path.exists(), child.communicate()[0]
