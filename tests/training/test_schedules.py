"""Learning-rate factors against the schedules that the field uses."""

import pytest
import torch
from transformers import get_scheduler

from lora_scripts.training.schedules import factor


@pytest.mark.parametrize(
    ("ours", "theirs"), [("linear", "linear"), ("cosine", "cosine"), ("constant", "constant")]
)
def test_after_warm_up_the_shape_is_the_field_s(ours, theirs):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = get_scheduler(theirs, optimizer, num_warmup_steps=0, num_training_steps=40)
    for step in range(40):
        assert factor(ours, step, total=40, warmup=0) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()


def test_warm_up_rises_from_above_zero_to_one():
    values = [factor("cosine", step, total=20, warmup=4) for step in range(5)]
    assert values == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
