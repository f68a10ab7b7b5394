"""Learning-rate factors against the schedules that the field uses."""

import pytest
import torch
from transformers import get_scheduler

from lora_scripts.training.schedules import SHAPES, Schedule

THEIRS = [
    ("linear", "linear", {}, {}),
    ("cosine", "cosine", {}, {}),
    ("constant", "constant", {}, {}),
    ("cosine_with_restarts", "cosine_with_restarts", {"cycles": 3}, {"num_cycles": 3}),
    ("polynomial", "polynomial", {"power": 2.5}, {"power": 2.5, "lr_end": 0.0}),
    ("inverse_sqrt", "inverse_sqrt", {}, {}),
    ("cosine", "cosine_with_min_lr", {"floor": 0.2}, {"min_lr_rate": 0.2}),
]


@pytest.mark.parametrize(("ours", "theirs", "settings", "arguments"), THEIRS)
def test_after_warm_up_the_shape_is_the_field_s(ours, theirs, settings, arguments):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = get_scheduler(
        theirs, optimizer, num_warmup_steps=0, num_training_steps=40, scheduler_specific_kwargs=arguments
    )
    schedule = Schedule(ours, 40, 0, **settings)
    for step in range(40):
        assert schedule.factor(step) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("name", SHAPES)
def test_warm_up_rises_from_above_zero_to_one(name):
    schedule = Schedule(name, 20, 4)
    assert [schedule.factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_last_tenth_of_warmup_stable_decay_falls_straight_to_nothing():
    schedule = Schedule("warmup_stable_decay", 100)
    assert [schedule.factor(step) for step in (0, 50, 90)] == [1.0, 1.0, pytest.approx(1.0)]
    assert [schedule.factor(step) for step in (95, 99, 100)] == pytest.approx([0.5, 0.1, 0.0])


def test_no_shape_falls_below_the_floor():
    assert min(Schedule("linear", 10, floor=0.3).factor(step) for step in range(12)) == pytest.approx(0.3)
