"""Noise that is shifted as a whole, and a schedule that ends in noise alone."""

from __future__ import annotations

import pytest
import torch

from lora_scripts.families._base import Draw
from tests.families.test_diffusion import items, load


@pytest.fixture
def model(folder):
    return load(folder, prediction_type="v_prediction")


def test_an_offset_shifts_each_channel_and_nothing_else(model):
    family, given, draws = model.family, items(model), [Draw(n) for n in (4, 5, 6)]
    plain = family.collate(model, given, draws)
    model.noise_offset = 0.25
    shifted = family.collate(model, given, draws)
    for name in set(plain) - {"noise"}:
        assert torch.equal(plain[name], shifted[name]), name
    shift = (shifted["noise"] - plain["noise"]) / 0.25
    assert shift.shape == (3, 4, 8, 8)
    flat = shift.flatten(2)
    torch.testing.assert_close(flat, flat[..., :1].expand_as(flat), rtol=1e-4, atol=1e-5)
    assert len({round(float(v), 4) for v in flat[..., 0].flatten()}) == 12, "each channel has its own"
    many = family.collate(model, [given[0]] * 400, [Draw(n) for n in range(400)])["noise"]
    model.noise_offset = 0.0
    before = family.collate(model, [given[0]] * 400, [Draw(n) for n in range(400)])["noise"]
    assert float((many - before).mean((2, 3)).std()) == pytest.approx(0.25, rel=0.05)


def test_a_draw_with_an_offset_is_still_a_function_of_its_seed(model):
    model.noise_offset = 0.1
    family, given = model.family, items(model)
    together = family.collate(model, given, [Draw(n) for n in (4, 5, 6)])
    alone = family.collate(model, [given[1]], [Draw(5)])
    assert torch.equal(alone["noise"][0], together["noise"][1])


def test_what_is_measured_has_plain_noise(model):
    family, given = model.family, items(model, 1)
    plain = family.collate(model, given, [Draw(4, 17)])
    model.noise_offset = 0.25
    assert torch.equal(family.collate(model, given, [Draw(4, 17)])["noise"], plain["noise"])


def rescaled() -> list[float]:
    """Algorithm 1 of Lin et al. 2023 on Stable Diffusion's betas, in float64 and plain Python."""
    roots, product = [], 1.0
    for n in range(1000):
        product *= 1 - (0.00085**0.5 + n / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
        roots.append(product**0.5)
    first, last = roots[0], roots[-1]
    return [((root - last) * first / (first - last)) ** 2 for root in roots]


def test_the_rescaled_schedule_ends_in_noise_alone_and_begins_as_before(model):
    before = model.schedule.alphas_cumprod.double()
    model.family.rescale(model)
    found = model.schedule.alphas_cumprod.double()
    wanted = torch.tensor(rescaled(), dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    assert float(found[-1]) == 0.0
    assert float(found[0]) == pytest.approx(float(before[0]), rel=1e-5)
    assert bool((found[1:] < before[1:]).all())


def test_at_the_last_step_there_is_noise_and_the_target_is_the_picture(model):
    model.family.rescale(model)
    batch = model.family.collate(model, items(model, 1), [Draw(3, 999)])
    assert torch.equal(model.family.noisy(model, batch), batch["noise"])
    torch.testing.assert_close(model.family.target(model, batch), -batch["latents"])


def test_pictures_are_drawn_on_the_schedule_that_was_trained(model):
    model.family.rescale(model)
    sampler = model.family.sampler(model)
    assert sampler.config.rescale_betas_zero_snr
    sampler.set_timesteps(5)
    assert int(sampler.timesteps[0]) == 999
    pipe = model.family.pipeline(model)
    embeds = model.family.prompts(model, ["a red house", ""])
    drawn = pipe(
        prompt_embeds=embeds[0]["prompt_embeds"], negative_prompt_embeds=embeds[1]["prompt_embeds"],
        num_inference_steps=3, height=16, width=16, output_type="latent",
        generator=torch.Generator().manual_seed(1),
    ).images  # fmt: skip
    assert bool(torch.isfinite(drawn).all())
