"""Row 1: kill -9 at a random moment of training. Every run is finished in the end, with equal bytes."""

import json
import os
import subprocess
import sys

import pytest

from lora_scripts.core.control import Control
from lora_scripts.training.callbacks.validation import Validation
from lora_scripts.training.state import TrainingState
from tests.contract.conftest import ROOT
from tests.torture.runs import IMAGES, TEXTS

KILLS = {IMAGES: 4, TEXTS: 16}


@pytest.mark.long
@pytest.mark.parametrize("task", KILLS)
def test_01_killed_at_random_moments_nothing_is_lost_and_the_bytes_are_equal(task):
    words = ["--task", task, "--kills", str(KILLS[task]), "--per-run", "20", "--seed", "8"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.kills", *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    kinds = [line["kind"] for line in said]
    assert kinds.count("kill") >= KILLS[task]
    assert kinds.count("run") >= 1
    wrong = [line for line in said if line["kind"] in ("lost", "failure")]
    wrong += [line for line in said if line["kind"] == "damage" and not line["noticed"]]
    assert not wrong
    assert said[0] == {"kind": "ready", "threads": 1} or sys.platform != "linux"


@pytest.mark.parametrize(("without_gain", "leaves"), [(1, False), (2, True), (3, True)])
def test_01_an_early_end_that_was_decided_before_the_kill_is_still_meant(without_gain, leaves):
    """The checkpoint of that step says so; otherwise a resumed run would train on past the end."""
    state = TrainingState(step=6, loss_before=1.0, validations_without_gain=without_gain)
    control = Control()
    steps = {"every_steps": 2, "total_steps": 20, "patience": 2}
    Validation(None, state, control, lambda event: None, **steps).before()
    assert control.leaving is leaves
