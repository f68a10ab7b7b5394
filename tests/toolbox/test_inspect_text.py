"""A text LoRA is described from its folder, and what other programs make of it is said."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_scripts.cli.inspect import report_lines
from lora_scripts.toolbox.inspect import config_yaml, inspect_file
from lora_scripts.toolbox.text_clients import TEXT_CLIENTS
from tests.export.text_loras import make


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    return make(tmp_path_factory.mktemp("voice")).lora


def answers(report):
    return {client: verdict.answer for client, verdict in report.clients.items()}


@pytest.fixture
def copy(tmp_path, voice):
    """A copy of the adapter with other settings, or with other tensors."""

    def make_copy(change=lambda tensors: tensors, **settings):
        config = json.loads((voice / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **settings}))
        save_file(
            change(load_file(voice / "adapter_model.safetensors")), tmp_path / "adapter_model.safetensors"
        )
        return inspect_file(tmp_path)

    return make_copy


def test_a_folder_and_its_file_are_the_same_thing(voice):
    report = inspect_file(voice)
    assert report == inspect_file(voice / "adapter_model.safetensors")
    assert (report.kind, report.layout, report.base) == ("lora", "peft", "causal_lm")
    assert (report.ranks, report.alphas, report.name) == ((4,), (6.0,), "voice")
    assert report.modules["q_proj"] == 2
    assert answers(report) == dict.fromkeys(TEXT_CLIENTS, "yes")
    assert report.facts["base_model"].endswith("base")
    assert any("vLLM" in line for line in report_lines(report))


def test_the_yaml_comes_back(voice):
    text = config_yaml(inspect_file(voice))
    assert "learning_rate: 0.0001" in text
    assert "output_name: voice" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"use_rslora": True}, {"llama.cpp": "part"}),
        ({"rank_pattern": {"q_proj": 2}}, {"llama.cpp": "part"}),
        ({"use_dora": True}, {"vLLM": "no", "llama.cpp": "no"}),
        ({"modules_to_save": ["lm_head"]}, {"vLLM": "no", "llama.cpp": "no"}),
        ({"bias": "all"}, {"vLLM": "no"}),
        ({"target_parameters": ["mlp.experts.down_proj"]}, {"vLLM": "unknown", "llama.cpp": "no"}),
        ({"init_lora_weights": "pissa"}, dict.fromkeys(TEXT_CLIENTS, "part")),
        ({"r": 64}, {}),
    ],
)
def test_what_clients_cannot_do_is_said(copy, settings, expected):
    assert answers(copy(**settings)) == dict.fromkeys(TEXT_CLIENTS, "yes") | expected


def test_names_that_load_nothing_are_said(copy):
    inside = copy(lambda tensors: {n.replace(".weight", ".default.weight"): t for n, t in tensors.items()})
    assert answers(inside) == dict.fromkeys(TEXT_CLIENTS, "no")
    bare = copy(lambda tensors: {n.removeprefix("base_model.model."): t for n, t in tensors.items()})
    assert answers(bare) == {"PEFT": "no", "vLLM": "yes", "llama.cpp": "yes"}


def test_without_its_settings_no_program_takes_it(tmp_path):
    tensors = {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight": torch.ones(4, 4) for x in "AB"
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    report = inspect_file(tmp_path)
    assert answers(report) == dict.fromkeys(TEXT_CLIENTS, "no")
    assert report.ranks == (4,)
