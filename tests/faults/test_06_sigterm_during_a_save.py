"""Fault 6, SIGTERM during a save: the save completes, once, and then the process leaves."""

import json
import os
import signal

from lora_scripts.core import files
from tests.faults.conftest import whole_checkpoints


def test_the_save_completes_once(any_desk, monkeypatch):
    desk = any_desk
    config = desk.config(max_steps=6, save_steps=2, output_dir="output/run", logging={"tensorboard": False})
    real, sent = os.fsync, []

    def fsync(handle):
        if not sent and ".tmp-" in os.readlink(f"/proc/self/fd/{handle}").partition("checkpoints")[2]:
            sent.append(handle)
            os.kill(os.getpid(), signal.SIGTERM)
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    done = desk.train(config)
    assert sent
    assert done.code == 143, done.text
    assert "Traceback" not in done.text
    run = desk.root / "output/run"
    assert whole_checkpoints(run) == [2]
    assert not list((run / "checkpoints").glob(".tmp-*"))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["step"] for event in events if event["type"] == "saved"] == [2]
    assert events[-1]["data"] == {"status": "stopped", "exit_code": 143}
