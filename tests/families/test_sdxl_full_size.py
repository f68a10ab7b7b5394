"""Stable Diffusion XL at its published size, on the meta device: counts, names and configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_scripts.adapters.spec import match_targets
from lora_scripts.families import _source, sdxl
from lora_scripts.families._components import weight_shapes
from lora_scripts.families._single_file import own_shapes
from tests.bases import sdxl as small
from tests.families import full_size_sdxl, tiny

SHARED = Path(__file__).parents[3] / "shared" / "data" / "components" / "sdxl"


@pytest.fixture(scope="module")
def published():
    return full_size_sdxl.modules()


def test_the_parts_have_their_published_sizes(published):
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in published.items()}
    assert counts == {
        "unet": 2_567_463_684,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
        "vae": 83_653_863,
    }


@pytest.mark.parametrize(("preset", "unet"), [("attention-mlp", 722), ("attention", 560)])
def test_presets_take_the_modules_that_sd_scripts_takes_under_its_names(published, preset, unet):
    layers = {name: weight_shapes(module) for name, module in published.items()}
    matched = match_targets(sdxl.SHEET, layers, preset, train_text_encoder=True)
    counts = {name: len(found) for name, found in matched.items()}
    assert counts == {"unet": unet, "text_encoder": 72, "text_encoder_2": 192}
    if preset == "attention":
        return
    # every linear layer of the transformers in the original file, and of no other part, with its shape
    original = tiny.original_unet(published["unet"].state_dict(), 2, 3)
    inside = [n for n in original if ".1." in n and n.endswith(".weight") and original[n].ndim == 2]
    inside = [n for n in inside if "emb_layers" not in n]
    wanted = {
        f"lora_unet_{n.removesuffix('.weight').replace('.', '_')}": tuple(original[n].shape) for n in inside
    }
    named = {sdxl.FAMILY.names("unet", m): layers["unet"][m] for m in matched["unet"]}
    assert named == wanted
    assert {
        "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
        "lora_unet_output_blocks_5_1_transformer_blocks_1_attn2_to_v",
    } <= named.keys()
    back = sdxl.FAMILY.modules_by_name(layers)
    places = {(c, m) for c, found in matched.items() for m in found}
    assert {back[sdxl.FAMILY.names(*place)] for place in places} == places
    assert sdxl.FAMILY.names("text_encoder_2", matched["text_encoder_2"][-1]).startswith(
        "lora_te2_text_model_"
    )


def test_configurations_come_out_of_the_shapes():
    shapes = full_size_sdxl.shapes()
    for name, layout in sdxl.FAMILY.layouts.items():
        found = own_shapes(layout, shapes)
        assert found is not None
        assert layout.config(found[1]) == full_size_sdxl.CONFIGS[name], name


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/components is not here")
@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_our_own_configurations_are_the_published_ones(component):
    theirs = json.loads((SHARED / component / "config.json").read_text())
    ours = full_size_sdxl.CONFIGS[component]
    passed_over = {"bos_token_id", "eos_token_id", "pad_token_id"}  # older libraries' placeholders
    common = {k: v for k, v in theirs.items() if k in ours and k not in passed_over}
    assert common == {k: ours[k] for k in common}
    assert len(common) > 8


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/components is not here")
def test_our_tokenizers_are_the_published_ones(tmp_path):
    from transformers import CLIPTokenizer

    source = _source.resolve(str(small.single(tmp_path / "one.safetensors")))
    texts = ["A cat, 霓虹 city!!", "", "naïve café's  two\nlines", "word " * 100]
    options = {"padding": "max_length", "truncation": True, "max_length": 77}
    for name, ours in sdxl.FAMILY.tokenizers(source).items():
        theirs = CLIPTokenizer.from_pretrained(str(SHARED / name), local_files_only=True)
        assert ours(texts, **options).input_ids == theirs(texts, **options).input_ids
