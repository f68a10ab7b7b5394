"""Fault 20: a loss that leaves its range and stays there. Ten steps running, and the run goes back; noise,
odd pictures and restarting learning rates are no spikes."""

import math
import random
from types import SimpleNamespace

import pytest

from lora_scripts.training.callbacks.guard import ENOUGH, SPIKE, DivergedError, Guard
from lora_scripts.training.state import TrainingState
from tests.faults.broken import (
    QUICK,
    bytes_of,
    desk_of,
    done,
    poison,
    raw,
    state_of,
    steps_of,
    unfinish,
)

NAMES = SimpleNamespace(names=lambda number: [f"picture {number}"])
PRECISION = SimpleNamespace(mode="no")


def guard(state=None, spikes=True):
    return Guard(state or TrainingState(), NAMES, PRECISION, lambda event: None, spikes=spikes)


def first_alarm(losses, watch=None):
    """The step at which a guard speaks, or None."""
    watch = watch or guard()
    for step, loss in enumerate(losses, 1):
        try:
            watch(done(loss), step)
        except DivergedError:
            return step
    return None


def healthy(count, seed=1, spread=1.5):
    """Losses of one picture at a time: over two orders of magnitude, as diffusion has them."""
    draw = random.Random(seed)
    return [0.1 * math.exp(draw.gauss(0, spread)) for _ in range(count)]


def test_ten_running_are_a_spike_and_nine_are_not():
    calm = [1.0 + 0.01 * (-1) ** n for n in range(60)]
    assert first_alarm([*calm, *[2.0] * (SPIKE - 1), 1.0, *[2.0] * (SPIKE - 1)]) is None
    assert first_alarm([*calm, *[2.0] * SPIKE]) == 60 + SPIKE
    assert first_alarm([*calm, *[1.4] * 100]) is None, "many deviations, but no half above the mean"
    assert first_alarm([2.0] * ENOUGH + [2.5, 1.5] * 20 + [3.1] * 100) is None, "half more, few deviations"


def test_a_spike_names_its_first_window_and_what_was_learnt_in_it():
    watch = guard()
    assert first_alarm([*[1.0] * 60, *[9.0] * (SPIKE - 1)], watch) is None
    with pytest.raises(DivergedError) as caught:
        watch(done(9.0), 60 + SPIKE)
    assert (caught.value.cause, caught.value.since) == ("spike", 61)
    assert caught.value.examples == [f"picture {number}" for number in range(60, 70)]


def test_a_guard_that_is_resumed_in_the_midst_of_a_spike_speaks_at_the_same_step():
    losses = [*healthy(200), *[500.0] * SPIKE]
    first = guard()
    assert first_alarm(losses[:205], first) is None
    again = TrainingState()
    again.restore(first.state.to_json())
    assert (again.spiking, again.trouble_since) == (5, 201)
    second = guard(again)
    for step in range(206, 210):
        second(done(losses[step - 1]), step)
    with pytest.raises(DivergedError):
        second(done(losses[209]), 210)


def test_a_state_of_an_older_version_is_taken_over():
    older = TrainingState(step=7, updates=6).to_json()
    known = {name: older[name] for name in ("step", "updates", "skipped_in_a_row", "best_loss")}
    state = TrainingState(rollbacks=[3])
    state.restore(known)
    assert state == TrainingState(step=7, updates=6)


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5, 2.0])
def test_noise_of_one_picture_at_a_time_is_no_spike(spread):
    assert first_alarm(healthy(40_000, seed=3, spread=spread)) is None


def test_a_few_hard_pictures_and_a_new_start_of_the_rate_are_no_spikes():
    draw = random.Random(5)
    hard = [3.0 if draw.random() < 0.05 else 0.05 * math.exp(draw.gauss(0, 0.3)) for _ in range(40_000)]
    assert first_alarm(hard) is None
    restart = [2.0 - 0.5 * min(1, n % 400 / 300) + draw.gauss(0, 0.01) for n in range(4000)]
    assert first_alarm(restart) is None
    learnt = [3 * math.exp(-n / 100) + 0.3 + draw.gauss(0, 0.03) for n in range(4000)]
    assert first_alarm(learnt) is None


def test_losing_what_was_learnt_is_a_spike_in_noise_as_well():
    """Batches of four pictures, and a loss that grows hundredfold."""
    noisy = healthy(4 * 1000, spread=1.0)
    losses = [sum(noisy[n : n + 4]) / 4 for n in range(0, len(noisy), 4)]
    assert first_alarm(losses) is None
    assert first_alarm([*losses, *(100 * loss for loss in losses[:50])]) == len(losses) + SPIKE


@pytest.mark.long
@pytest.mark.parametrize("task", ["texts", pytest.param("pictures", marks=pytest.mark.slow)])
def test_a_run_goes_back_once_and_resumes_bit_for_bit(task, request, monkeypatch):
    desk = desk_of(task, request)
    desk.config(**QUICK | {"batch_size": 1, "max_steps": 72, "save_steps": 20})
    poison(monkeypatch, range(58, 68), factor=300.0)
    whole = desk.train("run.yaml", "--output-dir", "whole")
    assert whole.code == 0, whole.text
    (event,) = raw(desk, "whole", "rolled_back")
    assert (event["cause"], event["from_step"], event["to_step"]) == ("spike", 67, 40)
    assert "far above its mean for 10 windows in a row" in whole.out
    assert steps_of(desk, "whole") == list(range(1, 73))
    monkeypatch.undo()
    poison(monkeypatch, range(58, 68), factor=300.0)
    assert desk.train("run.yaml", "--output-dir", "cut", "--set", "max_steps=67").code == 0
    unfinish(desk, "cut")
    assert state_of(desk, "cut", 67)["rollbacks"] == [40]
    monkeypatch.undo()
    assert desk.train("run.yaml", "--output-dir", "cut").code == 0
    assert bytes_of(desk, "whole", task) == bytes_of(desk, "cut", task)


@pytest.mark.long
def test_it_stops_after_two_and_goes_on_where_it_is_told_not_to_watch(request, monkeypatch):
    desk = desk_of("texts", request)
    desk.config(**QUICK | {"batch_size": 1, "max_steps": 90, "save_steps": 60})
    again = [*range(71, 81), *range(91, 101), *range(111, 121)]  # steps 71 to 80, three times
    poison(monkeypatch, again, factor=300.0)
    stopped = desk.train("run.yaml", "--output-dir", "bad")
    assert stopped.code == 5, stopped.text
    assert "LS6002" in stopped.err
    assert "rows.jsonl:" in stopped.err
    assert "spike_guard: false" in stopped.err
    assert [each["to_step"] for each in raw(desk, "bad", "rolled_back")] == [60, 60]
    monkeypatch.undo()
    poison(monkeypatch, range(1, 100), factor=300.0)
    told = desk.train("run.yaml", "--output-dir", "bad", "--set", "spike_guard=false")
    assert told.code == 0, told.text
    assert "going on from step-000060" in told.out
