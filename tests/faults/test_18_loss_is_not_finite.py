"""Fault 18: a loss that is no number. The window is skipped; three running, and the run goes back with half
the rate; after two times it stops and names the examples. What is written stays finite."""

import math

import pytest
import torch

from lora_scripts.core.control import Control
from lora_scripts.core.events import RolledBack
from lora_scripts.training import recovery
from lora_scripts.training.callbacks.board import TensorBoard
from lora_scripts.training.callbacks.guard import Guard
from tests.faults.broken import (
    QUICK,
    TASKS,
    all_finite,
    bytes_of,
    desk_of,
    done,
    events,
    poison,
    raw,
    saved,
    state_of,
    steps_of,
    unfinish,
)

HERE = {"pictures": "step 8: 3 windows in a row were not finite", "texts": "第 8 步：连续 3 个批次不是有限数"}
WAY_BACK = {"pictures": "Back to step 4, with 0.5 times", "texts": "退回到第 4 步，学习率变为原来的 0.5 倍"}


@pytest.mark.long
@pytest.mark.parametrize("task", ["texts", pytest.param("pictures", marks=pytest.mark.slow)])
def test_a_run_goes_back_and_ends_well_and_resumes_bit_for_bit(task, request, monkeypatch):
    """Steps 6 to 8 are no numbers; the save of step 4 is the newest that a good window followed."""
    desk = desk_of(task, request)
    desk.config(**QUICK)
    poison(monkeypatch, (6, 7, 8))
    lang = ("--lang", "zh") if task == "texts" else ()
    whole = desk.train("run.yaml", "--output-dir", "whole", *lang)
    assert whole.code == 0, whole.text
    assert HERE[task] in whole.out
    assert WAY_BACK[task] in whole.out
    (event,) = raw(desk, "whole", "rolled_back")
    assert (event["cause"], event["from_step"], event["to_step"]) == ("not_finite", 8, 4)
    assert event["rate_factor"] == 0.5
    assert 4 < len(event["examples"]) <= 12
    assert steps_of(desk, "whole") == list(range(1, 13)), "a reader sees every step once"
    rates = [next(iter(each["data"]["learning_rates"].values())) for each in events(desk, "whole", "step")]
    assert rates == [2e-3] * 4 + [1e-3] * 8
    result = desk.result("whole")
    assert (result["skipped"], result["rollbacks"], result["updates"]) == (3, 1, 12)
    assert all_finite(desk.root / "whole")

    monkeypatch.undo()
    poison(monkeypatch, (6, 7, 8))  # cut after the rollback
    assert desk.train("run.yaml", "--output-dir", "cut", "--set", "max_steps=8").code == 0
    unfinish(desk, "cut")
    assert state_of(desk, "cut", 8)["rollbacks"] == [4]
    monkeypatch.undo()
    assert desk.train("run.yaml", "--output-dir", "cut").code == 0
    assert bytes_of(desk, "whole", task) == bytes_of(desk, "cut", task)


@pytest.mark.long
def test_a_run_that_is_cut_while_windows_go_wrong_goes_back_as_if_it_had_not_been(request, monkeypatch):
    desk = desk_of("texts", request)
    desk.config(**QUICK)
    poison(monkeypatch, (6, 7, 8))
    assert desk.train("run.yaml", "--output-dir", "whole").code == 0
    monkeypatch.undo()
    poison(monkeypatch, (6, 7))
    assert desk.train("run.yaml", "--output-dir", "cut", "--set", "max_steps=7").code == 0
    unfinish(desk, "cut")
    assert state_of(desk, "cut", 7)["trouble_since"] == 6
    monkeypatch.undo()
    poison(monkeypatch, (1,))
    done = desk.train("run.yaml", "--output-dir", "cut")
    assert done.code == 0, done.text
    assert "going on from step-000007" in done.out
    assert [each["to_step"] for each in raw(desk, "cut", "rolled_back")] == [4]
    assert bytes_of(desk, "whole", "texts") == bytes_of(desk, "cut", "texts")


@pytest.mark.long
def test_the_checkpoint_to_go_back_to_outlives_those_of_the_trouble(request, monkeypatch):
    desk = desk_of("texts", request)
    desk.config(**QUICK | {"save_steps": 1, "keep_checkpoints": 1})
    poison(monkeypatch, (6, 7, 8))
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    (event,) = raw(desk, "one", "rolled_back")
    assert event["to_step"] == 5, "of the only one kept, no window says whether it is sound: it is tried"
    desk.config(**QUICK | {"save_steps": 1, "keep_checkpoints": 2})
    monkeypatch.undo()
    poison(monkeypatch, (6, 7, 8))
    assert desk.train("run.yaml", "--output-dir", "two").code == 0
    assert [each["to_step"] for each in raw(desk, "two", "rolled_back")] == [4]


@pytest.mark.long
def test_without_a_checkpoint_it_begins_anew(request, monkeypatch):
    desk = desk_of("texts", request)
    desk.config(**QUICK | {"save_steps": 12, "ema_decay": 0.9, "optimizer": "schedulefree"})
    poison(monkeypatch, (3, 4, 5))
    seen = []

    def look(self, error):
        job, start = self.session.job, self.session.start
        before = [not torch.equal(p, start.adapter[name]) for name, p in job.parameters.items()]
        real(self, error)
        same = [torch.equal(p, start.adapter[name]) for name, p in job.parameters.items()]
        average = [torch.equal(value, start.adapter[name]) for name, value in job.average.values.items()]
        seen.append((any(before), all(same), all(average), len(job.optimizer.state), self.state.updates))

    real = recovery.Recovery._roll_back
    monkeypatch.setattr(recovery.Recovery, "_roll_back", look)
    done = desk.train("run.yaml", "--output-dir", "new")
    assert done.code == 0, done.text
    assert seen == [(True, True, True, 0, 0)]
    (event,) = raw(desk, "new", "rolled_back")
    assert event["to_step"] == 0
    assert steps_of(desk, "new") == list(range(1, 13))


@pytest.mark.parametrize("task", ["texts", pytest.param("pictures", marks=pytest.mark.long)])
def test_after_two_rollbacks_it_stops_and_names_what_was_learnt(task, request, monkeypatch):
    desk = desk_of(task, request)
    desk.config(**QUICK)
    poison(monkeypatch, range(6, 1000))
    done = desk.train("run.yaml", "--output-dir", "bad")
    assert done.code == 5, done.text
    assert "LS6001 3 windows in a row up to step 5" in done.err
    assert ("img" if task == "pictures" else "rows.jsonl:") in done.err
    assert "learning_rate" in done.err
    assert "Traceback" not in done.text
    assert [each["to_step"] for each in raw(desk, "bad", "rolled_back")] == [4, 2]
    assert saved(desk, "bad") == ["step-000002", "step-000004"]
    assert all_finite(desk.root / "bad")
    assert not (desk.root / "bad/result.json").exists()


class Planted:
    """Makes one weight NaN after a step, as an update gone wrong would."""

    def __init__(self, monkeypatch, step, average=False):
        self.step = step
        self.average = average
        real = Guard.__call__

        def call(guard, event, step):
            if event.type == "step" and step == self.step:
                self.step = None
                self.spoil()
            real(guard, event, step)

        monkeypatch.setattr(Guard, "__call__", call)
        fit = recovery.fit

        def keep(job, *more):
            self.job = job
            fit(job, *more)

        monkeypatch.setattr(recovery, "fit", keep)

    def spoil(self):
        values = self.job.average.values if self.average else self.job.parameters
        with torch.no_grad():
            list(values.values())[-1].flatten()[0] = math.nan


@pytest.mark.parametrize(
    "average", [False, pytest.param(True, marks=pytest.mark.long)], ids=["weights", "average"]
)
def test_weights_that_are_not_finite_are_never_written(average, request, monkeypatch):
    desk = desk_of("texts", request)
    desk.config(**QUICK | {"ema_decay": 0.9})
    Planted(monkeypatch, 6, average)
    done = desk.train("run.yaml", "--output-dir", "bad")
    assert "LS6003 Warning: step 6 is not saved: the weights are not finite any more (" in done.out
    assert all_finite(desk.root / "bad")
    if average:  # nothing that is learnt from tells, so the run goes on until it has to be saved
        assert done.code == 5, done.text
        assert "LS6003" in done.err
        assert "step-000004" in saved(desk, "bad")
    else:
        assert done.code == 0, done.text
        assert [each["to_step"] for each in raw(desk, "bad", "rolled_back")] == [4]


@pytest.mark.slow
def test_weights_of_a_picture_run_that_are_not_finite_are_never_written(request, monkeypatch):
    desk = desk_of("pictures", request)
    desk.config(**QUICK)
    Planted(monkeypatch, 12)
    done = desk.train("run.yaml", "--output-dir", "bad")
    assert done.code == 5, done.text
    assert "LS6003 step 12 is not saved" in done.err
    assert saved(desk, "bad")[-1] == "step-000010"
    assert all_finite(desk.root / "bad")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor", "prodigy", "schedulefree"])
def test_every_optimizer_goes_back_and_resumes_bit_for_bit(task, optimizer, request, monkeypatch):
    desk = desk_of(task, request)
    average = None if optimizer == "schedulefree" else 0.9
    rate = 1.0 if optimizer == "prodigy" else 2e-3
    desk.config(**QUICK | {"optimizer": optimizer, "ema_decay": average, "learning_rate": rate})
    poison(monkeypatch, (6, 7, 8))
    assert desk.train("run.yaml", "--output-dir", "whole").code == 0
    monkeypatch.undo()
    poison(monkeypatch, (6, 7, 8))
    assert desk.train("run.yaml", "--output-dir", "cut", "--set", "max_steps=8").code == 0
    unfinish(desk, "cut")
    monkeypatch.undo()
    assert desk.train("run.yaml", "--output-dir", "cut").code == 0
    assert bytes_of(desk, "whole", task) == bytes_of(desk, "cut", task)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_fp16_skips_are_no_fault_and_five_and_twenty_are(task, request, monkeypatch):
    desk = desk_of(task, request)
    desk.config(**QUICK | {"mixed_precision": "fp16", "max_steps": 40, "save_steps": 10})
    poison(monkeypatch, range(12, 36))
    done = desk.train("run.yaml", "--output-dir", "few")
    assert done.code == 0, done.text
    assert not raw(desk, "few", "rolled_back")
    assert "not finite" not in done.out
    monkeypatch.undo()
    poison(monkeypatch, range(12, 37))
    done = desk.train("run.yaml", "--output-dir", "many")
    assert done.code == 0, done.text
    assert [each["to_step"] for each in raw(desk, "many", "rolled_back")] == [10]


def test_the_board_forgets_what_was_given_up(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"start_step": 0, "every_steps": 1, "histogram_every_steps": 1000}
    board = TensorBoard(tmp_path / "logs", {}, tmp_path, **options)
    for step in range(1, 6):
        board(done(float(step)), step)
    told = {"cause": "spike", "windows": 10, "rate_factor": 0.5, "examples": []}
    board(RolledBack(from_step=5, to_step=2, **told), 2)
    board(done(30.0), 3)
    board.close()
    shown = EventAccumulator(str(tmp_path / "logs"))
    shown.Reload()
    assert [(each.step, each.value) for each in shown.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]


def test_the_guard_asks_nothing_of_a_run_that_is_left(request, monkeypatch):
    """A stop that is asked for while windows go wrong is heeded first; the state says since when they do."""
    desk = desk_of("texts", request)
    desk.config(**QUICK)
    poison(monkeypatch, (6, 7, 8))
    real = Control.poll
    monkeypatch.setattr(Control, "poll", lambda self: (real(self), stop(self))[0])

    def stop(control):
        log = desk.root / "left/events.jsonl"
        if log.exists() and '"step": 6, "type": "step"' in log.read_text(encoding="utf-8"):
            control.request("stop")

    done = desk.train("run.yaml", "--output-dir", "left")
    assert done.code == 0, done.text
    left = saved(desk, "left")[-1]
    assert state_of(desk, "left", int(left.removeprefix("step-")))["trouble_since"] == 6
