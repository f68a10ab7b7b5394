"""Faults put into a run through hooks: a window that is not finite, a memory that is too small, a card that
is gone. ``COUNTED`` is the number of a window as it was taken, from 1: after a rollback the count goes on."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from lora_scripts.core.events import StepDone, read_events
from lora_scripts.training.objective import Denoising
from lora_scripts.training.processes import Group
from lora_scripts.training.text_objectives import Answers

QUICK = {
    "batch_size": 4,
    "max_steps": 12,
    "save_steps": 2,
    "output_name": "same",
    "lora_dropout": 0.1,
    "logging": {"tensorboard": False},
}
TASKS = ("pictures", "texts")
FILES = {"pictures": "same.safetensors", "texts": "adapter_model.safetensors"}


def desk_of(task, request):
    """A new desk of the task, by the fixtures of the contract's tests."""
    return request.getfixturevalue("make_desk" if task == "pictures" else "make_text_desk")()


def done(loss, skipped=False):
    """What is told of a window."""
    return StepDone(
        epoch=0.0, loss=loss, learning_rates={}, grad_norm=1.0, skipped=skipped, seconds=1.0, examples=1,
        memory_gib=0.0,
    )  # fmt: skip


def poison(monkeypatch, windows: Collection[int], kind: str = "loss", factor: float = math.nan) -> None:
    """Spoils loss or gradient of some windows, as one process has them before they are added up."""
    taken = itertools.count(1)
    real = Group.reduce

    def reduce(self, parameters, loss, failed):
        held = list(parameters)
        if next(taken) in windows:
            if kind == "loss":
                loss = loss * factor
            else:
                held[-1].grad.flatten()[0] = math.inf
        return real(self, held, loss, failed)

    monkeypatch.setattr(Group, "reduce", reduce)


def examples_in(batch) -> int:
    """Pictures or rows of a micro-batch."""
    return len(batch["timesteps"]) if "timesteps" in batch else int(batch["rows"].max()) + 1


def small_memory(
    monkeypatch, room: int, *, first: int = 1, error: Callable[[], Exception] | None = None
) -> list[int]:
    """From the ``first`` micro-batch on, memory holds ``room`` examples. Returns the sizes that were asked
    for."""
    asked: list[int] = []

    def wrap(real):
        def sums(self, batch):
            asked.append(examples_in(batch))
            found = real(self, batch)
            if len(asked) >= first and asked[-1] > room:
                raise error() if error else torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            return found

        return sums

    for objective in (Denoising, Answers):
        monkeypatch.setattr(objective, "sums", wrap(objective.sums))
    return asked


def events(desk, output, kind=None) -> list[dict]:
    """What a reader of the log is to see."""
    found = read_events(desk.root / output / "events.jsonl")
    return [each for each in found if kind is None or each["type"] == kind]


def steps_of(desk, output) -> list[int]:
    return [each["step"] for each in events(desk, output, "step")]


def raw(desk, output, kind) -> list[dict]:
    """The log's lines as they were written."""
    lines = (desk.root / output / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["data"] for line in map(json.loads, lines) if line["type"] == kind]


def state_of(desk, output, step) -> dict:
    path = desk.root / output / "checkpoints" / f"step-{step:06d}" / "state.json"
    return json.loads(path.read_text(encoding="utf-8"))["training"]


def saved(desk, output) -> list[str]:
    return sorted(path.name for path in (desk.root / output / "checkpoints").iterdir())


def bytes_of(desk, output, task) -> bytes:
    return (desk.root / output / FILES[task]).read_bytes()


def unfinish(desk, output) -> None:
    """As if the run had been killed before it was finished."""
    (desk.root / output / "result.json").unlink()


def all_finite(folder: Path) -> bool:
    """Every tensor of every file that a run has left."""
    from safetensors.torch import load_file

    files = list(folder.rglob("*.safetensors"))
    tensors = [tensor for file in files for tensor in load_file(file).values()]
    return bool(tensors) and all(
        bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point()
    )
