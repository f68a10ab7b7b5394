"""Fault 26, a resume at any place of a set of seven, epoch borders among them: the next batch is the same
one, with the same noise."""

import hashlib
import os
import signal

import pytest
import torch

from lora_scripts.training.batches import Batches
from tests.contract.conftest import write_csv
from tests.faults.conftest import weights

EPOCHS = 2
OPTIONS = dict(
    max_steps=None, epochs=EPOCHS, save_steps=100, validation={"split": 0}, lora_dropout=0.1,
    output_name="same", logging={"tensorboard": False},
)  # fmt: skip


def tensors(value, path=""):
    """Every tensor in a batch, of whatever task, by where it stands."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from tensors(part, f"{path}.{number}")
    elif hasattr(value, "__dict__"):
        yield from tensors(vars(value), path)


def seen(batch):
    """What a batch holds, noise included, to the last bit."""
    digest = hashlib.sha256()
    for path, tensor in sorted(tensors(batch), key=lambda pair: pair[0]):
        digest.update(path.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture
def trained_on(monkeypatch):
    """Each window that is trained on, as (indices, what its batches hold)."""
    log = []
    real = Batches.windows

    def windows(self, first, end):
        for window in real(self, first, end):
            log.append((window.indices, tuple(seen(batch) for batch in window.batches)))
            yield window

    monkeypatch.setattr(Batches, "windows", windows)
    return log


def of_seven(desk):
    if (rows := desk.root / "rows.jsonl").exists():
        first = rows.read_text(encoding="utf-8").splitlines(keepends=True)[:7]
        rows.write_text("".join(first), encoding="utf-8")
        return desk
    pics = desk.root / "pics"
    for path in sorted(pics.glob("*.png"))[7:]:
        path.unlink()
    write_csv(
        pics / "metadata.csv", [(path.name, f"house {path.stem}") for path in sorted(pics.glob("*.png"))]
    )
    return desk


@pytest.mark.parametrize(
    ("task", "batch_size"),
    [
        pytest.param("make_text_desk", 2, marks=pytest.mark.long),
        pytest.param("make_text_desk", 1, marks=pytest.mark.slow),
        pytest.param("make_desk", 1, marks=pytest.mark.slow),
        pytest.param("make_desk", 2, marks=pytest.mark.slow),
    ],
)
def test_the_next_batch_is_the_same_wherever_it_stopped(request, trained_on, at_step, task, batch_size):
    """Two a batch leave a smaller one at each border."""
    desk = of_seven(request.getfixturevalue(task)())
    options = OPTIONS | {"batch_size": batch_size}
    straight = desk.train(desk.config("straight.yaml", output_dir="output/straight", **options))
    assert straight.code == 0, straight.text
    whole, per_epoch = list(trained_on), -(-7 // batch_size)
    assert len(whole) == EPOCHS * per_epoch
    for epoch in range(EPOCHS):
        windows = whole[epoch * per_epoch :][:per_epoch]
        assert sorted(i for window, _ in windows for micro in window for i in micro) == list(range(7))
    assert len({batches for _, batches in whole}) == len(whole), "no two windows are alike"
    run = desk.root / "output/run"
    config = desk.config(output_dir=str(run), **options)
    trained_on.clear()
    at_step(dict.fromkeys(range(len(whole)), lambda: os.kill(os.getpid(), signal.SIGTERM)))
    for step in range(1, len(whole)):
        done = desk.train(config)
        assert done.code == 143, done.text
        assert len(trained_on) == step, "each attempt trains on one window"
    last = desk.train(config)
    assert last.code == 0, last.text
    assert trained_on == whole
    assert weights(run) == weights(desk.root / "output/straight")
