"""Fault 25, a resume with other micro-batches of the same effective batch: the same samples in the same
order, the same losses; another effective batch is refused."""

import pytest

from lora_scripts.training.batches import Batches
from tests.contract.several import losses

OPTIONS = dict(max_steps=8, save_steps=100, output_name="same", logging={"tensorboard": False})


@pytest.fixture
def windows(monkeypatch):
    """The micro-batches of each window that is trained on, in their order."""
    log = []
    real = Batches.windows

    def spied(self, first, end):
        for window in real(self, first, end):
            log.append(window.indices)
            yield window

    monkeypatch.setattr(Batches, "windows", spied)
    return log


def samples(window):
    return [index for micro in window for index in micro]


def sized(batch_size, accumulation):
    return {"batch_size": batch_size, "gradient_accumulation_steps": accumulation}


@pytest.mark.long
def test_the_same_samples_in_the_same_order(either_desk, windows, at_step):
    desk = either_desk
    straight = desk.train(desk.config("straight.yaml", output_dir="straight", **OPTIONS, **sized(4, 1)))
    assert straight.code == 0, straight.text
    whole = windows[:]
    assert any(len(micro) == 4 for window in whole for micro in window)
    windows.clear()
    for batch_size, accumulation, step in ((4, 1, 1), (2, 2, 3), (1, 4, 5), (4, 1, None)):
        at_step({step: (desk.root / "run/control/stop").touch})
        done = desk.train(desk.config(output_dir="run", **OPTIONS, **sized(batch_size, accumulation)))
        assert done.code == 0, done.text
        if step == 3:
            assert "without effect on what is learnt: batch_size: 4 → 2" in done.out
    assert [samples(window) for window in windows] == [samples(window) for window in whole]
    sizes = [max(len(micro) for micro in window) for window in windows]
    caps = (4, 4, 2, 2, 1, 1, 4, 4)
    assert sizes == [min(cap, max(map(len, window))) for cap, window in zip(caps, whole, strict=True)]
    one, two = losses(desk, "straight"), losses(desk, "run")
    assert one.keys() == two.keys() == set(range(1, 9))
    assert all(two[step] == pytest.approx(one[step], rel=1e-5) for step in one)


def test_another_effective_batch_is_refused(make_text_desk, at_step):
    desk = make_text_desk()
    at_step({1: (desk.root / "run/control/stop").touch})
    assert desk.train(desk.config(output_dir="run", **OPTIONS, **sized(4, 1))).code == 0
    done = desk.train(desk.config(output_dir="run", **OPTIONS, **sized(4, 2)))
    assert done.code == 2, done.text
    assert "batch_size x gradient_accumulation_steps: 4 → 8" in done.err
