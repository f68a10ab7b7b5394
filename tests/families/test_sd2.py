"""Stable Diffusion 2.x: its folder and its file, what it predicts, and the file that clients load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_scripts.adapters.attach import attach
from lora_scripts.adapters.spec import AdapterSpec, match_targets
from lora_scripts.core.problems import ProblemsError
from lora_scripts.export.facts import ExportFacts
from lora_scripts.export.kohya import export_lora
from lora_scripts.export.readback import read_back
from lora_scripts.families import _source, sd2
from lora_scripts.families._base import Draw
from lora_scripts.families._components import build, weight_shapes
from lora_scripts.families._open_clip import used_layers
from tests.families import tiny
from tests.families.loaded import load
from tests.families.test_single_file import same

SHARED = Path(__file__).parents[3] / "shared" / "data" / "components" / "sd21"
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "attention_head_dim": [5, 10, 20, 20],
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "max_position_embeddings": 77,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


@pytest.fixture(scope="module")
def parts():
    return tiny.parts(second=True)


@pytest.fixture(scope="module")
def velocity_folder(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("sd2") / "folder"
    return tiny.write_folder(path, parts, prediction_type="v_prediction")


def describe(path, **kwargs):
    source = _source.resolve(str(path))
    return _source.find("auto", source).describe(source, **kwargs)


def test_a_folder_and_a_file_are_recognised_and_hold_the_same_weights(tmp_path, parts, velocity_folder):
    single = tiny.write_single(tmp_path / "one.safetensors", parts, markers=("v_pred",))
    for path in (velocity_folder, single):
        model = load(path)
        assert model.description.family == "sd2"
        assert model.description.prediction_type == "v_prediction"
        same(model, parts)
        assert not any(p.requires_grad or p.is_meta for m in model.modules.values() for p in m.parameters())


def test_a_file_and_its_folder_predict_alike(tmp_path, parts, velocity_folder):
    single = tiny.write_single(tmp_path / "one.safetensors", parts, markers=("v_pred",))
    outputs = []
    for path in (velocity_folder, single):
        model = load(path)
        item = {"latents": torch.linspace(-1, 1, 8 * 64).view(8, 8, 8)}
        item["text"] = model.family.prompts(model, ["a red house"])[0]["prompt_embeds"][0]
        outputs.append(model.family.predict(model, model.family.collate(model, [item], [Draw(1)])))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def test_a_file_that_was_converted_back_has_its_used_layers_only():
    blocks = {f"transformer.resblocks.{n}.ln_1.weight": (8,) for n in range(24)}
    assert used_layers(blocks) == 23
    del blocks["transformer.resblocks.23.ln_1.weight"]
    assert used_layers(blocks) == 23
    assert used_layers({**blocks, "text_projection": (8, 8)}) == 22


@pytest.mark.parametrize(
    ("given", "kind", "settled", "resolution"),
    [
        ({"markers": ("v_pred",)}, "v_prediction", True, 768),
        ({"metadata": {"modelspec.prediction_type": "v"}}, "v_prediction", True, 768),
        ({"metadata": {"modelspec.prediction_type": "epsilon"}}, "epsilon", True, 512),
        ({"metadata": {"modelspec.architecture": "stable-diffusion-v2-512"}}, "epsilon", True, 512),
        ({"metadata": {"modelspec.architecture": "stable-diffusion-v2-768-v"}}, "v_prediction", True, 768),
        ({}, "v_prediction", False, 768),
    ],
)
def test_what_a_file_predicts_is_what_it_says(tmp_path, parts, given, kind, settled, resolution):
    found = describe(tiny.write_single(tmp_path / "one.safetensors", parts, **given))
    assert (found.prediction_type, found.prediction_settled, found.resolution) == (kind, settled, resolution)


def test_the_config_settles_it_before_any_marker(tmp_path, parts):
    path = tiny.write_single(tmp_path / "one.safetensors", parts, markers=("v_pred",))
    found = describe(path, prediction_type="epsilon")
    assert (found.prediction_type, found.prediction_settled, found.resolution) == ("epsilon", True, 512)


def test_a_folder_that_says_nothing_is_not_taken_for_anything(tmp_path, parts):
    path = tiny.write_folder(tmp_path / "old", parts)
    file = path / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    del config["prediction_type"]
    file.write_text(json.dumps(config))
    assert describe(path).prediction_settled is False


def test_captions_are_padded_as_open_clip_pads(tmp_path, parts):
    model = load(tiny.write_single(tmp_path / "one.safetensors", parts, markers=("v_pred",)))
    ids = model.family.tokenize(model, ["a cat"])["ids"][0].tolist()
    assert ids == [49406, 320, 2368, 49407] + [0] * 73


def trained(model, targets="auto", text=True, seed=3):
    adapter = attach(model, AdapterSpec(2, 2.0, targets=targets), train_text_encoder=text, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if "lora_B" in name:
                parameter.normal_(0, 0.2, generator=generator)
    return adapter


def test_the_lora_of_a_file_says_what_it_is_for_and_is_read_back(tmp_path, parts, velocity_folder):
    model = load(velocity_folder)
    adapter = trained(model)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, ExportFacts("x", {}))
    assert done.metadata["ss_v2"] == "True"
    assert done.metadata["ss_base_model_version"] == "sd_v2_v"
    assert done.metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert done.metadata["modelspec.prediction_type"] == "v"
    names = {name.split(".")[0] for name in done.tensors}
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj" in names
    assert not any(name.startswith(("lora_te1_", "lora_te2_")) for name in names)
    proof = read_back(done.path, model, adapter)
    assert proof.layers == {name: len(found) for name, found in adapter.matched.items()}


def test_of_attention_a_client_gets_all_four_or_none(tmp_path, velocity_folder):
    """Clients keep them as one weight, and drop a layer of which they find only some."""
    model = load(velocity_folder)
    adapter = trained(model, targets=("to_q", "encoder.layers.0.self_attn.q_proj"))
    done = export_lora(tmp_path / "x.safetensors", model, adapter, ExportFacts("x", {}))
    tensors = load_file(str(done.path))
    start = "lora_te_text_model_encoder_layers_0_self_attn_"
    layers = {name.split(".")[0] for name in tensors if name.startswith("lora_te_")}
    assert layers == {f"{start}{part}_proj" for part in ("q", "k", "v", "out")}
    assert bool(tensors[f"{start}q_proj.lora_up.weight"].abs().max() > 0)
    for part in ("k", "v", "out"):
        assert not tensors[f"{start}{part}_proj.lora_up.weight"].any()
        assert tensors[f"{start}{part}_proj.lora_down.weight"].shape == (2, 64)
        assert float(tensors[f"{start}{part}_proj.alpha"]) == 2.0
    assert read_back(done.path, model, adapter).layers == {
        "unet": len(adapter.matched["unet"]),
        "text_encoder": 1,
    }


def test_an_epsilon_base_is_filed_as_one(tmp_path, parts):
    model = load(tiny.write_folder(tmp_path / "e", parts, prediction_type="epsilon"))
    done = export_lora(tmp_path / "x.safetensors", model, trained(model), ExportFacts("x", {}))
    assert done.metadata["ss_base_model_version"] == "sd_v2"
    assert done.metadata["modelspec.architecture"] == "stable-diffusion-v2-512/lora"


@pytest.fixture(scope="module")
def full_size():
    configs = {"unet": {**sd2.shared.UNET, **sd2.UNET, **UNET}, "text_encoder": {**sd2.TEXT, **TEXT}}
    return configs, {name: build(sd2.SHEET.components[name], config) for name, config in configs.items()}


def test_the_parts_have_their_published_sizes_and_layers(full_size):
    _, modules = full_size
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    assert counts == {"unet": 865_910_724, "text_encoder": 340_387_840}
    layers = {name: weight_shapes(module) for name, module in modules.items()}
    matched = match_targets(sd2.SHEET, layers, "auto", train_text_encoder=True)
    assert {name: len(found) for name, found in matched.items()} == {"unet": 192, "text_encoder": 138}


def test_configurations_come_out_of_the_shapes(full_size):
    configs, modules = full_size
    unet = tiny.original_unet(modules["unet"].state_dict(), 2, 4)
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.items()}
    assert sd2.FAMILY.layouts["unet"].config(shapes) == configs["unet"]
    text = tiny.open_clip(modules["text_encoder"].state_dict(), modules["text_encoder"].config)
    prefix = "cond_stage_model.model."
    shapes = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in text.items()}
    assert sd2.FAMILY.layouts["text_encoder"].config(shapes) == configs["text_encoder"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/components is not here")
def test_our_own_configurations_are_the_published_ones(full_size):
    configs = {**full_size[0], "vae": {**sd2.shared.VAE, **sd2.VAE}}
    passed_over = {"bos_token_id", "eos_token_id", "pad_token_id"}  # older libraries' placeholders
    for component, ours in configs.items():
        published = json.loads((SHARED / component / "config.json").read_text())
        common = {k: v for k, v in published.items() if k in ours and k not in passed_over}
        assert common == {k: ours[k] for k in common}
        assert len(common) > 4


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/components is not here")
def test_our_tokenizer_is_the_published_one():
    from transformers import CLIPTokenizer

    from lora_scripts.families._clip import tokenizer

    published = CLIPTokenizer.from_pretrained(str(SHARED / "tokenizer"), local_files_only=True)
    texts = ["A cat, 霓虹 city!!", "", "naïve café's  two\nlines", "word " * 100, "<lora:x:1>"]
    options = {"padding": "max_length", "truncation": True, "max_length": 77}
    assert tokenizer(padding="!")(texts, **options).input_ids == published(texts, **options).input_ids


def test_a_special_purpose_unet_is_named(tmp_path, parts):
    unet = type(parts["unet"])(**{**tiny.UNET2, "in_channels": 5})
    path = tiny.write_folder(tmp_path / "depth", {**parts, "unet": unet}, prediction_type="epsilon")
    with pytest.raises(ProblemsError) as caught:
        describe(path)
    assert caught.value.problems[0].code == "LS4010"
    assert caught.value.problems[0].params["kind"] == "depth"
