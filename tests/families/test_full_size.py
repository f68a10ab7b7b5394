"""Stable Diffusion 1.5 at its published size, on the meta device: counts, names and configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_scripts.adapters.spec import match_targets
from lora_scripts.families import sd15
from lora_scripts.families._components import weight_shapes
from lora_scripts.families._single_file import own_shapes
from tests.families import full_size

SHARED = Path(__file__).parents[3] / "shared" / "data" / "components" / "sd15"


@pytest.fixture(scope="module")
def modules():
    return full_size.modules()


@pytest.fixture(scope="module")
def layers(modules):
    return {name: weight_shapes(module) for name, module in modules.items()}


def test_the_parts_have_their_published_sizes(modules):
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}
    assert counts == {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}


@pytest.mark.parametrize(("preset", "unet"), [("auto", 192), ("attention-mlp", 192), ("attention", 128)])
def test_presets_take_the_modules_that_sd_scripts_and_diffusers_take(layers, preset, unet):
    matched = match_targets(sd15.SHEET, layers, preset, train_text_encoder=True)
    assert {name: len(found) for name, found in matched.items()} == {"unet": unet, "text_encoder": 72}


def test_kohya_names_are_one_to_one_and_those_of_sd_scripts(layers):
    matched = match_targets(sd15.SHEET, layers, "auto", train_text_encoder=True)
    names = {sd15.FAMILY.names(c, m): (c, m) for c, found in matched.items() for m in found}
    assert len(names) == 264
    back = sd15.FAMILY.modules_by_name(layers)
    assert all(back[name] == own for name, own in names.items())
    assert {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj",
        "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0",
        "lora_unet_up_blocks_1_attentions_0_proj_in",
        "lora_te_text_model_encoder_layers_11_self_attn_q_proj",
        "lora_te_text_model_encoder_layers_0_mlp_fc2",
    } <= names.keys()


def test_configurations_come_out_of_the_shapes(layers):
    shapes = full_size.shapes()
    for name, layout in sd15.FAMILY.layouts.items():
        found = own_shapes(layout, shapes)
        assert found is not None
        assert layout.config(found[1]) == full_size.CONFIGS[name]


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/components is not here")
@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_our_own_configurations_are_the_published_ones(component):
    published = json.loads((SHARED / component / "config.json").read_text())
    ours = full_size.CONFIGS[component]
    passed_over = {"bos_token_id", "eos_token_id", "pad_token_id"}  # older libraries' placeholders
    shared = {k: v for k, v in published.items() if k in ours and k not in passed_over}
    assert shared == {k: ours[k] for k in shared}
    assert len(shared) > 8


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/components is not here")
def test_our_tokenizer_is_the_published_one():
    from lora_scripts.families._clip import merges, tokenizer, vocabulary

    assert vocabulary() == json.loads((SHARED / "tokenizer" / "vocab.json").read_text())
    lines = (SHARED / "tokenizer" / "merges.txt").read_text().splitlines()[1:]
    assert [" ".join(pair) for pair in merges()] == lines
    from transformers import CLIPTokenizer

    published = CLIPTokenizer.from_pretrained(str(SHARED / "tokenizer"), local_files_only=True)
    texts = ["A cat, 霓虹 city!!", "", "naïve café's  two\nlines", "word " * 100, "<lora:x:1>"]
    options = {"padding": "max_length", "truncation": True, "max_length": 77}
    assert tokenizer()(texts, **options).input_ids == published(texts, **options).input_ids


def test_the_tokenizer_needs_no_files_of_the_user():
    from lora_scripts.families._clip import tokenizer

    ids = tokenizer()(["a cat"], padding="max_length", max_length=77).input_ids[0]
    assert ids[:4] == [49406, 320, 2368, 49407]
    assert ids[4:] == [49407] * 73
