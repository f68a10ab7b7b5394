"""M1: pictures on two processes: one process's losses, resume, launchers, and what befalls one rank alone."""

import os
import shutil
import signal

import pytest

from tests.contract.several import TWO, events, losses, ranks_of, same_losses, start, train, wait_for

BATCH = {"batch_size": 2, "gradient_accumulation_steps": 3, "max_steps": 6, "save_steps": 3,
         "output_name": "same", "logging": {"tensorboard": False}}  # fmt: skip


def file_of(desk, output):
    return (desk.root / output / "same.safetensors").read_bytes()


def poisoned(desk, count=1):
    """Puts NaN into the cached latents of ``count`` pictures: whoever learns them gets it as a loss."""
    from safetensors.torch import load_file, save_file

    left = count
    for shard in sorted((desk.root / "cache/latents").glob("*.safetensors")):
        tensors = load_file(shard)
        for name in sorted(tensors)[:left]:
            tensors[name] = tensors[name] * float("nan")
            left -= 1
        save_file(tensors, shard)
    assert left == 0


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_resume(make_desk):
    desk = make_desk()
    desk.config(**BATCH)
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    whole = train(desk, *TWO, "--output-dir", "two")
    assert whole.code == 0, whole.text
    same_losses(desk, "one", "two")
    for most in (3, 6):
        part = train(desk, *TWO, f"max_steps={most}", "--output-dir", "cut")
        assert part.code == 0, part.text
        if most == 3:
            (desk.root / "cut/result.json").unlink()  # as if it had been killed before it was finished
    assert "going on from step-000003" in part.out
    assert file_of(desk, "two") == file_of(desk, "cut")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_a_launcher_starts_the_same_run_on_the_demo_base(make_desk, launcher):
    desk = make_desk()
    desk.config(**{**BATCH, "base_model": "builtin:demo", "resolution": 64, "max_steps": 4, "save_steps": 2})
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    whole = train(desk, "--output-dir", "two", launcher=launcher)
    assert whole.code == 0, whole.text
    same_losses(desk, "one", "two")
    for most in (2, 4):
        part = train(desk, "--set", f"max_steps={most}", "--output-dir", "cut", launcher=launcher)
        assert part.code == 0, part.text
        (desk.root / "cut/result.json").unlink()
    assert file_of(desk, "two") == file_of(desk, "cut")


@pytest.mark.long
def test_every_process_skips_what_is_not_finite_on_one(make_desk):
    desk = make_desk()
    desk.config(**{**BATCH, "max_steps": 8})
    assert desk.train("run.yaml", "--output-dir", "clean").code == 0
    poisoned(desk)
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    done = train(desk, *TWO, "--output-dir", "two")
    assert done.code == 0, done.text
    same_losses(desk, "one", "two")
    found = losses(desk, "two")
    assert None in found.values()
    assert any(loss is not None for loss in found.values())
    skipped = [each["data"]["skipped"] for each in events(desk, "two") if each["type"] == "step"]
    assert skipped == [loss is None for loss in found.values()]


@pytest.mark.slow
def test_the_guard_speaks_once_for_all_processes(make_desk):
    desk = make_desk()
    desk.config(**{**BATCH, "batch_size": 1, "gradient_accumulation_steps": 20, "max_steps": 8,
                   "validation": {"split": 0}})  # fmt: skip
    assert desk.train("run.yaml", "--output-dir", "clean", "--set", "max_steps=1").code == 0
    poisoned(desk)
    done = train(desk, *TWO, "gradient_accumulation_steps=22", "--output-dir", "two")
    assert done.code == 5, done.text
    assert done.text.count("LS6001 3 windows in a row") == 1
    assert "LS7002" not in done.text
    assert "Traceback" not in done.text


@pytest.mark.slow
def test_sigterm_to_one_rank_saves_and_the_run_ends_as_if_nothing_had_been(make_desk):
    desk = make_desk()
    desk.config(**{**BATCH, "max_steps": 40, "save_steps": 2})
    assert train(desk, *TWO, "--output-dir", "whole").code == 0
    child = start(desk, *TWO, "--output-dir", "cut")
    wait_for(desk.root / "cut/checkpoints/step-000002", child)
    os.kill(ranks_of(child)[1], signal.SIGTERM)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == 143, said
    assert "Traceback" not in said
    assert not (desk.root / "cut/result.json").exists()
    left = max(path.name for path in (desk.root / "cut/checkpoints").glob("step-*"))
    again = train(desk, *TWO, "--output-dir", "cut")
    assert again.code == 0, again.text
    assert f"going on from {left}" in again.out
    assert file_of(desk, "whole") == file_of(desk, "cut")


@pytest.mark.slow
def test_a_rank_without_a_picture_joins_in(make_desk):
    desk = make_desk()
    desk.config(**{**BATCH, "batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 3})
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    done = train(desk, *TWO, "--output-dir", "two")
    assert done.code == 0, done.text
    same_losses(desk, "one", "two")


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_left(make_desk):
    desk = make_desk()
    desk.config(**BATCH)
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    assert desk.train("run.yaml", "--output-dir", "both", "--set", "max_steps=3").code == 0
    (desk.root / "both/result.json").unlink()
    shutil.rmtree(desk.root / "cache")  # the first fills it anew, the second waits
    done = train(desk, *TWO, "--output-dir", "both")
    assert done.code == 0, done.text
    assert "going on from step-000003" in done.out
    same_losses(desk, "one", "both")
