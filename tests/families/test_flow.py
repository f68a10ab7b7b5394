"""Flow matching: time steps, shifts, targets and inputs against Diffusers' own functions and pipelines."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from lora_scripts.families import _flow, flux
from lora_scripts.families._base import Draw
from lora_scripts.families._flow import FlowRule
from lora_scripts.families._source import resolve
from tests.bases import flux as small_flux
from tests.bases import sd3 as small_sd3
from tests.families.loaded import load, written

BASES: dict[str, Any] = {"sd3": small_sd3, "flux": small_flux}


@pytest.fixture(scope="module", params=sorted(BASES))
def folder(request) -> Any:
    return written(request.param)


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


def embedded(model: Any, caption: str, *, padded: bool = False) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = model.family.embed(model, model.family.tokenize(model, [caption], padded=padded))
    return {name: tensor[0] for name, tensor in found.items()}


def item(model: Any, caption: str, **more: Any) -> dict[str, torch.Tensor]:
    moments = torch.randn((32, 8, 12), generator=torch.Generator().manual_seed(len(caption)))
    return {"latents": moments, **embedded(model, caption, **more)}


# -- time steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "scheme"),
    [
        (FlowRule("uniform"), "none"),
        (FlowRule("logit_normal", mean=0.3, spread=0.7), "logit_normal"),
        (FlowRule("mode", heavy=1.29), "mode"),
    ],
)
def test_densities_are_those_of_diffusers_training_scripts(rule, scheme):
    for seed in range(20):
        ours, theirs = (torch.Generator().manual_seed(seed) for _ in range(2))
        wanted = compute_density_for_timestep_sampling(
            scheme, 1, logit_mean=0.3, logit_std=0.7, mode_scale=1.29, generator=theirs
        )
        assert _flow.density(rule, ours) == pytest.approx(wanted.item(), abs=1e-6)


def test_the_static_shift_is_the_schedulers():
    table = FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas
    plain = FlowMatchEulerDiscreteScheduler(shift=1.0).sigmas
    ours = [_flow.shifted(sigma, 3.0) for sigma in plain.tolist()]
    assert ours == pytest.approx(table.tolist(), abs=1e-6)
    assert _flow.shifted(0.37, 1.0) == 0.37


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("places", [256, 1024, 4096, 6000])
def test_the_shift_by_resolution_is_the_pipelines(places, kind):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    sigmas = [1.0, 0.75, 0.5, 0.1]
    scheduler.set_timesteps(sigmas=sigmas, mu=calculate_shift(places))
    shift = _flow.resolution_shift(places, scheduler.config)
    ours = [_flow.shifted(sigma, shift) for sigma in sigmas]
    assert ours == pytest.approx(scheduler.sigmas[:-1].tolist(), abs=1e-6)


@pytest.mark.parametrize("scheme", ["none", "sigma_sqrt", "cosmap"])
def test_weights_of_time_steps_are_those_of_diffusers(scheme):
    sigmas = torch.tensor([0.05, 0.4, 0.999])
    wanted = compute_loss_weighting_for_sd3(scheme, sigmas)
    torch.testing.assert_close(_flow.time_weight(FlowRule(weighting=scheme), sigmas), wanted)


def test_drawn_time_steps_follow_rule_and_shift(model):
    family, given = model.family, item(model, "a red house")
    model.flow = FlowRule("uniform", shift=4.0)
    batch = family.collate(model, [given] * 3, [Draw(1), Draw(2), Draw(3, 250)])
    for number in range(2):
        generator = torch.Generator().manual_seed(number + 1)
        shape = (16, 8, 12)
        torch.randn(shape, generator=generator)
        noise = torch.randn(shape, generator=generator)
        u = torch.rand((1,), generator=generator).item()
        assert torch.equal(batch["noise"][number], noise)
        assert batch["timesteps"][number].item() == pytest.approx(1000 * 4 * u / (1 + 3 * u), rel=1e-5)
    assert batch["timesteps"][2].item() == 250
    model.flow = FlowRule("uniform", shift="resolution")
    moved = family.collate(model, [given], [Draw(1)])["timesteps"].item()
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        torch.randn((16, 8, 12), generator=generator)
    scale = _flow.resolution_shift(4 * 6, model.schedule.config)
    assert moved == pytest.approx(1000 * _flow.shifted(torch.rand((1,), generator=generator).item(), scale))
    model.flow = None


def test_noise_and_target_lie_on_the_straight_line(model):
    family = model.family
    batch = family.collate(model, [item(model, "a red house")], [Draw(3, 400)])
    x, noise = batch["latents"].double(), batch["noise"].double()
    torch.testing.assert_close(
        family.noisy(model, batch).double(), 0.6 * x + 0.4 * noise, atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(family.target(model, batch).double(), noise - x, atol=1e-6, rtol=1e-6)
    assert family.snr(model, batch["timesteps"]).item() == pytest.approx((0.6 / 0.4) ** 2)
    vae = BASES[family.sheet.name].VAE
    quiet = {
        **item(model, "a"),
        "latents": torch.cat([torch.full((16, 8, 8), 2.0), torch.full((16, 8, 8), -40.0)]),
    }
    scaled = family.collate(model, [quiet], [Draw(1)])["latents"]
    wanted = (2.0 - vae["shift_factor"]) * vae["scaling_factor"]
    torch.testing.assert_close(scaled, torch.full_like(scaled, wanted), rtol=1e-4, atol=1e-4)


# -- text ---------------------------------------------------------------------------------------------------


def test_prompts_are_what_the_pipeline_reads(model):
    pipe = model.family.pipeline(model)
    texts = {name: "A red house." for name in ("prompt", "prompt_2", "prompt_3")}
    known = inspect.signature(pipe.encode_prompt).parameters
    with torch.no_grad():
        found = pipe.encode_prompt(**{name: text for name, text in texts.items() if name in known})
    wanted, pooled = (found[0], found[2]) if "prompt_3" in known else found[:2]
    (ours,) = model.family.prompts(model, ["A red house."])
    torch.testing.assert_close(ours["prompt_embeds"], wanted)
    torch.testing.assert_close(ours["pooled_prompt_embeds"], pooled)


def test_what_is_kept_of_a_caption_is_as_long_as_the_caption(model):
    pipe = model.family.pipeline(model)
    for caption in ("", "A red house.", "the city of the night " * 9):
        count = len(model.tokenizers[model.family.reader_tokenizer](caption).input_ids)
        kept = embedded(model, caption)["t5"]
        assert len(kept) == count
        with torch.no_grad():
            wanted = pipe._get_t5_prompt_embeds(caption, max_sequence_length=count)[0]
        torch.testing.assert_close(kept, wanted)


def test_captions_of_unequal_length_do_not_touch_each_other(model):
    family = model.family
    given = [
        item(model, caption) for caption in ("a red house", "the city of the night", "a", "a blue house")
    ]
    draws = [Draw(n) for n in range(4)]
    with torch.no_grad():
        together = family.predict(model, family.collate(model, given, draws))
        alone = [
            family.predict(model, family.collate(model, [one], [draw]))
            for one, draw in zip(given, draws, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


# -- the predictor ------------------------------------------------------------------------------------------


def test_predict_is_the_call_that_the_pipeline_makes(model):
    """One step of the pipeline is listened to; the same noisy latents, time and text give the same answer."""
    family, pipe = model.family, model.family.pipeline(model)
    heard: list[tuple[Any, Any]] = []
    hook = model.predictor.register_forward_hook(
        lambda module, args, given, out: heard.append((given, out[0])), with_kwargs=True
    )
    (prompt,) = family.prompts(model, ["A red house."])
    side = model.description.latent_factor
    with torch.no_grad():
        pipe(
            **prompt,
            width=12 * side,
            height=8 * side,
            num_inference_steps=2,
            guidance_scale=1.0,
            output_type="latent",
            generator=torch.Generator().manual_seed(7),
        )
    hook.remove()
    given, wanted = heard[1]
    packed = given["hidden_states"].ndim == 3
    noisy = flux.unpack(given["hidden_states"], 8, 12) if packed else given["hidden_states"]
    wanted = flux.unpack(wanted, 8, 12) if packed else wanted
    sigma = float(given["timestep"][0]) / (1 if packed else 1000)
    batch = family.collate(model, [item(model, "A red house.", padded=True)], [Draw(1, 1)])
    batch |= {
        "latents": torch.zeros_like(noisy),
        "noise": noisy / sigma,
        "timesteps": torch.tensor([1000 * sigma]),
    }
    model.flow = FlowRule(guidance=1.0)
    with torch.no_grad():
        got = family.predict(model, batch)
        model.flow = FlowRule(guidance=4.0)
        guided = family.predict(model, batch)
    model.flow = None
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(guided, got) is not packed, "only FLUX dev is told the scale"


def test_packing_is_that_of_the_pipeline():
    latents = torch.randn(2, 16, 6, 10)
    packed = flux.pack(latents)
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, 2, 16, 6, 10))
    assert torch.equal(flux.unpack(packed, 6, 10), latents)
    wanted = FluxPipeline._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32)
    assert torch.equal(flux.place_ids(3, 5, "cpu"), wanted)


def test_the_room_that_captions_take_is_counted_before_anything_is_computed(folder, model):
    family, source = model.family, resolve(str(folder))
    count = family.caption_counter(source)
    width = model.description.text_width
    sizes = {
        caption: sum(tensor.numel() for tensor in embedded(model, caption).values())
        for caption in ("", "A red house.", "the city of the night " * 9)
    }
    for caption, size in sizes.items():
        assert (count(caption) - count("")) * width == size - sizes[""]
    assert count("q" * 3000) == family.sheet.caption_tokens + family.apart
    cut = family.caption_cutter(source)
    assert cut("a red house", 75) == (0, "")
    many, lost = cut("q " * 1000, 75)
    assert many == 1000
    assert lost.replace(" ", "") in "q" * 1000
