"""Which layers get a LoRA: presets, names, regular expressions, and what is said when nothing fits."""

from __future__ import annotations

import pytest

from lora_scripts.adapters.spec import match_targets
from lora_scripts.core.catalogue import render
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families.sd15 import SHEET

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
MODULES = {
    "unet": {
        "conv_in": (32, 4, 3, 3),
        "down_blocks.0.resnets.0.conv1": (32, 32, 3, 3),
        "down_blocks.0.attentions.0.proj_in": (32, 32, 1, 1),
        **{
            f"{BLOCK}.attn{n}.{leaf}": (32, 32)
            for n in (1, 2)
            for leaf in ("to_q", "to_k", "to_v", "to_out.0")
        },
        f"{BLOCK}.ff.net.0.proj": (256, 32),
        f"{BLOCK}.ff.net.2": (32, 128),
        "down_blocks.0.attentions.0.proj_out": (32, 32, 1, 1),
    },
    "text_encoder": {"encoder.layers.0.self_attn.q_proj": (64, 64), "encoder.layers.0.mlp.fc1": (128, 64)},
    "vae": {"encoder.mid_block.attentions.0.to_q": (32, 32)},
}


def matched(targets, **options):
    return match_targets(SHEET, MODULES, targets, **options)


def problems(targets):
    with pytest.raises(ProblemsError) as caught:
        matched(targets)
    for problem in caught.value.problems:
        for language in ("en", "zh"):
            assert render(problem, language)
    return caught.value.problems


def test_presets_take_attention_or_everything_around_it():
    assert len(matched("auto")["unet"]) == 12
    assert len(matched("attention")["unet"]) == 8
    assert not any("conv" in name for name in matched("auto")["unet"])


def test_the_vae_is_never_adapted_and_the_text_encoder_only_when_asked():
    assert set(matched("auto")) == {"unet"}
    assert set(matched("auto", train_text_encoder=True)) == {"unet", "text_encoder"}
    assert set(matched(["to_q", "q_proj"], train_text_encoder=True)) == {"unet", "text_encoder"}


def test_a_name_fits_the_end_of_a_module_and_a_regular_expression_the_whole():
    assert matched(["to_q"])["unet"] == [f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_q"]
    assert matched([r".*attn2\.to_[kv]"])["unet"] == [f"{BLOCK}.attn2.to_k", f"{BLOCK}.attn2.to_v"]
    assert matched([r"unet\.conv_in"])["unet"] == ["conv_in"]
    assert matched("to_q")["unet"] == matched(["to_q"])["unet"]


def test_order_is_the_models_and_nothing_comes_twice():
    assert matched(["to_v", "to_q", "to_q"])["unet"] == [
        f"{BLOCK}.attn{n}.{leaf}" for n in (1, 2) for leaf in ("to_q", "to_v")
    ]


def test_every_entry_that_fits_nothing_is_named_at_once():
    found = problems(["to_q", "to_qq", "fc9", "("])
    assert [p.code for p in found] == ["LS4022", "LS4022", "LS4021"]
    assert found[0].params["near"] == "to_q"


def test_a_misspelled_preset_suggests_one():
    found = problems("attention-mpl")
    assert (found[0].code, found[0].params["near"]) == ("LS4023", "attention-mlp")
    assert problems("atention")[0].params["near"] == "attention"


def test_no_layer_at_all_is_an_error():
    assert problems([])[0].code == "LS4020"
