"""M1: the same YAML on several processes is the same experiment, and they act as one."""

import os
import signal

import pytest
import torch

from tests.contract.several import TWO, ranks_of, same_losses, start, train, wait_for

pytestmark = pytest.mark.long
BATCH = {"batch_size": 2, "gradient_accumulation_steps": 3, "max_steps": 6, "save_steps": 3}


def weights(desk, output, name="adapter_model.safetensors"):
    from safetensors.torch import load_file

    return load_file(desk.root / output / name)


def test_two_processes_learn_what_one_learns_and_resume(make_text_desk):
    desk = make_text_desk()
    desk.config(**BATCH)
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    done = train(desk, *TWO, "--output-dir", "two")
    assert done.code == 0, done.text
    same_losses(desk, "one", "two")
    cut = [*TWO, "max_steps=3", "--output-dir", "three"]
    assert train(desk, *cut).code == 0
    (desk.root / "three/result.json").unlink()
    cut[2] = "max_steps=6"
    assert train(desk, *cut).code == 0
    two, three = weights(desk, "two"), weights(desk, "three")
    assert all(torch.equal(two[name], three[name]) for name in two)


def test_an_empty_rank_joins_in(make_text_desk):
    desk = make_text_desk()
    desk.config(batch_size=1, max_steps=3, save_steps=3)  # one row a window: nothing for the second
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    done = train(desk, *TWO, "--output-dir", "two")
    assert done.code == 0, done.text
    same_losses(desk, "one", "two")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_a_launcher_starts_the_same_run(make_text_desk, launcher):
    desk = make_text_desk()
    desk.config(**BATCH)
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    done = train(desk, "--output-dir", "two", launcher=launcher)
    assert done.code == 0, done.text
    same_losses(desk, "one", "two")


def test_sigterm_to_one_rank_stops_and_saves_all(make_text_desk):
    desk = make_text_desk()
    desk.config(**{**BATCH, "max_steps": 4000, "save_steps": 2})
    child = start(desk, *TWO, "--output-dir", "two")
    wait_for(desk.root / "two/checkpoints/step-000002", child)
    os.kill(ranks_of(child)[1], signal.SIGTERM)
    assert child.wait(120) == 143
    assert not (desk.root / "two/result.json").exists()
    assert any((desk.root / "two/checkpoints").glob("step-*"))


def test_a_rank_that_dies_is_named(make_text_desk):
    desk = make_text_desk()
    desk.config(**{**BATCH, "max_steps": 4000, "save_steps": 2})
    child = start(desk, *TWO, "--output-dir", "two")
    wait_for(desk.root / "two/checkpoints/step-000002", child)
    os.kill(ranks_of(child)[1], signal.SIGKILL)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == 75, said
    assert "LS7002" in said
