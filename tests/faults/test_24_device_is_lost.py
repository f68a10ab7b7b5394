"""Fault 24: the card or its driver is gone. What was saved stays, a plain sentence is said, and the exit code
tells whoever started the run that the same command goes on."""

import pytest
import torch

from lora_scripts.families._causal import CausalFamily
from lora_scripts.families._diffusion import LatentDiffusion
from lora_scripts.training import execute, image_exports, stages, text_exports
from lora_scripts.training.callbacks import preview, sentences
from lora_scripts.training.callbacks.validation import Evaluator
from lora_scripts.training.objective import Denoising
from lora_scripts.training.text_objectives import Answers
from tests.contract.conftest import ROOT, process
from tests.faults.broken import QUICK, bytes_of, desk_of, raw, saved

SAID = "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"
PREVIEWS = {
    "pictures": {"prompts": ["a red house"], "steps": 1, "width": 16, "height": 16},
    "texts": {"prompts": ["Where is my parcel?"], "max_new_tokens": 4},
}
PHASES = {
    "driver": {"pictures": (execute, "pick_device"), "texts": (execute, "pick_device")},
    "loading": {"pictures": (LatentDiffusion, "load"), "texts": (CausalFamily, "load")},
    "cache": {"pictures": (stages, "_compute")},
    "training": {"pictures": (Denoising, "sums"), "texts": (Answers, "sums")},
    "validation": {"pictures": (Evaluator, "measure"), "texts": (Evaluator, "measure")},
    "preview": {"pictures": (preview, "make_pictures"), "texts": (sentences, "generate_texts")},
    "export": {"pictures": (image_exports, "export_lora"), "texts": (text_exports, "write_peft")},
    "proof": {"pictures": (image_exports, "read_back"), "texts": (text_exports, "read_back_peft")},
}
LOST_AT = {
    "driver": 1, "loading": 1, "cache": 1, "training": 7, "validation": 3, "preview": 3, "export": 2,
    "proof": 1,
}  # fmt: skip
"""At which call of the phase's function the card is lost."""
SAVED = {
    "training": ["step-000002", "step-000004"],
    "validation": ["step-000002"],
    "preview": ["step-000002", "step-000004"],
    "export": ["step-000002", "step-000004"],
    "proof": ["step-000008", "step-000010", "step-000012"],
}
FIRST = [("training", "pictures"), ("loading", "texts"), ("proof", "texts"), ("driver", "texts")]
ALL = [(phase, task) for phase, places in PHASES.items() for task in places]


def marked(phase, task):
    """Some phases are tried in CI, the rest in make test-all."""
    return pytest.param(phase, task, marks=pytest.mark.long if (phase, task) in FIRST else pytest.mark.slow)


def lose_the_card(monkeypatch, place, call):
    owner, name = place
    real = getattr(owner, name)
    made = [0]

    def broken(*given, **named):
        made[0] += 1
        if made[0] == call:
            raise torch.AcceleratorError(SAID)
        return real(*given, **named)

    monkeypatch.setattr(owner, name, broken)


@pytest.mark.parametrize(("phase", "task"), [marked(*each) for each in ALL])
def test_in_every_phase_the_run_stops_with_75_and_goes_on_later(phase, task, request, monkeypatch):
    desk = desk_of(task, request)
    desk.config(**QUICK | {"preview": PREVIEWS[task]})
    lose_the_card(monkeypatch, PHASES[phase][task], LOST_AT[phase])
    done = desk.train("run.yaml", "--output-dir", "cut")
    assert done.code == 75, done.text
    assert "LS7001 the graphics card stopped answering: CUDA error: unspecified launch failure" in done.err
    assert "asynchronously" not in done.text
    assert "Traceback" not in done.text
    assert "start the same command again" in done.err
    if phase in SAVED:
        assert saved(desk, "cut")[: len(SAVED[phase])] == SAVED[phase]
        assert raw(desk, "cut", "run_ended") == [{"status": "failed", "exit_code": 75}]
    assert not (desk.root / "cut/result.json").exists()
    monkeypatch.undo()
    again = desk.train("run.yaml", "--output-dir", "cut")
    assert again.code == 0, again.text
    assert desk.train("run.yaml", "--output-dir", "whole").code == 0
    assert bytes_of(desk, "whole", task) == bytes_of(desk, "cut", task)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "No CUDA GPUs are available",
        "CUDA driver error: device not ready",
    ],
)
def test_what_libraries_say_of_a_lost_card_is_understood(said):
    from lora_scripts.core.problems import ProblemsError
    from lora_scripts.training.failures import translated

    with pytest.raises(ProblemsError, match="LS7001"), translated():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="shapes"), translated():
        raise RuntimeError("shapes do not fit")


ON_ONE = """
import os
if os.environ.get("RANK", "0") == "{rank}":
    import itertools
    from lora_scripts.training.processes import Group
    real, taken = Group.reduce, itertools.count(1)
    def reduce(self, *given):
        if next(taken) == 7:
            import torch
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return real(self, *given)
    Group.reduce = reduce
"""


@pytest.mark.parametrize(
    ("rank", "count"),
    [
        pytest.param(0, 1, marks=pytest.mark.long),
        pytest.param(0, 2, marks=pytest.mark.slow),
        pytest.param(1, 2, marks=pytest.mark.slow),
    ],
)
def test_the_real_command_says_it_and_its_exit_code_is_75(rank, count, request):
    desk = desk_of("texts", request)
    desk.config(**QUICK)
    (desk.root / "fault").mkdir()
    (desk.root / "fault/sitecustomize.py").write_text(ON_ONE.format(rank=rank), encoding="utf-8")
    words = (
        ROOT / "train.py",
        "--config",
        "run.yaml",
        "--set",
        f"num_processes={count}",
        "--output-dir",
        "cut",
    )
    path = {"PYTHONPATH": f"{desk.root / 'fault'}:{ROOT / 'src'}"}
    done = process(*words, cwd=desk.root, **path)
    assert done.code == 75, done.text
    assert "LS7001 the graphics card stopped answering: CUDA error" in done.text
    assert "Traceback" not in done.text
    assert saved(desk, "cut")[-1] == "step-000006"
    again = desk.train("run.yaml", "--output-dir", "cut")
    assert again.code == 0, again.text
    assert "going on from step-000006" in again.out
