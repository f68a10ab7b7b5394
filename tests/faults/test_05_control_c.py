"""Fault 5, Ctrl-C at a terminal: once saves and leaves with 130, twice leaves at once, with no traceback."""

import json
import os
import pty
import subprocess
import threading
import time
from contextlib import suppress

import pytest

from tests.faults.conftest import start, wait_for, whole_checkpoints

CONTROL_C = b"\x03"
OPTIONS = dict(
    max_steps=4000, save_steps=2, preview={"prompts": ["Where is my parcel?"], "max_new_tokens": 4}
)


class Terminal:
    """A run whose keyboard and screen are a terminal of our own."""

    def __init__(self, desk, config, first=""):
        self.ours, theirs = pty.openpty()
        screen = dict(stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)

        def take_terminal():
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = start(desk, config, first=first, **screen, preexec_fn=take_terminal)
        os.close(theirs)
        self.said = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        with suppress(OSError):  # the terminal is gone with its process
            while data := os.read(self.ours, 65536):
                self.said += data

    def press(self, key):
        os.write(self.ours, key)

    def wait_for(self, words):
        for _ in range(1200):
            if words in self.said:
                return
            time.sleep(0.05)
        raise AssertionError(self.said)

    def end(self, closed=False):
        if closed:
            os.close(self.ours)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.reader.join(10)
        if not closed:
            os.close(self.ours)
        return code, self.said.decode(errors="replace")


@pytest.mark.long
def test_once_saves_and_leaves_with_130(make_text_desk):
    desk = make_text_desk()
    terminal = Terminal(desk, desk.config(**OPTIONS))
    wait_for(desk.root / "output/voice/checkpoints/step-000002/manifest.json", terminal.process)
    terminal.press(CONTROL_C)
    code, said = terminal.end()
    assert code == 130, said
    assert "Press Ctrl-C again to leave at once" in said
    assert "Traceback" not in said
    saved = whole_checkpoints(desk.root / "output/voice")[-1]
    assert f"Saved at step {saved} of 4000" in " ".join(said.split())


@pytest.mark.slow
def test_a_terminal_that_is_closed_saves_too(make_text_desk):
    desk = make_text_desk()
    terminal = Terminal(desk, desk.config(**OPTIONS))
    wait_for(desk.root / "output/voice/checkpoints/step-000002/manifest.json", terminal.process)
    code, _ = terminal.end(closed=True)
    assert code == 129
    last = [json.loads(line) for line in (desk.root / "output/voice/events.jsonl").read_text().splitlines()][
        -1
    ]
    assert last["data"] == {"status": "stopped", "exit_code": 129}
    assert whole_checkpoints(desk.root / "output/voice")[-1] == last["step"]


ASLEEP = """
import pathlib, time
from lora_scripts.training.callbacks.validation import Evaluator

def measure(self):
    pathlib.Path("asleep").touch()
    time.sleep(600)

Evaluator.measure = measure
"""
"""A validation that takes ten minutes."""


@pytest.mark.long
def test_twice_leaves_at_once(make_text_desk):
    desk = make_text_desk()
    terminal = Terminal(desk, desk.config(**OPTIONS, validation={"split": 0.2}), first=ASLEEP)
    wait_for(desk.root / "asleep", terminal.process)
    terminal.press(CONTROL_C)
    terminal.wait_for(b"Press Ctrl-C again")
    terminal.press(CONTROL_C)
    code, said = terminal.end()
    assert code == 130, said
    assert "Traceback" not in said
    assert said.rstrip().endswith("\x1b[?25h"), "the cursor is given back"
    assert whole_checkpoints(desk.root / "output/voice") == []
