"""What a learning rate means, whichever optimizer it goes to."""

from __future__ import annotations

import pytest
import torch

from lora_scripts.training import optimizers

FINDS_ITS_OWN = {"prodigy"}


@pytest.mark.parametrize("name", sorted(set(optimizers.OPTIMIZERS) - FINDS_ITS_OWN))
def test_a_step_is_as_long_as_the_rate_says_wherever_a_matrix_starts(name):
    """A LoRA's second matrices start at zero: steps in proportion to them would never get anywhere."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.full((4, 64), 0.05), torch.zeros(64, 4)
    moved = {
        "model.a.lora_A.weight": torch.nn.Parameter(first.clone()),
        "model.a.lora_B.weight": torch.nn.Parameter(second.clone()),
    }
    optimizer = optimizers.build(name, {"model": (moved, 1e-3)}, weight_decay=0.0)
    optimizers.set_rates(optimizer, 1.0)
    for parameter in moved.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    for parameter, start in zip(moved.values(), (first, second), strict=True):
        step = (parameter.detach() - start).square().mean().sqrt()
        assert 0.5e-3 < float(step) < 2e-3
