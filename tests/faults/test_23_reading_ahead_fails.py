"""Fault 23: there are no worker processes to die; one thread reads the next window ahead. What it cannot read
is tried again once, in the same order; then the run saves, says what and where, and stops."""

import threading

import pytest

from lora_scripts.training import batches
from lora_scripts.training.batches import Batches
from tests.faults.broken import QUICK, bytes_of, desk_of, saved


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(batches, "PAUSE", 0.0)


def failing(monkeypatch, number, times, error):
    """The first ``times`` readings of window ``number`` raise ``error``. Returns the threads that read."""
    readers = []
    left = [times]
    real = Batches.window

    def window(self, wanted):
        if wanted == number and left[0]:
            left[0] -= 1
            readers.append(threading.current_thread().name)
            raise error
        return real(self, wanted)

    monkeypatch.setattr(Batches, "window", window)
    return readers


@pytest.mark.long
@pytest.mark.parametrize("task", ["texts", pytest.param("pictures", marks=pytest.mark.slow)])
def test_what_cannot_be_read_once_is_read_again_and_no_bit_changes(task, request, monkeypatch):
    desk = desk_of(task, request)
    desk.config(**QUICK)
    assert desk.train("run.yaml", "--output-dir", "whole").code == 0
    readers = failing(monkeypatch, 7, 1, OSError(5, "Input/output error"))
    assert desk.train("run.yaml", "--output-dir", "again").code == 0
    assert readers[0].startswith("batches")
    assert bytes_of(desk, "whole", task) == bytes_of(desk, "again", task)


@pytest.mark.parametrize("task", ["texts", pytest.param("pictures", marks=pytest.mark.slow)])
def test_what_cannot_be_read_at_all_is_said_and_the_run_is_saved(task, request, monkeypatch):
    desk = desk_of(task, request)
    desk.config(**QUICK)
    failing(monkeypatch, 7, 2, OSError(5, "Input/output error"))
    done = desk.train("run.yaml", "--output-dir", "cut")
    assert done.code == 4, done.text
    assert "LS3903 the examples of step 8 cannot be read: Input/output error (" in done.err
    assert ("img" if task == "pictures" else "rows.jsonl:") in done.err
    assert "Traceback" not in done.text
    assert saved(desk, "cut")[-1] == "step-000007"
    monkeypatch.undo()
    again = desk.train("run.yaml", "--output-dir", "cut")
    assert again.code == 0, again.text
    assert "going on from step-000007" in again.out


def test_a_bug_in_the_thread_is_heard(request, monkeypatch):
    desk = desk_of("texts", request)
    desk.config(**QUICK)
    failing(monkeypatch, 7, 1, ValueError("odd rows"))
    done = desk.train("run.yaml", "--output-dir", "bug")
    assert done.code == 1, done.text
    assert "LS9001" in done.err
    assert "odd rows" in done.err
    assert "step-000006" in saved(desk, "bug")
