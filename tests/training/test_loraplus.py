"""LoRA+: the second matrices learn faster."""

from __future__ import annotations

import pytest
import torch

from lora_scripts.training import optimizers

NAMES = ["model.a.lora_A.weight", "model.a.lora_B.weight", "model.a.lora_magnitude_vector"]


def parameters():
    return {name: torch.nn.Parameter(torch.ones(3)) for name in NAMES}


def test_second_matrices_get_their_own_rate():
    found = optimizers.plus_groups({"predictor": (parameters(), 1e-3)}, 16.0)
    assert {name: (list(group), rate) for name, (group, rate) in found.items()} == {
        "predictor": ([NAMES[0], NAMES[2]], 1e-3),
        "predictor_b": ([NAMES[1]], 1.6e-2),
    }


@pytest.mark.parametrize("ratio", [None, 1.0])
def test_without_a_ratio_nothing_is_split(ratio):
    groups = {"predictor": (parameters(), 1e-3), "text_encoder": ({}, 1e-4)}
    assert optimizers.plus_groups(groups, ratio) == groups


def test_a_step_is_as_much_longer():
    moved = parameters()
    groups = optimizers.plus_groups({"predictor": (moved, 1e-3)}, 8.0)
    optimizer = optimizers.build("adamw", groups, weight_decay=0.0)
    assert optimizers.set_rates(optimizer, 0.5) == {"predictor": 5e-4, "predictor_b": 4e-3}
    for parameter in moved.values():
        parameter.grad = torch.full((3,), 0.3)
    optimizer.step()
    steps = [float((1 - parameter.detach()).mean()) for parameter in moved.values()]
    assert steps[1] == pytest.approx(8 * steps[0], rel=1e-3)
    assert steps[2] == pytest.approx(steps[0])
