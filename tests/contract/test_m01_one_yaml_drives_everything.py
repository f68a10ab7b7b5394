"""M1: one YAML file drives data check, captions, model, LoRA, logging and export; no training code."""

import json

from safetensors import safe_open


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
