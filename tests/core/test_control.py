"""Requests through files and signals."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lora_scripts.core.control import Control


def test_control_files_are_taken_once_and_old_ones_removed(tmp_path):
    (tmp_path / "stop").touch()
    taken = []
    control = Control(tmp_path, taken.append)
    control.poll()
    assert not control.leaving, "a request from before the attempt is stale"
    (tmp_path / "save").touch()
    control.poll()
    assert control.take("save")
    assert not control.take("save")
    assert taken == ["save"]
    assert not (tmp_path / "save").exists()


def test_pause_holds_until_its_file_is_gone(tmp_path):
    control = Control(tmp_path)
    (tmp_path / "pause").touch()
    script = f"import time, os; time.sleep(0.6); os.remove({str(tmp_path / 'pause')!r})"
    remover = subprocess.Popen([sys.executable, "-c", script])
    control.poll()
    assert not (tmp_path / "pause").exists()
    remover.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_asks_to_stop(number, code):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    control = Control()
    try:
        control.install_signals()
        os.kill(os.getpid(), number)
        for _ in range(100):
            if control.leaving:
                break
            time.sleep(0.01)
        assert control.leaving
        assert control.exit_code == code
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def test_a_request_that_cannot_be_deleted_is_heeded_once(tmp_path, monkeypatch):
    """On a disk that has turned read-only its file stays."""
    control = Control(tmp_path)
    (tmp_path / "save").touch()

    def refuse(self, missing_ok=False):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "unlink", refuse)
        taken = []
        for _ in range(3):
            control.poll()
            taken.append(control.take("save"))
    assert taken == [True, False, False]
    (tmp_path / "save").unlink()
    control.poll()
    (tmp_path / "save").touch()
    control.poll()
    assert control.take("save")
