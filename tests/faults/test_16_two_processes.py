"""Fault 16, two processes on one output_dir: the second is refused with the first's process and host."""

import socket
import subprocess
import sys
import time

import pytest

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


@pytest.fixture
def hold():
    """``hold(root)``: another process that holds the folder, until the test is over."""
    held = []

    def start(root):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True)
        held.append(process)
        assert process.stdout.readline().strip() == "held"
        return process

    yield start
    for process in held:
        process.kill()
        process.communicate()


def test_the_second_is_refused_and_touches_nothing(any_desk, hold):
    run = any_desk.root / "output/run"
    holder = hold(run)
    for _ in range(100):
        if (run / "heartbeat").exists():
            break
        time.sleep(0.05)
    before = {path.name: path.stat().st_size for path in run.iterdir()}
    assert "heartbeat" in before
    config = any_desk.config(output_dir=str(run), max_steps=2)
    for words in ((), ("--resume",), ("--overwrite",)):
        done = any_desk.train(config, *words)
        assert done.code == 2, done.text
        assert "LS5001" in done.err
        assert f"(process {holder.pid} on {socket.gethostname()})" in done.err
        assert "Traceback" not in done.text
    assert {path.name: path.stat().st_size for path in run.iterdir()} == before


def test_a_folder_that_was_deleted_and_taken_by_another_is_not_taken_back(tmp_path, hold):
    import shutil

    folder = RunFolder(tmp_path / "run", "x")
    with RunLock(folder) as lock:
        shutil.rmtree(folder.root)
        holder = hold(folder.root)
        with pytest.raises(ProblemsError) as caught:
            lock.renew()
        assert caught.value.problems[0].params["pid"] == holder.pid
