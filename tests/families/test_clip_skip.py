"""Text from an earlier layer of the encoder: what an encoder without the last layers would give."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.families.test_diffusion import load, sample


def test_it_is_what_a_shorter_encoder_gives(folder):
    model = load(folder)
    ids = model.family.tokenize(model, ["a red house"])
    with torch.no_grad():
        whole = model.family.embed(model, ids)["text"]
        model.clip_skip = 2
        skipped = model.family.embed(model, ids)["text"]
        shorter = copy.deepcopy(model.modules["text_encoder"])
        inner = getattr(shorter, "text_model", shorter)
        inner.encoder.layers = inner.encoder.layers[:-1]
        wanted = shorter(ids["ids"]).last_hidden_state
    torch.testing.assert_close(skipped, wanted)
    assert not torch.allclose(skipped, whole, atol=1e-3)


def test_the_last_layer_is_the_usual_one(folder):
    model = load(folder)
    ids = model.family.tokenize(model, ["a red house"])["ids"]
    encoder = model.modules["text_encoder"]
    inner = getattr(encoder, "text_model", encoder)
    with torch.no_grad():
        last = encoder(ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(inner.final_layer_norm(last), encoder(ids).last_hidden_state)


def test_previews_and_the_cache_follow_it(folder, tmp_path):
    one = sample(tmp_path)
    plain = load(folder)
    before = plain.family.prompts(plain, ["a red house"])[0]["prompt_embeds"]
    key = plain.family.stages(plain)[1].key(one)
    plain.clip_skip = 2
    assert plain.family.stages(plain)[1].key(one) != key
    assert not torch.allclose(plain.family.prompts(plain, ["a red house"])[0]["prompt_embeds"], before)


@pytest.mark.parametrize("skip", [1, 2])
def test_a_trained_encoder_gets_its_gradient_through_it(folder, skip):
    from lora_scripts.adapters.attach import attach
    from lora_scripts.adapters.spec import AdapterSpec

    model = load(folder)
    model.clip_skip = skip
    adapter = attach(model, AdapterSpec(2, 2.0), train_text_encoder=True, seed=1)
    ids = model.family.tokenize(model, ["a red house"])
    model.family.embed(model, ids)["text"].square().sum().backward()
    moved = {
        name.split(".")[3]: parameter.grad is not None
        for name, parameter in adapter.of("text_encoder").items()
        if name.endswith("lora_B.weight")
    }
    assert moved == {"0": True, "1": skip == 1}
