"""Fault 19: a gradient that is not finite under a loss that is. No update is made from it, in no process."""

import pytest

from lora_scripts.training import optimizers
from tests.contract.conftest import ROOT, process
from tests.contract.several import TWO, losses
from tests.faults.broken import QUICK, TASKS, all_finite, desk_of, events, poison, raw, steps_of

ON_THE_SECOND = """
import itertools, os
if os.environ.get("RANK") == "1":
    from lora_scripts.training.processes import Group
    real, taken = Group.reduce, itertools.count(1)
    def reduce(self, parameters, loss, failed):
        held = list(parameters)
        if {first} <= next(taken) < {end}:
            {spoil}
        return real(self, held, loss, failed)
    Group.reduce = reduce
"""
SPOIL = {
    "gradient": "held[-1].grad.flatten()[0] = float('inf')",
    "loss": "loss = loss * float('nan')",
}


def beside(desk, first, end, spoil):
    """The environment in which every process of a run meets the fault."""
    folder = desk.root / "fault"
    folder.mkdir(exist_ok=True)
    text = ON_THE_SECOND.format(first=first, end=end, spoil=SPOIL[spoil])
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    return {"PYTHONPATH": f"{folder}:{ROOT / 'src'}"}


@pytest.mark.long
def test_the_optimizer_never_sees_it(request, monkeypatch):
    desk = desk_of("texts", request)
    desk.config(**QUICK)
    poison(monkeypatch, (3, 6, 7, 8), "gradient")
    seen = []

    def watched(*given):
        optimizer = real(*given)

        def look(optimizer, *_):
            grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
            seen.append(all(bool(grad.isfinite().all()) for grad in grads))

        optimizer.register_step_pre_hook(look)
        return optimizer

    real = optimizers.build
    monkeypatch.setattr(optimizers, "build", watched)
    done = desk.train("run.yaml", "--output-dir", "one")
    assert done.code == 0, done.text
    assert "step 3: the loss or gradient is not finite; no update was made from" in done.out
    assert [each["to_step"] for each in raw(desk, "one", "rolled_back")] == [4]
    skipped = {each["step"] for each in events(desk, "one", "step") if each["data"]["skipped"]}
    assert skipped == {3}
    assert all(seen)
    assert len(seen) == 12
    assert desk.result("one")["updates"] == 11
    assert all_finite(desk.root / "one")


@pytest.mark.slow
@pytest.mark.parametrize("spoil", SPOIL)
@pytest.mark.parametrize("task", TASKS)
def test_what_one_process_of_two_sees_takes_both_back(task, spoil, request):
    desk = desk_of(task, request)
    desk.config(**QUICK | {"batch_size": 2, "gradient_accumulation_steps": 2})
    words = (ROOT / "train.py", "--config", "run.yaml", *TWO)
    done = process(*words, "--output-dir", "two", cwd=desk.root, **beside(desk, 6, 9, spoil))
    assert done.code == 0, done.text
    (event,) = raw(desk, "two", "rolled_back")
    assert (event["cause"], event["from_step"], event["to_step"]) == ("not_finite", 8, 4)
    assert steps_of(desk, "two") == list(range(1, 13))
    assert all(loss is not None for loss in losses(desk, "two").values())
    assert all_finite(desk.root / "two")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_both_processes_stop_after_two_rollbacks_and_one_speaks(task, request):
    desk = desk_of(task, request)
    desk.config(**QUICK | {"batch_size": 2, "gradient_accumulation_steps": 2})
    words = (ROOT / "train.py", "--config", "run.yaml", *TWO)
    done = process(*words, "--output-dir", "two", cwd=desk.root, **beside(desk, 6, 1000, "gradient"))
    assert done.code == 5, done.text
    assert done.text.count("LS6001 3 windows in a row") == 1
    assert "LS7002" not in done.text
    assert "Traceback" not in done.text
    assert [each["to_step"] for each in raw(desk, "two", "rolled_back")] == [4, 2]
