"""A text LoRA is described from its folder, and what other programs make of it is said."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_scripts.cli.inspect import report_lines
from lora_scripts.core.language import use_language
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families._source import resolve
from lora_scripts.toolbox.inspect import config_yaml, inspect_file
from lora_scripts.toolbox.loras import parse_choice, put_on
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


def test_what_it_is_for_is_said_in_chinese(voice):
    use_language("zh")
    lines = "\n".join(report_lines(inspect_file(voice)))
    assert "适用于：语言模型" in lines
    assert "language model" not in lines
    assert inspect_file(voice).to_json()["base_title"] == "language model"


def test_a_folder_without_an_adapter_is_told_from_nothing_at_all(tmp_path, voice):
    base = voice.parent / "base"
    with pytest.raises(ProblemsError) as error:
        inspect_file(base)
    (problem,) = error.value.problems
    assert (problem.code, problem.params["files"]) == ("LS4052", "model.safetensors")
    with pytest.raises(ProblemsError) as error:
        inspect_file(tmp_path / "none")
    assert error.value.problems[0].code == "LS4051"


def test_an_adapter_in_another_things_place_is_named(voice):
    with pytest.raises(ProblemsError) as error:
        resolve(str(voice))
    assert error.value.problems[0].code == "LS4019"
    with pytest.raises(ProblemsError) as error:
        parse_choice(f"{voice}:0.5")
    assert error.value.problems[0].code == "LS4045"
    with pytest.raises(ProblemsError) as error:
        put_on(None, [parse_choice(str(voice / "adapter_model.safetensors"))])
    assert error.value.problems[0].code == "LS4045"
