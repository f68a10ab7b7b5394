"""Fault 17, a lock that its process left behind: taken over where that process is dead for certain, said
where it was on another host, and left alone where it lives."""

import json
import os
import socket
import threading
import time

import psutil
import pytest

from lora_scripts.core import lock as locking
from lora_scripts.core.lock import RunLock
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.problems import ProblemsError
from tests.faults.test_16_two_processes import hold  # noqa: F401 - a fixture

HERE = socket.gethostname()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "HEARTBEAT_SECONDS", 0.2)
    folder = RunFolder(tmp_path / "run", "x")
    folder.root.mkdir()
    return folder


def left(folder, **owner):
    folder.lock.write_text(json.dumps({"pid": 1, "started": 0.0, "host": HERE} | owner))


def test_a_killed_process_frees_the_folder(tmp_path, hold):  # noqa: F811
    folder = RunFolder(tmp_path / "run", "x")
    holder = hold(folder.root)
    with pytest.raises(ProblemsError), RunLock(folder):
        pass
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(holder.pid).status() == psutil.STATUS_ZOMBIE, "its parent has not asked for it yet"
    assert json.loads(folder.lock.read_text())["pid"] == holder.pid
    with RunLock(folder) as lock:
        assert lock.left_behind is None
        assert json.loads(folder.lock.read_text())["pid"] == os.getpid()
    assert not folder.lock.exists()


def test_a_number_that_was_used_again_is_not_that_process(folder):
    left(folder, pid=os.getppid(), started=psutil.Process(os.getppid()).create_time() - 1000)
    with RunLock(folder) as lock:
        assert lock.left_behind is None


def test_a_living_process_keeps_its_folder_even_where_the_disk_enforces_no_lock(folder):
    left(folder, pid=os.getppid(), started=psutil.Process(os.getppid()).create_time())
    with pytest.raises(ProblemsError) as caught, RunLock(folder):
        pass
    problem = caught.value.problems[0]
    assert (problem.code, problem.params["pid"]) == ("LS5001", os.getppid())
    folder.lock.unlink()
    with RunLock(folder):  # the attempt has left nothing locked
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": 3}', "\x00" * 40])
def test_a_lock_that_was_half_written_is_nobodys(folder, text):
    folder.lock.write_text(text)
    with RunLock(folder):
        pass


def test_another_hosts_lock_is_taken_over_aloud_when_its_heart_has_stopped(folder):
    left(folder, host="elsewhere", pid=77)
    folder.heartbeat.touch()
    began = time.monotonic()
    with RunLock(folder) as lock:
        assert time.monotonic() - began >= 2 * locking.HEARTBEAT_SECONDS, "its heartbeat was watched"
        problem = lock.left_behind
    assert (problem.code, problem.severity) == ("LS5030", "warning")
    assert (problem.params["pid"], problem.params["host"]) == (77, "elsewhere")


def test_another_hosts_lock_is_left_alone_while_its_heart_beats(folder):
    left(folder, host="elsewhere", pid=77)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            folder.heartbeat.touch()
            os.utime(folder.heartbeat, (1, time.monotonic()))  # a clock of its own, years behind

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(ProblemsError) as caught, RunLock(folder):
            pass
    finally:
        stop.set()
        beating.join()
    problem = caught.value.problems[0]
    assert (problem.code, problem.params["host"]) == ("LS5001", "elsewhere")
    assert json.loads(folder.lock.read_text())["host"] == "elsewhere"


def test_a_run_says_whose_lock_it_took(make_text_desk, monkeypatch):
    monkeypatch.setattr(locking, "HEARTBEAT_SECONDS", 0.1)
    desk = make_text_desk()
    folder = RunFolder(desk.root / "output/run", "run")
    folder.root.mkdir(parents=True)
    left(folder, host="elsewhere", pid=77)
    done = desk.train(desk.config(output_dir="output/run", max_steps=1, logging={"tensorboard": False}))
    assert done.code == 0, done.text
    assert "LS5030 Warning: 'output/run' was in use by process 77 on elsewhere" in done.out
