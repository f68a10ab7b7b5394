"""M1: one YAML file drives data check, captions, model, LoRA, logging and export; no training code."""

import json
import shutil

import pytest
from safetensors import safe_open

from tests.contract.conftest import ROOT, process


def test_m01_one_yaml_leaves_every_file_that_the_design_promises(trained):
    output = trained.root / "output" / "my_style"
    for name in (
        "pytorch_lora_weights.safetensors", "my_style.safetensors", "my_style-step000004.safetensors",
        "my_style-step000008.safetensors", "README.md", "config.yaml", "environment.json", "data.json",
        "result.json", "events.jsonl",
    ):  # fmt: skip
        assert (output / name).is_file(), name
    assert (output / "checkpoints" / "step-000008" / "manifest.json").is_file()
    weights = (output / "pytorch_lora_weights.safetensors").read_bytes()
    assert weights == (output / "my_style.safetensors").read_bytes()
    assert trained.result()["status"] == "finished"


def test_m01_the_events_tell_the_run_from_start_to_end(trained):
    lines = [
        json.loads(line)
        for line in (trained.root / "output/my_style/events.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    kinds = [line["type"] for line in lines]
    assert kinds.count("step") == 8
    assert {"phase", "run_started", "validation", "saved", "preview", "exported"} <= set(kinds)
    assert kinds[-1] == "run_ended"
    assert [line["seq"] for line in lines] == list(range(len(lines)))


def test_m01_the_trigger_word_is_in_captions_and_header(trained):
    data = json.loads((trained.root / "output/my_style/data.json").read_text(encoding="utf-8"))
    assert all(entry["caption"].startswith("mystyle") for entry in data["train"].values())
    with safe_open(trained.root / "output/my_style/my_style.safetensors", "pt") as file:
        assert file.metadata()["modelspec.trigger_phrase"] == "mystyle"


@pytest.mark.long
def test_m01_the_door_as_typed_in_a_shell_leaves_the_same_files(trained, tmp_path):
    for name in ("run.yaml", "pics"):
        (shutil.copytree if name == "pics" else shutil.copy)(trained.root / name, tmp_path / name)
    done = process(ROOT / "train.py", "--config", "run.yaml", cwd=tmp_path)
    assert done.code == 0, done.text
    ours, shell = (root / "output/my_style" for root in (trained.root, tmp_path))
    assert left(ours) == left(shell)
    name = "pytorch_lora_weights.safetensors"
    assert (ours / name).read_bytes() == (shell / name).read_bytes()


def left(folder):
    """What a run leaves; logs are named after time and process."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("logs/")}
