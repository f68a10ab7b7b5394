"""Noise, targets, batches and stages: the numbers a latent diffusion model is trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_scripts.adapters.attach import attach, set_training
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.families._attention import PLAIN_UP_TO, ByShape
from lora_scripts.families._base import Draw
from lora_scripts.families._stages import StageOptions
from tests.families import tiny
from tests.families.loaded import load


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


def items(model, count=3):
    generator = torch.Generator().manual_seed(5)
    text = model.family.prompts(model, [f"a red house {n}" for n in range(count)])
    return [
        {"latents": torch.randn((8, 8, 8), generator=generator), "text": text[n]["prompt_embeds"][0]}
        for n in range(count)
    ]


def test_a_draw_is_a_function_of_its_seed_alone(model):
    family, given = model.family, items(model)
    draws = [Draw(n) for n in (11, 12, 13)]
    together = family.collate(model, given, draws)
    for n in (2, 0, 1):
        alone = family.collate(model, [given[n]], [draws[n]])
        assert all(torch.equal(alone[name][0], together[name][n]) for name in together)
    assert len(set(together["timesteps"].tolist())) > 1


def test_a_fixed_time_step_leaves_the_noise_as_it_was(model):
    family, given = model.family, items(model, 1)
    free = family.collate(model, given, [Draw(4)])
    fixed = family.collate(model, given, [Draw(4, 17)])
    assert torch.equal(free["noise"], fixed["noise"])
    assert torch.equal(free["latents"], fixed["latents"])
    assert fixed["timesteps"].tolist() == [17]


def test_latents_are_sampled_from_the_moments_and_scaled(model):
    mean, logvar = torch.full((4, 8, 8), 3.0), torch.full((4, 8, 8), -40.0)
    text = items(model, 1)[0]["text"]
    batch = model.family.collate(model, [{"latents": torch.cat([mean, logvar]), "text": text}], [Draw(1)])
    torch.testing.assert_close(batch["latents"], mean[None] * 0.18215, rtol=1e-4, atol=1e-5)
    wide = torch.cat([torch.zeros(4, 64, 64), torch.full((4, 64, 64), math.log(4.0))])
    spread = model.family.collate(model, [{"latents": wide, "text": text}], [Draw(1)])["latents"].std()
    assert float(spread) == pytest.approx(2 * 0.18215, rel=0.03)


def alphas_cumprod(step: int) -> float:
    """Stable Diffusion's schedule by definition: betas linear in their square root, 0.00085 to 0.012."""
    product = 1.0
    for n in range(step + 1):
        beta = (math.sqrt(0.00085) + n / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2
        product *= 1 - beta
    return product


@pytest.mark.parametrize("step", [0, 250, 999])
def test_noise_and_both_targets_follow_their_formulas(folder, step):
    for kind in ("epsilon", "v_prediction"):
        model = load(folder, prediction_type=kind)
        batch = model.family.collate(model, items(model, 1), [Draw(3, step)])
        x0, noise, kept = batch["latents"].double(), batch["noise"].double(), alphas_cumprod(step)
        alpha, sigma = math.sqrt(kept), math.sqrt(1 - kept)
        noisy = model.family.noisy(model, batch).double()
        torch.testing.assert_close(noisy, alpha * x0 + sigma * noise, rtol=1e-4, atol=1e-4)
        wanted = noise if kind == "epsilon" else alpha * noise - sigma * x0
        torch.testing.assert_close(model.family.target(model, batch).double(), wanted, rtol=1e-4, atol=1e-4)


def test_the_base_says_what_it_predicts_unless_the_config_does(tmp_path, tiny_parts):
    path = tiny.write_folder(tmp_path / "v", tiny_parts, prediction_type="v_prediction")
    assert load(path).description.prediction_type == "v_prediction"
    assert load(path, prediction_type="epsilon").description.prediction_type == "epsilon"


def test_a_batch_predicts_what_its_members_predict(model):
    family, given = model.family, items(model)
    draws = [Draw(n) for n in range(3)]
    with torch.no_grad():
        together = family.predict(model, family.collate(model, given, draws))
        alone = [
            family.predict(model, family.collate(model, [g], [d])) for g, d in zip(given, draws, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_trained_text_goes_through_the_encoder_with_gradient(folder):
    model = load(folder)
    adapter = attach(model, AdapterSpec(2, 2.0), train_text_encoder=True, seed=1)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    ids = torch.tensor([49406, 320, 736, 49407] + [49407] * 73)
    given = [{"latents": items_moments(), "ids": ids}]
    batch = model.family.collate(model, given, [Draw(1)])
    model.family.predict(model, batch).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.of("text_encoder").values())
    base = [p for m in model.modules.values() for n, p in m.named_parameters() if "lora_" not in n]
    assert all(p.grad is None for p in base)


def items_moments():
    return torch.randn((8, 8, 8), generator=torch.Generator().manual_seed(9))


def test_gradient_checkpointing_changes_no_gradient(folder):
    seen = []
    for on in (False, True):
        model = load(folder)
        adapter = attach(model, AdapterSpec(2, 2.0, dropout=0.3), seed=1)
        model.family.set_gradient_checkpointing(model, on)
        set_training(model, adapter, True)
        batch = model.family.collate(model, items(model, 2), [Draw(1), Draw(2)])
        torch.manual_seed(3)
        model.family.predict(model, batch).square().sum().backward()
        seen.append({n: p.grad.clone() for n, p in adapter.parameters.items()})
        assert model.modules["unet"].is_gradient_checkpointing is on
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


@pytest.mark.parametrize(
    ("dtype", "plain"), [(torch.float32, False), (torch.bfloat16, True), (torch.float16, True)]
)
def test_attention_is_chosen_by_dtype_on_a_cpu(folder, dtype, plain):
    model = load(folder, dtype=dtype)
    processors = model.modules["unet"].attn_processors.values()
    assert all(isinstance(p, ByShape) is plain for p in processors)


def test_large_maps_keep_the_fused_attention():
    chosen = []
    chooser = ByShape()
    chooser.plain = lambda *a, **k: chosen.append("plain")
    chooser.fused = lambda *a, **k: chosen.append("fused")
    side = math.isqrt(PLAIN_UP_TO)
    chooser(None, torch.empty(1, side, 1, device="meta"))
    chooser(None, torch.empty(1, side + 1, 1, device="meta"))
    chooser(None, torch.empty(1, 4 * side, 1, device="meta"), torch.empty(1, 77, 1, device="meta"))
    assert chosen == ["plain", "fused", "plain"]


@dataclass
class Sample:
    picture: object
    placement: object
    caption: str
    flipped: bool = False


def sample(tmp_path: Path, name: str = "a", caption: str = "a red house", colour=(200, 30, 30)) -> Sample:
    from lora_scripts.core.files import sha256_of
    from lora_scripts.data.buckets import place
    from lora_scripts.data.images import Picture

    path = tmp_path / f"{name}.png"
    Image.new("RGB", (16, 16), colour).save(path)
    placed = place([(16, 16)], resolution=16, step=4, upscale=True)[0]
    return Sample(Picture(path, 16, 16, sha256_of(path), ()), placed, caption)


def test_stages_key_by_content_and_give_what_collate_takes(model, tmp_path):
    latents, text = model.family.stages(model)
    first, same = sample(tmp_path, "a"), sample(tmp_path, "b")
    other = sample(tmp_path, "c", caption="a blue house", colour=(0, 0, 255))
    assert latents.key(first) == latents.key(same) != latents.key(other)
    assert text.key(first) == text.key(same) != text.key(other)
    item = {**latents.run([first])[0], **text.run([first])[0]}
    assert item["latents"].shape == (8, 8, 8)
    assert item["text"].shape == (77, 64)
    assert torch.isfinite(model.family.predict(model, model.family.collate(model, [item], [Draw(1)]))).all()
    encoded = model.family.prompts(model, [first.caption])[0]["prompt_embeds"][0]
    assert torch.equal(item["text"], encoded)


def test_keys_change_with_vae_dtype_and_background(model, folder, tmp_path, tiny_parts):
    one = sample(tmp_path)
    keys = {model.family.stages(model)[0].key(one)}
    keys.add(model.family.stages(model, StageOptions(cache_dtype=torch.float16))[0].key(one))
    keys.add(model.family.stages(model, StageOptions(background="black"))[0].key(one))
    tiny.write_folder(tmp_path / "other", {**tiny_parts, "vae": tiny.parts(seed=8)["vae"]})
    other = load(tmp_path / "other")
    keys.add(other.family.stages(other)[0].key(one))
    assert len(keys) == 4
    assert other.family.stages(other)[1].key(one) == model.family.stages(model)[1].key(one)


def test_a_trained_text_encoder_is_given_token_ids(model, tmp_path):
    stage = model.family.stages(model, StageOptions(trained=("text_encoder",)))[1]
    assert stage.name == "ids"
    assert stage.components == ()
    ids = stage.run([sample(tmp_path)])[0]["ids"]
    assert ids.shape == (77,)
    assert ids[0] == 49406


def test_the_vae_encodes_in_full_precision_even_under_autocast(folder, tmp_path):
    one = sample(tmp_path)
    exact = load(folder)
    half = load(folder, dtype=torch.bfloat16)
    wanted = exact.family.stages(exact)[0].run([one])[0]["latents"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = half.family.stages(half)[0].run([one])[0]["latents"]
    assert torch.equal(found, wanted)


def test_what_has_left_memory_stays_known_and_is_really_gone(folder):
    import gc
    import weakref

    model = load(folder)
    stages = model.family.stages(model)
    gone = weakref.ref(model.modules["vae"])
    mark = model.component_hash("vae")
    given = items(model, 1)
    model.release("vae", "text_encoder")
    gc.collect()
    assert set(model.modules) == {"unet"}
    assert gone() is None, f"{len(stages)} stages keep it alive"
    assert model.component_hash("vae") == mark
    assert model.family.collate(model, given, [Draw(1)])["latents"].shape == (1, 4, 8, 8)


@pytest.mark.long
def test_one_picture_is_learnt_by_heart_from_a_fresh_adapter(folder):
    """The adapter alone can drive the loss of one fixed example down: gradients reach it and are right."""
    model = load(folder)
    adapter = attach(model, AdapterSpec(8, 8.0), seed=1)
    batch = model.family.collate(model, items(model, 1), [Draw(1, 300)])
    target = model.family.target(model, batch)
    optimizer = torch.optim.Adam(adapter.parameters.values(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model.family.predict(model, batch) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
