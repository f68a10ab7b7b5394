"""The text encoder trained along: in the file, at its own rate, resumed to the last bit."""

import json

import pytest
from safetensors import safe_open

from tests.contract.conftest import make_desk, tiny_base  # noqa: F401 - fixtures


@pytest.mark.long
def test_a_trained_text_encoder_is_in_the_file_and_read_back(make_desk):  # noqa: F811
    desk = make_desk()
    options = dict(train_text_encoder=True, text_encoder_learning_rate=5e-4, max_steps=6, save_steps=3)
    whole = desk.train(desk.config(output_dir="output/whole", output_name="te", **options))
    assert whole.code == 0, whole.text
    path = desk.root / "output/whole/te.safetensors"
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        ups = [file.get_tensor(n) for n in names if n.startswith("lora_te_") and "lora_up" in n]
        assert file.metadata()["ss_text_encoder_lr"] == "0.0005"
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha" in names
    assert all(bool(up.abs().max() > 0) for up in ups), "every text layer has learnt something"
    assert desk.result("output/whole")["readback"]["layers"]["text_encoder"] == 12
    steps = [
        json.loads(line)["data"]
        for line in (desk.root / "output/whole/events.jsonl").read_text(encoding="utf-8").splitlines()
        if '"type": "step"' in line
    ]
    assert steps[0]["learning_rates"] == {"predictor": 2e-3, "text_encoder": 5e-4}

    cut = desk.config(output_dir="output/cut", output_name="te", **options)
    first = desk.train(cut, "--set", "max_steps=3")
    assert first.code == 0, first.text
    (desk.root / "output/cut/result.json").unlink()  # as if it had been killed before it was finished
    second = desk.train(cut)
    assert second.code == 0, second.text
    assert "going on from step-000003" in second.out
    assert (desk.root / "output/cut/te.safetensors").read_bytes() == path.read_bytes()
