"""Fault 22: memory runs out in the midst of training. The state is saved, and the same step is taken again in
smaller parts; no example is left out."""

import pytest
import torch

from lora_scripts.training.batches import Batches
from lora_scripts.training.callbacks import preview, sentences
from lora_scripts.training.failures import NoMemoryError
from lora_scripts.training.loop import backward
from lora_scripts.training.processes import Group
from tests.contract.conftest import ROOT, process
from tests.contract.several import TWO, same_losses
from tests.faults.broken import QUICK, TASKS, bytes_of, desk_of, raw, saved, small_memory, state_of, unfinish
from tests.training.test_loop import job

NO_DROPOUT = QUICK | {"lora_dropout": 0.0}
ON_THE_SECOND = """
import os
{before}
if os.environ.get("RANK") == "1":
    from lora_scripts.training.objective import Denoising
    from lora_scripts.training.text_objectives import Answers
    import itertools
    taken = itertools.count(1)
    def wrap(real):
        def sums(self, batch):
            size = len(batch["timesteps"]) if "timesteps" in batch else int(batch["rows"].max()) + 1
            if next(taken) > {free} and size > 1:
                import torch
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(self, batch)
        return sums
    for objective in (Denoising, Answers):
        objective.sums = wrap(objective.sums)
"""


def learnt(monkeypatch):
    """What each window held, in the order in which they were taken."""
    found = []
    real = Batches.window

    def window(self, number):
        made = real(self, number)
        found.append((number, sorted(index for micro in made.indices for index in micro)))
        return made

    monkeypatch.setattr(Batches, "window", window)
    return found


@pytest.mark.long
@pytest.mark.parametrize("task", ["texts", pytest.param("pictures", marks=pytest.mark.slow)])
def test_the_same_step_is_taken_in_smaller_parts_and_a_resume_begins_with_them(task, request, monkeypatch):
    desk = desk_of(task, request)
    desk.config(**NO_DROPOUT | {"save_steps": 12})
    before = learnt(monkeypatch)
    assert desk.train("run.yaml", "--output-dir", "whole").code == 0
    monkeypatch.undo()

    after = learnt(monkeypatch)
    asked = small_memory(monkeypatch, 2, first=6)
    done = desk.train("run.yaml", "--output-dir", "parts")
    assert done.code == 0, done.text
    assert "batch_size 4 → 2, gradient_accumulation_steps 1 → 2" in done.out
    assert sum(size > 2 for size in asked) <= 7, "asked for more than there was once"
    same_losses(desk, "whole", "parts")
    assert dict(before) == dict(after), "no example is left out"
    (note,) = [each for each in raw(desk, "parts", "note") if each["code"]]
    step = int(note["text"].split("step ")[1].split()[0])
    assert state_of(desk, "parts", step - 1)["micro_batch"] == 2, "saved before the step is taken again"
    assert desk.result("parts")["skipped"] == 0

    monkeypatch.undo()
    small_memory(monkeypatch, 2, first=6)
    assert desk.train("run.yaml", "--output-dir", "cut", "--set", "max_steps=10").code == 0
    unfinish(desk, "cut")
    monkeypatch.undo()
    asked = small_memory(monkeypatch, 2)
    again = desk.train("run.yaml", "--output-dir", "cut")
    assert again.code == 0, again.text
    assert max(asked) <= 2
    assert "LS3902" not in again.text
    assert bytes_of(desk, "parts", task) == bytes_of(desk, "cut", task)


@pytest.mark.long
def test_with_one_example_at_a_time_it_saves_and_stops_and_goes_on_when_there_is_room(request, monkeypatch):
    desk = desk_of("texts", request)
    desk.config(**NO_DROPOUT)
    assert desk.train("run.yaml", "--output-dir", "whole").code == 0
    small_memory(monkeypatch, 0, first=8)
    done = desk.train("run.yaml", "--output-dir", "cut")
    assert done.code == 4, done.text
    assert done.err.count("LS3901 out of memory") == 1
    assert "Traceback" not in done.text
    assert saved(desk, "cut")[-1] == "step-000007"
    monkeypatch.undo()
    again = desk.train("run.yaml", "--output-dir", "cut")
    assert again.code == 0, again.text
    assert "going on from step-000007" in again.out
    same_losses(desk, "whole", "cut")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    ],
    ids=["card", "python", "processor", "cublas", "mps"],
)
def test_half_a_window_leaves_no_gradient(error):
    work = job((2, 2))
    calls = iter([False, True])
    real = work.objective.sums

    def sums(batch):
        if next(calls):
            raise error
        return real(batch)

    work.objective.sums = sums
    with pytest.raises(NoMemoryError):
        backward(work, work.batches.window(0), 0)
    assert all(parameter.grad is None for parameter in work.parameters.values())


def test_a_process_that_has_memory_heeds_one_that_has_none():
    work = job((2, 2))

    class OfTwo(Group):
        def reduce(self, parameters, loss, failed):
            assert not failed
            return float(loss), True

    work.group = OfTwo()
    with pytest.raises(NoMemoryError):
        backward(work, work.batches.window(0), 0)
    assert all(parameter.grad is None for parameter in work.parameters.values())


def test_other_errors_are_not_taken_for_it():
    work = job((2, 2))
    work.objective.sums = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError):
        backward(work, work.batches.window(0), 0)

    def sums(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    work.objective.sums = sums
    with pytest.raises(RuntimeError, match="shapes"):
        backward(work, work.batches.window(0), 0)


PROBED = "from lora_scripts.training import recovery; recovery.UNPROBED = ()"


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("before", "free"), [("", 8), (PROBED, 0)], ids=["training", "probe"])
def test_both_of_two_processes_shrink_where_one_lacks_memory(task, before, free, request):
    desk = desk_of(task, request)
    desk.config(**NO_DROPOUT | {"gradient_accumulation_steps": 2})
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    (desk.root / "fault").mkdir()
    fault = ON_THE_SECOND.format(before=before, free=free)
    (desk.root / "fault/sitecustomize.py").write_text(fault, encoding="utf-8")
    path = {"PYTHONPATH": f"{desk.root / 'fault'}:{ROOT / 'src'}"}
    words = (ROOT / "train.py", "--config", "run.yaml", *TWO)
    done = process(*words, "--output-dir", "two", cwd=desk.root, **path)
    assert done.code == 0, done.text
    assert "batch_size 4 → 2, gradient_accumulation_steps 2 → 4" in done.out
    assert "batch_size 2 → 1, gradient_accumulation_steps 4 → 8" in done.out
    same_losses(desk, "one", "two")
    assert state_of(desk, "two", 12)["micro_batch"] == 1


@pytest.mark.parametrize(
    ("task", "maker", "inner"),
    [
        ("texts", sentences, "generate_texts"),
        pytest.param("pictures", preview, "make_pictures", marks=pytest.mark.slow),
    ],
)
def test_a_preview_without_memory_is_told_once_and_training_goes_on(task, maker, inner, request, monkeypatch):
    desk = desk_of(task, request)
    size = {"steps": 1, "width": 16, "height": 16} if task == "pictures" else {"max_new_tokens": 4}
    desk.config(**QUICK | {"max_steps": 4, "preview": {"prompts": ["a red house"], **size}})
    assert desk.train("run.yaml", "--output-dir", "one").code == 0

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(maker, inner, full)
    done = desk.train("run.yaml", "--output-dir", "two")
    assert done.code == 0, done.text
    assert done.out.count("LS3904") == 1
    assert bytes_of(desk, "one", task) == bytes_of(desk, "two", task), (
        "dropout is back on after a failed preview"
    )
