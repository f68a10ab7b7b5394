"""EMA and schedule-free: what is measured and exported, and that what is trained stays untouched."""

import pytest
import torch
from schedulefree import AdamWScheduleFree

from lora_scripts.training import optimizers
from lora_scripts.training.averages import Lender, MovingAverage, schedule_free_evaluation


def parameters():
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.nn.Parameter(torch.randn(size, generator=generator))
        for name, size in (("a", (3, 4)), ("b", (5,)))
    }


def step(made, optimizer, number):
    for index, parameter in enumerate(made.values()):
        generator = torch.Generator().manual_seed(10 * number + index)
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_the_moving_average_is_the_sum_written_out():
    made = parameters()
    average = MovingAverage(made, 0.5)
    wanted = {name: p.detach().double().clone() for name, p in made.items()}
    optimizer = torch.optim.SGD(list(made.values()), lr=0.1)
    for number in range(1, 30):
        step(made, optimizer, number)
        average.update(number)
        keep = min(0.5, (1 + number) / (10 + number))
        for name, p in made.items():
            wanted[name] = keep * wanted[name] + (1 - keep) * p.detach().double()
    for name, value in average.evaluation().items():
        torch.testing.assert_close(value.double(), wanted[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(value, made[name])


def test_schedule_free_s_average_is_what_its_own_eval_gives():
    made = parameters()
    optimizer = optimizers.build("schedulefree", {"model": (made, 0.05)}, 0.01)
    for number in range(5):
        step(made, optimizer, number)
    live = {name: p.detach().clone() for name, p in made.items()}
    found = schedule_free_evaluation(optimizer, made)
    assert all(torch.equal(made[name], live[name]) for name in made)
    assert isinstance(optimizer, AdamWScheduleFree)
    optimizer.eval()
    for name, parameter in made.items():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=1e-6, atol=1e-7)


def test_lent_weights_are_seen_and_the_trained_ones_come_back_bit_for_bit():
    made = parameters()
    live = {name: (p.data_ptr(), p.detach().clone()) for name, p in made.items()}
    lend = Lender(made, lambda: {name: torch.full_like(p, 7.0) for name, p in made.items()})
    with lend():
        assert all(bool((p == 7.0).all()) for p in made.values())
    assert all((p.data_ptr(), True) == (live[n][0], torch.equal(p, live[n][1])) for n, p in made.items())
    with pytest.raises(KeyError), lend():
        raise KeyError
    assert all(torch.equal(p, live[n][1]) for n, p in made.items())
