"""Watching must not end a run."""

import pytest

from lora_scripts.core.events import ControlTaken, EventLog, Noted
from lora_scripts.training.bus import Bus, Tolerant
from lora_scripts.training.state import TrainingState


class Full:
    def __call__(self, event, step):
        raise OSError(28, "No space left on device")

    def close(self):
        raise OSError(28, "No space left on device")


class Hears:
    def __init__(self):
        self.heard = []

    def __call__(self, event, step):
        self.heard.append(event)

    def close(self):
        pass


def test_a_log_on_a_full_disk_is_told_once_and_the_others_go_on():
    bus, hears = Bus(TrainingState()), Hears()
    bus.add([Tolerant(Full(), bus.emit), hears])
    for _ in range(3):
        bus.emit(ControlTaken(request="save"))
    bus.close()
    assert sum(isinstance(event, ControlTaken) for event in hears.heard) == 3
    notes = [event for event in hears.heard if isinstance(event, Noted)]
    assert [note.code for note in notes] == ["LS5007"]
    assert "No space left on device" in notes[0].text


def test_a_line_that_does_not_fit_leaves_no_half_of_itself(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.write(ControlTaken(request="save"), 1)
    whole = (tmp_path / "events.jsonl").read_bytes()

    class Short:
        def __init__(self, handle):
            self.handle = handle

        def write(self, data):
            return self.handle.write(data[:10])

        def __getattr__(self, name):
            return getattr(self.handle, name)

    handle, log._handle = log._handle, Short(log._handle)
    with pytest.raises(OSError, match="No space left"):
        log.write(ControlTaken(request="stop"), 2)
    assert (tmp_path / "events.jsonl").read_bytes() == whole
    log._handle = handle
    log.write(ControlTaken(request="stop"), 2)
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2
