"""One process per folder, and requests through files and signals."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lora_scripts.core.control import Control
from lora_scripts.core.lock import RunLock
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.problems import ProblemsError

HOLD = """
import sys, time
from pathlib import Path
from lora_scripts.core.lock import RunLock
from lora_scripts.core.paths import RunFolder
with RunLock(RunFolder(Path(sys.argv[1]), "x")):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_frees_the_folder(tmp_path):
    folder = RunFolder(tmp_path / "run", "x")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.root)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(ProblemsError) as caught, RunLock(folder):
            pass
        problem = caught.value.problems[0]
        assert (problem.code, problem.params["pid"]) == ("LS5001", holder.pid)
        for _ in range(100):
            if folder.heartbeat.exists():
                break
            time.sleep(0.05)
        assert folder.heartbeat.exists()
    finally:
        holder.kill()
        holder.wait()
    with RunLock(folder):
        pass
    assert not folder.lock.exists()


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
