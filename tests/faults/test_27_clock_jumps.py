"""Fault 27, the clock jumps back or summer time ends: time left, file names and the log do not care."""

import json
import re
import time

import pytest

from lora_scripts.core.events import read_events
from lora_scripts.training.callbacks.console import ConsoleLines
from tests.faults.conftest import weights

OPTIONS = dict(max_steps=6, save_steps=2, output_name="same", validation={"split": 0.2})


@pytest.fixture
def backwards(monkeypatch):
    """A wall clock that is set back by an hour each time somebody looks."""
    now = [time.time()]

    def earlier():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    return now


def names(run):
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    return {re.sub(r"tfevents.*", "tfevents", name) for name in found}


@pytest.mark.long
def test_a_clock_that_runs_backwards_changes_nothing_but_times(
    make_text_desk, backwards, monkeypatch, at_step
):
    from lora_scripts.training.callbacks import console

    desk = make_text_desk()
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    run, straight = desk.root / "output/run", desk.root / "output/straight"
    at_step({3: (run / "control/stop").touch})
    config = desk.config(output_dir=str(run), **OPTIONS)
    for code, words in ((0, "Saved at step 4 of 6"), (0, "Done.")):
        done = desk.train(config)
        assert done.code == code, done.text
        assert words in done.out
        left = re.findall(r"ETA (\S+)", done.out)
        assert left
        assert all(re.fullmatch(r"\d+:\d\d(:\d\d)?", each) for each in left), left
        at_step({})
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["seq"] for event in events] == list(range(len(events)))
    times = [event["time"] for event in events]
    assert times == sorted(times, reverse=True), "the clock did run backwards"
    assert {event["attempt"] for event in events} == {1, 2}
    read = [event["step"] for event in read_events(run / "events.jsonl") if event["type"] == "step"]
    assert read == [1, 2, 3, 4, 5, 6]
    monkeypatch.undo()
    done = desk.train(desk.config(output_dir=str(straight), **OPTIONS))
    assert done.code == 0, done.text
    assert names(run) - names(straight) <= {name for name in names(run) if "000004" in name}, (
        "the stop's own save, and no name with a time in it"
    )
    assert weights(run) == weights(straight)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-3])
def test_a_step_that_a_coarse_clock_calls_no_time_at_all_has_a_speed(seconds):
    from rich.console import Console

    from lora_scripts.core.events import StepDone
    from tests.core.test_events import STEP

    lines = ConsoleLines(Console(quiet=True), "text-generation", 9, 0, 3)
    for step in range(1, 4):
        lines(StepDone(loss=1.0, examples=4, memory_gib=1.0, **STEP | {"seconds": seconds}), step)
    assert lines.rate > 0


def test_times_for_people_say_their_zone(make_text_desk, monkeypatch):
    """The hour that comes twice when summer time ends is told apart."""
    if not hasattr(time, "tzset"):
        pytest.skip("this system has no zone of a process's own")
    desk = make_text_desk()
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        real, started = time.strftime, []
        twice = (1792888200, 1792891800)  # 2026-10-25 02:30, in summer time and an hour later again
        for moment in twice:
            monkeypatch.setattr(time, "strftime", lambda form, at=moment: real(form, time.localtime(at)))
            output = f"output/{moment}"
            done = desk.train(desk.config(output_dir=output, max_steps=1, logging={"tensorboard": False}))
            assert done.code == 0, done.text
            told = json.loads((desk.root / output / "environment.json").read_text(encoding="utf-8"))
            started.append(told["started"])
    finally:
        monkeypatch.undo()
        time.tzset()
    assert started == ["2026-10-25T02:30:00+0200", "2026-10-25T02:30:00+0100"]
