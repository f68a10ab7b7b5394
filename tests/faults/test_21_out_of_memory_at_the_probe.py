"""Fault 21: the largest batch does not fit. It is found before the first step; the batch halves, what each
step learns stays the same."""

import json

import pytest
import torch

from lora_scripts.training import recovery
from lora_scripts.training.processes import Group
from tests.contract.several import same_losses
from tests.faults.broken import QUICK, desk_of, raw, saved, small_memory, state_of

FEW = QUICK | {"max_steps": 4, "lora_dropout": 0.0}


def gradients(monkeypatch):
    """The gradient of every window of a run, as one long vector."""
    found = []
    real = Group.reduce

    def reduce(self, parameters, loss, failed):
        held = list(parameters)
        if not failed:
            found.append(torch.cat([p.grad.flatten().clone() for p in held]))
        return real(self, held, loss, failed)

    monkeypatch.setattr(Group, "reduce", reduce)
    return found


@pytest.mark.parametrize("task", ["texts", pytest.param("pictures", marks=pytest.mark.slow)])
def test_the_batch_halves_and_every_gradient_stays(task, request, monkeypatch):
    desk = desk_of(task, request)
    desk.config(**FEW)
    whole = gradients(monkeypatch)
    assert desk.train("run.yaml", "--output-dir", "whole").code == 0
    monkeypatch.undo()

    monkeypatch.setattr(recovery, "UNPROBED", ())
    asked = small_memory(monkeypatch, 1)
    parts = gradients(monkeypatch)
    done = desk.train("run.yaml", "--output-dir", "parts")
    assert done.code == 0, done.text
    assert asked[:3] == [4, 2, 1], "tried before the first step"
    assert set(asked[3:]) == {1}
    assert "batch_size 4 → 2, gradient_accumulation_steps 1 → 2" in done.out
    assert "batch_size 2 → 1, gradient_accumulation_steps 2 → 4" in done.out
    same_losses(desk, "whole", "parts")
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-5, atol=1e-7)
    for one, two in zip(whole, parts, strict=True):
        assert float((one - two).norm() / one.norm()) < 1e-5
    identity = [
        json.loads((desk.root / run / "identity.json").read_text())["digest"] for run in ("whole", "parts")
    ]
    assert identity[0] == identity[1]
    assert state_of(desk, "parts", 4)["micro_batch"] == 1
    assert [each["code"] for each in raw(desk, "parts", "note") if each["code"]] == ["LS3902"] * 2


@pytest.mark.parametrize("task", ["texts", pytest.param("pictures", marks=pytest.mark.slow)])
def test_where_one_example_does_not_fit_it_stops_with_advice(task, request, monkeypatch):
    desk = desk_of(task, request)
    desk.config(**FEW)
    monkeypatch.setattr(recovery, "UNPROBED", ())
    small_memory(monkeypatch, 0)
    done = desk.train("run.yaml", "--output-dir", "none")
    assert done.code == 4, done.text
    assert done.err.count("LS3901 out of memory") == 1
    for advice in ("gradient_checkpointing: true", "resolution", "quantization: 4bit"):
        assert advice in done.err
    assert "Traceback" not in done.text
    assert not (desk.root / "none/checkpoints").exists()


def test_the_largest_of_many_is_tried(request, monkeypatch):
    """One long row among short ones: the batch that holds it."""
    desk = desk_of("texts", request)
    rows = (desk.root / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    long = json.loads(rows[5])
    long["messages"][1]["content"] *= 5
    rows[5] = json.dumps(long, ensure_ascii=False)
    (desk.root / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    desk.config(**FEW | {"batch_size": 2, "packing": False, "validation": {"split": 0}})
    tried = []
    monkeypatch.setattr(recovery, "UNPROBED", ())
    real = recovery.fits
    monkeypatch.setattr(recovery, "fits", lambda job, batch: (tried.append(batch), real(job, batch))[1])
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    (batch,) = tried
    assert int(batch["rows"].bincount().max()) > 60


def test_the_probe_changes_nothing(request, monkeypatch):
    desk = desk_of("texts", request)
    desk.config(**QUICK | {"max_steps": 4})
    assert desk.train("run.yaml", "--output-dir", "plain").code == 0
    monkeypatch.setattr(recovery, "UNPROBED", ())
    assert desk.train("run.yaml", "--output-dir", "probed").code == 0
    files = [(desk.root / run / "adapter_model.safetensors").read_bytes() for run in ("plain", "probed")]
    assert files[0] == files[1]
    assert saved(desk, "plain") == saved(desk, "probed")
