"""What a file is said to be, and which programs are said to load it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_scripts.cli.inspect import report_lines
from lora_scripts.config.load import load_config
from lora_scripts.core.catalogue import use_language
from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox.clients import CLIENTS
from lora_scripts.toolbox.inspect import config_yaml, inspect_file

SHARED = Path(__file__).parents[3] / "shared" / "data" / "lora"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/lora is not here")
Q = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def kohya(
    path, *, alpha=(4.0,), te="lora_te_text_model_encoder_layers_0_self_attn_out_proj", width=768, **metadata
):
    tensors = {}
    for number, name in enumerate((f"lora_unet_{Q}", te)):
        tensors[f"{name}.lora_down.weight"] = torch.zeros(4, width)
        tensors[f"{name}.lora_up.weight"] = torch.zeros(320, 4)
        if number < len(alpha):
            tensors[f"{name}.alpha"] = torch.tensor(alpha[number])
    save_file(tensors, str(path), metadata or None)
    return inspect_file(path)


def answers(report):
    return {client: verdict.answer for client, verdict in report.clients.items()}


def test_our_own_file_loads_everywhere_and_gives_its_yaml_back(lora, tmp_path):
    report = inspect_file(lora)
    assert (report.kind, report.layout, report.base) == ("lora", "kohya", "sd15")
    assert (report.ranks, report.alphas, report.modules) == ((4,), (4.0,), {"lora_unet": 72})
    assert report.trigger_words == "mystyle"
    assert answers(report) == dict.fromkeys(CLIENTS, "yes")
    (tmp_path / "again.yaml").write_text(config_yaml(report), encoding="utf-8")
    config = load_config(tmp_path / "again.yaml")
    assert (config.lora_rank, config.output_name, config.output_dir) == (4, "style", "./output/style")


def test_the_report_is_complete_in_both_languages_and_as_json(lora):
    report = inspect_file(lora)
    found = {}
    for language in ("en", "zh"):
        use_language(language)
        found[language] = "\n".join(report_lines(report))
    assert "A1111 WebUI: yes" in found["en"]
    assert "rank: 4" in found["en"]
    assert found["en"] != found["zh"]
    data = json.loads(json.dumps(report.to_json()))
    assert data["clients"]["ComfyUI"]["answer"] == "yes"
    assert data["base_title"] == "Stable Diffusion 1.x"


@pytest.mark.parametrize(("width", "base"), [(768, "sd15"), (1024, "sd2"), (2048, "sdxl"), (5, None)])
def test_the_base_is_told_from_the_shapes_where_the_header_is_silent(tmp_path, width, base):
    assert kohya(tmp_path / "x.safetensors", alpha=(4.0, 4.0), width=width).base == base


def test_the_header_has_the_first_word_on_the_base(tmp_path):
    found = kohya(tmp_path / "x.safetensors", ss_base_model_version="sdxl_base_v1-0")
    assert found.base == "sdxl"


def test_traps_that_clients_are_silent_about_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    assert answers(kohya(path, alpha=(4.0, 4.0))) == dict.fromkeys(CLIENTS, "yes")
    assert answers(kohya(path, alpha=(4.0, 2.0)))["Diffusers"] == "part"
    assert answers(kohya(path, alpha=(4.0,)))["Diffusers"] == "part"
    assert answers(kohya(path, alpha=()))["Diffusers"] == "yes"
    lonely = answers(kohya(path, alpha=(4.0, 4.0), te="lora_te_text_model_encoder_layers_0_self_attn_q_proj"))
    assert (lonely["Diffusers"], lonely["ComfyUI"]) == ("no", "yes")
    te1 = answers(kohya(path, alpha=(4.0, 4.0), te="lora_te1_text_model_encoder_layers_0_mlp_fc1"))
    assert (te1["sd-scripts"], te1["A1111 WebUI"]) == ("part", "yes")
    bare = answers(kohya(path, alpha=(4.0, 4.0), te="lora_te_encoder_layers_0_mlp_fc1"))
    assert (bare["Diffusers"], bare["ComfyUI"]) == ("yes", "part")
    assert answers(kohya(path, alpha=(4.0, 4.0), lora_adapter_metadata="{}"))["Diffusers"] == "no"


def test_diffusers_own_layout_is_said_to_do_nothing_in_a_webui(tmp_path):
    name = "unet." + Q.replace("_", ".")
    save_file({f"{name}.lora_A.weight": torch.zeros(4, 768)}, str(tmp_path / "d.safetensors"))
    found = answers(inspect_file(tmp_path / "d.safetensors"))
    assert (found["Diffusers"], found["ComfyUI"], found["A1111 WebUI"]) == ("yes", "part", "no")


def test_a_lora_of_the_demonstration_base_is_for_no_webui(tmp_path):
    config = json.dumps({"base_model": "builtin:demo"})
    found = answers(kohya(tmp_path / "x.safetensors", lora_scripts_config=config))
    assert (found["Diffusers"], found["A1111 WebUI"]) == ("yes", "no")


@needs_shared
@pytest.mark.parametrize(
    ("name", "kind", "layout", "modules"),
    [
        ("sd15_diffusers_layout.safetensors", "lora", "diffusers", 128),
        ("sd15_old_processor_layout.safetensors", "lora", "diffusers_processor", 128),
        ("sd15_pti_layout.safetensors", "lora", "pti", 192),
        ("peft_gpt2/adapter_model.safetensors", "lora", "peft", 12),
        ("sd15_textual_inversion.safetensors", "embedding", "word", 1),
        ("sdxl_token_embeddings.pti", "embedding", "parts", 4),
    ],
)
def test_files_of_the_wild_are_named(name, kind, layout, modules):
    report = inspect_file(SHARED / name)
    assert (report.kind, report.layout, sum(report.modules.values())) == (kind, layout, modules)


def test_what_cannot_be_inspected_is_said(tmp_path):
    for path, code in ((tmp_path / "none.safetensors", "LS4051"), (tmp_path / "text.safetensors", "LS4004")):
        if code == "LS4004":
            path.write_text("hello there, this is text")
        with pytest.raises(ProblemsError) as caught:
            inspect_file(path)
        assert caught.value.problems[0].code == code
    save_file({"a": torch.zeros(1)}, str(tmp_path / "foreign.safetensors"))
    with pytest.raises(ProblemsError) as caught:
        config_yaml(inspect_file(tmp_path / "foreign.safetensors"))
    assert caught.value.problems[0].code == "LS4050"
