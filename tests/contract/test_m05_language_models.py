"""M5: text-generation through Transformers, with the loop, errors, saves and logs of the picture task."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from transformers import AutoModelForCausalLM

from lora_scripts.adapters import attach
from lora_scripts.adapters.narrow import hold_narrow
from tests.contract.conftest import ROOT, environment, process
from tests.texts.small import KINDS, write_model


def test_a_text_run_leaves_a_peft_adapter_and_no_picture_file(trained_voice):
    left = {path.name for path in (trained_voice.root / "output/voice").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= left
    assert "pytorch_lora_weights.safetensors" not in left
    assert {"voice-step000004", "voice-step000008", "voice-best"} <= left


def test_validation_says_loss_perplexity_and_answer_accuracy(trained_voice):
    result = trained_voice.result()
    assert result["validation_loss_after"] < result["validation_loss_before"]
    assert result["perplexity_after"] < result["perplexity_before"]
    assert 0 <= result["accuracy_after"] <= 1


def test_the_plan_proves_what_will_be_learnt(trained_voice):
    said = (trained_voice.root / "said.txt").read_text(encoding="utf-8")
    assert "messages" in said  # the form that was recognised
    assert "<|im_end|>" in said  # the end of a turn carries loss
    assert "within two days" in said  # an example of the user's own


def test_the_log_speaks_of_rows_and_answers(trained_voice):
    lines = (trained_voice.root / "output/voice/events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    started = next(event["data"] for event in events if event["type"] == "run_started")
    assert started["task"] == "text-generation"
    assert started["examples"] + started["held_out"] == 24
    previews = [event["data"] for event in events if event["type"] == "preview"]
    assert len(previews) >= 3  # before, during and after
    assert all(len(preview["texts"]) == 1 for preview in previews)


@pytest.mark.long
def test_the_door_as_typed_in_a_shell_says_and_leaves_the_same(trained_voice, tmp_path):
    for name in ("run.yaml", "rows.jsonl"):
        shutil.copy(trained_voice.root / name, tmp_path / name)
    done = process(ROOT / "train.py", "--config", "run.yaml", cwd=tmp_path)
    assert done.code == 0, done.text
    assert "<|im_end|>" in done.text
    assert "within two days" in done.text
    ours, shell = (root / "output/voice" for root in (trained_voice.root, tmp_path))
    assert {path.name for path in ours.iterdir()} == {path.name for path in shell.iterdir()}
    name = "adapter_model.safetensors"
    assert (ours / name).read_bytes() == (shell / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_mainstream_kind_trains_and_reloads(make_text_desk, tmp_path, kind):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    desk = make_text_desk()
    desk.base = write_model(tmp_path / kind, kind)
    done = desk.train(desk.config(max_steps=4))
    assert done.code == 0, done.text
    folder = desk.root / "output/voice"
    bare = AutoModelForCausalLM.from_pretrained(desk.base, dtype=torch.float32)
    ids = torch.arange(3, 23).unsqueeze(0)
    with torch.no_grad():
        before = bare(ids).logits.clone()
        after = PeftModel.from_pretrained(bare, str(folder)).eval()(ids).logits
    assert float((after - before).abs().max()) > 1e-4


def test_in_float32_a_16_bit_base_is_held_in_16_bits_and_nothing_changes(
    make_text_desk, tiny_chat_base, tmp_path, monkeypatch
):
    base = shutil.copytree(tiny_chat_base, tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(tiny_chat_base).bfloat16().save_pretrained(base)
    files, held = [], []
    for hold in (hold_narrow, lambda layers: 0):
        monkeypatch.setattr(attach, "hold_narrow", lambda layers, hold=hold: held.append(hold(layers)))
        desk = make_text_desk()
        preview = {"prompts": ["Where is my parcel?"], "max_new_tokens": 4}
        done = desk.train(desk.config(base_model=str(base), preview=preview))
        assert done.code == 0, done.text
        files.append((desk.root / "output/voice/adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert held[0] > 0
    assert held[1] == 0


@pytest.mark.long
def test_a_killed_run_ends_with_the_same_bytes(make_text_desk):
    whole, killed = make_text_desk(), make_text_desk()
    config = whole.config(max_steps=30, save_steps=5, lora_dropout=0.1)
    assert whole.train(config).code == 0
    killed.config(max_steps=30, save_steps=5, lora_dropout=0.1)
    words = [sys.executable, str(ROOT / "train.py"), "--config", "run.yaml"]
    child = subprocess.Popen(
        words, cwd=killed.root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    first = killed.root / "output/voice/checkpoints/step-000005"
    until = time.monotonic() + 120
    while not first.exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (killed.root / "output/voice/result.json").exists()
    done = killed.train("run.yaml")
    assert done.code == 0, done.text
    name = "output/voice/adapter_model.safetensors"
    assert (killed.root / name).read_bytes() == (whole.root / name).read_bytes()


def test_packing_changes_speed_and_not_what_is_learnt(make_text_desk):
    from safetensors.torch import load_file

    results = []
    for packing in (True, False):
        desk = make_text_desk()
        # one group of rows either way, so that both see the same windows
        rows = [{"prompt": f"Question number {n:02d}?", "completion": f"Answer {n:02d}."} for n in range(16)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (desk.root / "rows.jsonl").write_text(text, encoding="utf-8")
        assert desk.train(desk.config(packing=packing, max_steps=4, validation={"split": 0})).code == 0
        results.append(load_file(desk.root / "output/voice/adapter_model.safetensors"))
    packed, padded = results
    assert all((packed[name] - padded[name]).abs().max() < 1e-5 for name in packed)


def test_a_bad_row_is_named_with_its_line(text_desk):
    good = '{"prompt": "a", "completion": "b"}\n'
    (text_desk.root / "bad.jsonl").write_text(good * 2 + '{"prompt": "a", completion: "b"}\n' + good)
    done = text_desk.cli("check", "--config", text_desk.config("bad.yaml", metadata_path="./bad.jsonl"))
    assert done.code == 3
    assert "bad.jsonl:3" in done.err


def test_a_picture_key_in_a_text_run_is_refused(text_desk):
    done = text_desk.cli("check", "--config", text_desk.config("mixed.yaml", resolution=512))
    assert done.code == 2
    assert "LS1022" in done.err


def test_a_language_model_in_a_picture_run_is_explained(text_desk, tiny_chat_base):
    config = text_desk.root / "picture.yaml"
    config.write_text(f"train_data_dir: .\nbase_model: {tiny_chat_base}\noutput_dir: ./output/x\n")
    done = text_desk.cli("check", "--config", config)
    assert done.code == 2
    assert "LS1023" in done.err
