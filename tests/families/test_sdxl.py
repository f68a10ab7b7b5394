"""Stable Diffusion XL: two readers, six numbers, the names that clients know, Diffusers' own computation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_scripts.core.problems import Location, ProblemsError
from lora_scripts.data.buckets import prepare
from lora_scripts.data.images import examine
from lora_scripts.data.manifest import Example
from lora_scripts.data.sample import Sample
from lora_scripts.data.samples import samples_of
from lora_scripts.export.facts import ExportFacts
from lora_scripts.export.kohya import export_lora
from lora_scripts.export.readback import read_back
from lora_scripts.families import _source, sdxl
from lora_scripts.families._base import Draw
from lora_scripts.families._stages import StageOptions
from lora_scripts.toolbox.inspect import inspect_file
from tests.bases import sdxl as small
from tests.families import tiny
from tests.families.loaded import load, written
from tests.families.test_sd2 import describe, trained
from tests.families.test_single_file import same

CAPTION = "a red house, in the rain"


@pytest.fixture(scope="module")
def parts():
    return small.parts()


@pytest.fixture(scope="module")
def folder():
    return written("sdxl")


@pytest.fixture(scope="module")
def single():
    return written("sdxl", "single")


@pytest.fixture(scope="module")
def diffusers(folder):
    """Diffusers' own reading of the folder, with nothing of ours in it."""
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(str(folder), local_files_only=True)


def sample(place: Path, size=(37, 24), side=16, crop=None, flipped=False) -> Sample:
    """A picture in which every column and every row has a colour of its own."""
    across, down = np.arange(size[0]) * 6, np.arange(size[1]) * 6
    pixels = np.stack(np.broadcast_arrays(across[None], down[:, None], np.uint8(90)), axis=-1)
    path = place / f"{size[0]}x{size[1]}.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    found, _ = examine([Example({"image": path, "name": path.name, "caption": CAPTION}, Location("m", 1))])
    one = samples_of(found, resolution=side, step=8)[0]
    placed = replace(one.placement, crop=crop) if crop else one.placement
    return replace(one, placement=placed, flipped=flipped)


@pytest.mark.long
def test_both_layouts_hold_the_same_weights(parts, folder, single):
    for path in (folder, single):
        model = load(path)
        assert model.description.family == "sdxl"
        same(model, parts)
        assert not any(p.requires_grad or p.is_meta for m in model.modules.values() for p in m.parameters())


def test_the_vae_stays_in_full_precision(single):
    model = load(single, dtype=torch.float16)
    kinds = {name: next(m.parameters()).dtype for name, m in model.modules.items()}
    assert kinds.pop("vae") == torch.float32
    assert set(kinds.values()) == {torch.float16}


def test_the_six_numbers_are_those_of_diffusers_pipeline(tmp_path, diffusers):
    one = sample(tmp_path, size=(90, 24), crop=(5, 0))
    bucket = one.placement.bucket
    wanted = diffusers._get_add_time_ids(
        (24, 90), (0, 5), (bucket.height, bucket.width), torch.float32, text_encoder_projection_dim=64
    )
    stage = next(s for s in sdxl.FAMILY.stages(load_once(diffusers)) if s.name == "sizes")
    assert stage.cached is False
    assert torch.equal(stage.run([one])[0]["sizes"], wanted[0])


def load_once(diffusers):
    return load(diffusers.config._name_or_path)


@pytest.mark.parametrize("size", [(90, 24), (24, 90), (37, 24)])
@pytest.mark.parametrize("flipped", [False, True])
def test_the_cut_they_name_is_the_cut_that_is_learnt(tmp_path, size, flipped):
    """Scaled, mirrored and cut anew where the numbers say, the picture is what the stage encodes."""
    one = sample(tmp_path, size=size, flipped=flipped)
    left, top = (spare * 2 // 3 for spare in one.placement.spare)
    one = replace(one, placement=replace(one.placement, crop=(left, top)))
    image = Image.open(one.picture.path)
    learnt = prepare(image, one.placement)[:, :: -1 if flipped else 1]
    height, width, y, x, tall, wide = sdxl.size_numbers(one)
    assert (width, height) == size == image.size
    whole = np.asarray(image.convert("RGB").resize(one.placement.resize, Image.Resampling.LANCZOS))
    again = whole[:, :: -1 if flipped else 1][y : y + tall, x : x + wide]
    assert again.shape == learnt.shape
    inside = (slice(1, -1), slice(1, -1))  # at the edge the scaled whole knows what the cut does not
    assert np.abs(again[inside].astype(int) - learnt[inside].astype(int)).max() <= 3


def test_a_random_cut_has_numbers_of_its_own(tmp_path):
    one = sample(tmp_path, size=(90, 24))
    cut = replace(one, handling=replace(one.handling, crops=True))
    assert len({sdxl.size_numbers(cut.drawn(seed)) for seed in range(20)}) > 1


def test_prompts_are_encoded_as_diffusers_encodes_them(folder, diffusers):
    model = load(folder)
    with torch.no_grad():
        wanted = diffusers.encode_prompt(CAPTION, negative_prompt="", device="cpu")
    given, negative = model.family.prompts(model, [CAPTION, ""])
    assert torch.equal(given["prompt_embeds"], wanted[0])
    assert torch.equal(negative["prompt_embeds"], wanted[1])
    assert torch.equal(given["pooled_prompt_embeds"], wanted[2])
    assert torch.equal(negative["pooled_prompt_embeds"], wanted[3])


def test_the_unet_is_called_as_diffusers_calls_it(tmp_path, folder, diffusers):
    model = load(folder)
    one = sample(tmp_path, size=(90, 24))
    items = [{k: v for s in model.family.stages(model) for k, v in s.run([one])[0].items()}]
    batch = model.family.collate(model, items, [Draw(3, 400)])
    with torch.no_grad():
        text, _, pooled, _ = diffusers.encode_prompt(CAPTION, negative_prompt="", device="cpu")
        bucket = (one.placement.bucket.height, one.placement.bucket.width)
        crop = one.placement.crop[::-1]
        numbers = diffusers._get_add_time_ids(
            (24, 90), crop, bucket, torch.float32, text_encoder_projection_dim=64
        )
        wanted = diffusers.unet(
            model.family.noisy(model, batch),
            400,
            encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": numbers},
        ).sample
        got = model.family.predict(model, batch)
        other = model.family.predict(model, batch | {"sizes": batch["sizes"].flip(-1)})
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, other, atol=1e-4), "the numbers do nothing"


def test_a_picture_is_drawn_as_diffusers_draws_it(folder, diffusers):
    from lora_scripts.toolbox.pictures import make_pictures

    model = load(folder)
    options = {"width": 32, "height": 16, "guidance_scale": 5.0}
    ours = make_pictures(model, [CAPTION], negative_prompt="", seed=4, steps=3, **options)
    theirs = diffusers
    theirs.scheduler = model.family.sampler(model)
    generator = torch.Generator("cpu").manual_seed(4)
    wanted = theirs(CAPTION, negative_prompt="", num_inference_steps=3, generator=generator, **options).images
    assert np.abs(np.asarray(ours[0]).astype(int) - np.asarray(wanted[0])).max() <= 1


def test_long_captions_are_read_in_pieces(folder, tmp_path):
    model = load(folder)
    words = " ".join(["house"] * 75 + ["tree"] * 60)
    one = replace(sample(tmp_path), caption=words)
    stages = [s for s in model.family.stages(model, StageOptions(caption_tokens=225)) if s.name == "text"]
    found = stages[0].run([one])[0]
    first = model.family.prompts(model, [" ".join(["house"] * 75)])[0]
    assert found["text"].shape == (227, 128)
    torch.testing.assert_close(found["text"][:76], first["prompt_embeds"][0, :76])
    torch.testing.assert_close(found["pooled"], first["pooled_prompt_embeds"][0])


@pytest.mark.parametrize(
    ("given", "kind", "zero"),
    [
        ({}, "epsilon", False),
        ({"markers": ("v_pred",)}, "v_prediction", False),
        ({"markers": ("v_pred", "ztsnr")}, "v_prediction", True),
        ({"modelspec.prediction_type": "v"}, "v_prediction", False),
    ],
)
def test_what_a_file_predicts_is_what_it_says(tmp_path, parts, given, kind, zero):
    path = small.single(tmp_path / "one.safetensors", parts, **given)
    model = load(path)
    assert model.description.prediction_type == kind
    assert model.description.prediction_settled
    assert model.description.resolution == 1024
    assert bool(model.schedule.alphas_cumprod[-1] < 1e-6) is zero


def test_a_folder_says_it_in_its_schedule(tmp_path, parts):
    path = small.folder(tmp_path / "v", parts, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    model = load(path)
    assert model.description.prediction_type == "v_prediction"
    assert model.schedule.alphas_cumprod[-1] < 1e-6
    assert model.family.sampler(model).config.timestep_spacing == "trailing"


@pytest.mark.parametrize("form", ["folder", "single"])
@pytest.mark.parametrize("family", ["sd15", "sd2"])
def test_under_another_family_it_is_named(request, form, family):
    source = _source.resolve(str(request.getfixturevalue(form)))
    with pytest.raises(ProblemsError) as caught:
        _source.find(family, source)
    problem = caught.value.problems[0]
    assert problem.code == "LS4008"
    assert problem.params["kind"] == "Stable Diffusion XL"


def test_another_base_under_sdxl_is_named(tmp_path):
    source = _source.resolve(str(tiny.write_single(tmp_path / "one.safetensors")))
    with pytest.raises(ProblemsError) as caught:
        _source.find("sdxl", source)
    assert caught.value.problems[0].params["kind"] == "Stable Diffusion 1.x"


def test_a_special_purpose_unet_is_named(tmp_path, parts):
    unet = type(parts["unet"])(**{**small.UNET, "in_channels": 9})
    with pytest.raises(ProblemsError) as caught:
        describe(small.folder(tmp_path / "inpaint", {**parts, "unet": unet}))
    assert caught.value.problems[0].code == "LS4010"
    assert caught.value.problems[0].params["kind"] == "inpainting"


def test_a_base_on_another_schedule_is_named(tmp_path, parts):
    file = small.single(tmp_path / "cosxl.safetensors", parts, markers=("edm_vpred.sigma_max",))
    place = small.folder(tmp_path / "playground", parts)
    schedule = place / "scheduler" / "scheduler_config.json"
    told = json.loads(schedule.read_text())
    schedule.write_text(json.dumps({**told, "_class_name": "EDMDPMSolverMultistepScheduler"}))
    for path in (file, place):
        with pytest.raises(ProblemsError) as caught:
            describe(path)
        assert [problem.code for problem in caught.value.problems] == ["LS4500"]


def test_names_of_other_trainers_lead_to_the_same_modules(folder):
    modules = describe(folder).modules
    back = sdxl.FAMILY.modules_by_name(modules)
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    original = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    assert sdxl.FAMILY.names("unet", module) == original
    assert back[original] == back[f"lora_unet_{module.replace('.', '_')}"] == ("unet", module)


def test_a_file_without_its_second_encoder_is_said(tmp_path, parts):
    path = tmp_path / "unet.safetensors"
    small.single(path, parts)
    from safetensors.torch import save_file

    state = {n: t for n, t in load_file(str(path)).items() if not n.startswith("conditioner.embedders.1.")}
    save_file({n: t for n, t in state.items() if "embedders" not in n}, str(path))
    with pytest.raises(ProblemsError) as caught:
        describe(path)
    assert {p.params["component"] for p in caught.value.problems} == {"text_encoder", "text_encoder_2"}


@pytest.mark.long
def test_the_lora_of_a_file_says_what_it_is_for_and_is_read_back(tmp_path, single):
    model = load(single)
    adapter = trained(model)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, ExportFacts("x", {}))
    assert done.metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert done.metadata["ss_v2"] == "False"
    assert done.metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert done.metadata["modelspec.implementation"] == sdxl.CODE
    names = {name.split(".")[0] for name in done.tensors}
    assert {
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_te2_text_model_encoder_layers_1_mlp_fc2",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_output_blocks_0_1_transformer_blocks_1_attn2_to_out_0",
        "lora_unet_middle_block_1_proj_in",
    } <= names
    assert len({float(t) for n, t in done.tensors.items() if n.endswith(".alpha")}) == 1
    proof = read_back(done.path, model, adapter)
    assert proof.layers == {name: len(found) for name, found in adapter.matched.items()}
    report = inspect_file(done.path)
    assert (report.base, report.layout) == ("sdxl", "kohya_ldm")
    assert {verdict.answer for verdict in report.clients.values()} == {"yes"}


@pytest.mark.long
def test_convolutions_and_samplers_are_kept_by_the_names_they_get(tmp_path, single):
    from lora_scripts.adapters.attach import attach
    from lora_scripts.adapters.spec import AdapterSpec

    model = load(single)
    adapter = attach(model, AdapterSpec(2, 2.0, conv_rank=2), seed=1)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if "lora_B" in name:
                parameter.fill_(0.02)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, ExportFacts("x", {}))
    names = {name.split(".")[0] for name in done.tensors}
    assert {
        "lora_unet_input_blocks_3_0_op",
        "lora_unet_output_blocks_2_2_conv",
        "lora_unet_input_blocks_1_0_in_layers_2",
        "lora_unet_middle_block_2_out_layers_3",
    } <= names
    assert read_back(done.path, model, adapter).layers == {"unet": len(adapter.matched["unet"])}


def test_of_the_second_encoders_attention_a_client_gets_all_four_or_none(tmp_path, single):
    model = load(single)
    adapter = trained(model, targets=("to_q", "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj"))
    done = export_lora(tmp_path / "x.safetensors", model, adapter, ExportFacts("x", {}))
    start = "lora_te2_text_model_encoder_layers_0_self_attn_"
    layers = {name.split(".")[0] for name in done.tensors if name.startswith("lora_te")}
    assert layers == {f"{start}{part}_proj" for part in ("q", "k", "v", "out")}
    assert read_back(done.path, model, adapter).layers["text_encoder_2"] == 1


def test_what_clients_drop_of_other_spellings_is_said(tmp_path):
    from safetensors.torch import save_file

    def answers(*modules: str) -> dict[str, str]:
        halves = {f"{m}.lora_down.weight": torch.ones(2, 8) for m in modules}
        halves |= {f"{m}.lora_up.weight": torch.ones(8, 2) for m in modules}
        alphas = {f"{m}.alpha": torch.tensor(2.0) for m in modules}
        save_file(
            halves | alphas, str(tmp_path / "x.safetensors"), {"ss_base_model_version": "sdxl_base_v1-0"}
        )
        found = inspect_file(tmp_path / "x.safetensors").clients
        return {client: v.reason or v.answer for client, v in found.items()}

    start = "lora_te2_text_model_encoder_layers_0_self_attn_"
    four = [f"{start}{part}_proj" for part in ("q", "k", "v", "out")]
    assert set(answers(*four).values()) == {"yes"}
    assert answers(*four[1:])["A1111 WebUI"] == "inspect.client.parted_attention"
    plain = "lora_unet_down_blocks_1_attentions_0_proj_in"
    assert set(answers(plain).values()) == {"yes"}
    sampler = answers(plain, "lora_unet_up_blocks_0_upsamplers_0_conv")
    assert sampler["A1111 WebUI"] == "inspect.client.samplers"
    assert sampler["ComfyUI"] == "yes"
