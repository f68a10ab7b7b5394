"""The loop: exact accumulation, guarded updates, resume bit for bit, whatever the objective."""

import math
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from lora_scripts.core.control import Control
from lora_scripts.training import optimizers
from lora_scripts.training.averages import MovingAverage
from lora_scripts.training.batches import Window
from lora_scripts.training.loop import Job, backward, fit
from lora_scripts.training.precision import Precision
from lora_scripts.training.schedules import Schedule
from lora_scripts.training.session import in_memory, put_back, snapshot_of
from lora_scripts.training.state import TrainingState

CPU = torch.device("cpu")
DATA = torch.randn(24, 6, generator=torch.Generator().manual_seed(3))


class Regression:
    """Rows of different weight: what tokens are to text. The target of a row is the sum of its entries."""

    coefficients: ClassVar = {"error": 0.7}

    def __init__(self, model, poison=None):
        self.model = model
        self.poison = poison

    def weights(self, batch):
        return {"error": float(batch["weight"].sum())}

    def sums(self, batch):
        error = (self.model(batch["x"]).squeeze(1) - batch["x"].sum(1)).square() * batch["weight"]
        if self.poison is not None and self.poison in batch["rows"]:
            error = error * float("inf")
        return {"error": error.sum()}


class Windows:
    """Six windows an epoch of four rows, in micro-batches of the given sizes."""

    def __init__(self, sizes):
        self.sizes = sizes
        self.plan = SimpleNamespace(windows_per_epoch=6)

    def window(self, number):
        start = number % 6 * 4
        batches, indices = [], []
        for size in self.sizes:
            rows = list(range(start, start + size))
            batches.append(
                {"x": DATA[rows], "weight": torch.tensor([1.0 + r % 3 for r in rows]), "rows": rows}
            )
            indices.append(tuple(rows))
            start += size
        return Window(number // 6, tuple(batches), tuple(indices), tuple(range(len(batches))))

    def windows(self, first, end):
        return (self.window(number) for number in range(first, end))


def job(
    sizes=(4,), *, mode="no", optimizer="adamw", dropout=0.0, poison=None, total=12, rate=1e-2, average=None
):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 600), torch.nn.Dropout(dropout), torch.nn.Linear(600, 1))
    parameters = dict(model.named_parameters())
    return Job(
        objective=Regression(model, poison),
        batches=Windows(sizes),
        parameters=parameters,
        optimizer=optimizers.build(optimizer, {"predictor": (parameters, rate)}, 0.01),
        precision=Precision(mode, CPU),
        schedule=Schedule("cosine", total, 2),
        total_steps=total,
        average=MovingAverage(parameters, average) if average else None,
        max_grad_norm=1.0,
        seed=7,
    )


def run(work, state=None, until=None):
    state = state or TrainingState()
    events = []
    control = Control()

    def emit(event):
        events.append(event)
        if until is not None and state.step == until:
            control.request("stop")

    fit(work, state, emit, control)
    return state, events


def weights(work):
    return {name: parameter.detach().clone() for name, parameter in work.parameters.items()}


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 1), (1, 3)])
def test_accumulation_gives_the_gradient_of_the_whole_window(sizes):
    whole, parts = job((4,)), job(sizes)
    loss_whole, loss_parts = (
        backward(whole, whole.batches.window(1), 1),
        backward(parts, parts.batches.window(1), 1),
    )
    assert loss_parts == pytest.approx(loss_whole, rel=1e-6)
    for name, parameter in whole.parameters.items():
        torch.testing.assert_close(parts.parameters[name].grad, parameter.grad, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_weighted_mean_times_its_coefficient():
    work = job((3, 1))
    window = work.batches.window(0)
    total = sum(float(work.objective.sums(batch)["error"].detach()) for batch in window.batches)
    weight = sum(float(batch["weight"].sum()) for batch in window.batches)
    assert backward(work, window, 0) == pytest.approx(0.7 * total / weight, rel=1e-6)


def unpack(work, saved):
    put_back(SimpleNamespace(job=work), saved)
    state = TrainingState()
    state.restore(saved.state["training"])
    return state


@pytest.mark.parametrize("optimizer", sorted(optimizers.OPTIMIZERS))
@pytest.mark.parametrize("mode", ["no", "bf16", pytest.param("fp16", marks=pytest.mark.long)])
@pytest.mark.parametrize("sizes", [(4,), (2, 1, 1)])
def test_stopping_anywhere_and_going_on_changes_no_bit(optimizer, mode, sizes):
    options = dict(mode=mode, optimizer=optimizer, dropout=0.3, average=0.9, poison=2)
    straight = job(sizes, **options)
    run(straight)
    for stop in (1, 5, 11):
        first = job(sizes, **options)
        state, _ = run(first, until=stop)
        assert state.step == stop
        second = job(sizes, **options)
        run(second, unpack(second, in_memory(snapshot_of(first, state))))
        for name, parameter in straight.parameters.items():
            assert torch.equal(parameter, second.parameters[name]), (stop, name)
            assert torch.equal(straight.average.values[name], second.average.values[name]), (stop, name)
        # the first window overflows: what is scaled by from then on is no longer the start's
        assert second.precision.scaler.state_dict() == straight.precision.scaler.state_dict()


def test_a_window_that_is_not_finite_changes_nothing_but_consumes_data():
    work, clean = job(poison=5, total=2), job(total=1)
    state, events = run(work)
    run(clean)
    assert (state.step, state.updates) == (2, 1)
    assert [event.skipped for event in events] == [False, True]
    for name, parameter in clean.parameters.items():
        # one update of each, from the same window at the same warm-up rate
        assert torch.equal(parameter, work.parameters[name])


def test_fp16_on_the_cpu_computes_in_halves_and_backs_off_when_it_overflows():
    work = job(mode="fp16", poison=5, total=2)
    before = work.precision.scaler.get_scale()
    state, _ = run(work)
    assert work.precision.scaler.get_scale() == before / 2
    assert (state.step, state.updates) == (2, 1)
    with work.precision.autocast():
        assert work.objective.model(DATA[:2]).dtype == torch.float16


def test_the_schedule_follows_updates_not_windows():
    _, events = run(job(poison=5, total=4))
    rates = [event.learning_rates["predictor"] for event in events]
    assert rates[1] == rates[2], "a skipped window does not move the schedule"
    assert math.isclose(rates[0], 1e-2 / 3)


def test_a_stop_before_the_first_step_trains_nothing():
    work = job()
    control = Control()
    control.request("stop")
    state = TrainingState()
    fit(work, state, lambda event: None, control)
    assert state.step == 0
