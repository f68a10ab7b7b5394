"""Z-Image against Diffusers' own pipeline, conversion and classes; its files, and what they lack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline
from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file, save_file

from lora_scripts.adapters.spec import match_targets
from lora_scripts.core.problems import ProblemsError
from lora_scripts.export.kohya import fused
from lora_scripts.families import z_image
from lora_scripts.families._base import Draw
from lora_scripts.families._components import build, weight_shapes
from lora_scripts.families._original_blocks import plain_state
from lora_scripts.families._source import find, resolve
from lora_scripts.toolbox.pictures import make_pictures
from tests.bases import z_image as base
from tests.families.chat_cases import real
from tests.families.loaded import load, written

CAPTIONS = ("", "A red house.", "the city of the night " * 9)
PUBLISHED: dict[str, Any] = {
    "in_channels": 16, "dim": 3840, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30,
    "cap_feat_dim": 2560, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return load(written("z_image"))


def item(model: Any, caption: str) -> dict[str, torch.Tensor]:
    moments = torch.randn((32, 8, 12), generator=torch.Generator().manual_seed(len(caption)))
    with torch.no_grad():
        found = model.family.embed(model, model.family.tokenize(model, [caption]))
    return {"latents": moments, **{name: tensor[0] for name, tensor in found.items()}}


def predicted(model: Any, caption: str, seed: int = 1) -> torch.Tensor:
    with torch.no_grad():
        return model.family.predict(model, model.family.collate(model, [item(model, caption)], [Draw(seed)]))


# -- text ---------------------------------------------------------------------------------------------------


def test_a_caption_is_told_as_the_published_reader_s_template_tells_it():
    tokenizer = real("qwen3")
    for caption in (*CAPTIONS, "霓虹灯下的街道", "two\nlines", " space"):
        turns = [{"role": "user", "content": caption}]
        told = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        assert told == f"{z_image.BEFORE}{caption}{z_image.AFTER}"
    assert len(tokenizer(z_image.BEFORE).input_ids) == z_image.TOKENS_BEFORE
    assert len(tokenizer(z_image.AFTER).input_ids) == z_image.TOKENS_AFTER


def test_prompts_are_what_the_pipeline_reads(model):
    """Its tokenizer here has another template, so the words are given as ours stand."""
    pipe = model.family.pipeline(model)
    template = "{{ '<|im_start|>user\n' + messages[0].content + '<|im_end|>\n<|im_start|>assistant\n' }}"
    pipe.tokenizer.chat_template = template
    for caption in CAPTIONS:
        with torch.no_grad():
            (wanted,), _ = pipe.encode_prompt(caption, do_classifier_free_guidance=False)
        (ours,) = model.family.prompts(model, [caption])
        torch.testing.assert_close(ours["prompt_embeds"][0], wanted)


def test_a_caption_that_is_too_long_is_cut_where_it_is_said_to_be(model):
    ids = model.family.tokenize(model, ["q " * 1000])["ids"]
    assert ids.shape[1] == model.family.sheet.caption_tokens
    many, lost = model.family.caption_cutter(resolve(str(written("z_image"))))("q " * 1000, 75)
    read = ids.shape[1] - len(model.tokenizer(z_image.BEFORE).input_ids)
    assert many == len(model.tokenizer("q " * 1000).input_ids)
    small = len(model.tokenizer(z_image.BEFORE).input_ids) - z_image.TOKENS_BEFORE  # its words are shorter
    assert len(model.tokenizer(lost).input_ids) == pytest.approx(many - read - small, abs=2)


def test_captions_of_unequal_length_do_not_touch_each_other(model):
    family = model.family
    given = [item(model, caption) for caption in ("a red house", "the city of the night", "a", "a blue one")]
    draws = [Draw(n) for n in range(4)]
    with torch.no_grad():
        together = family.predict(model, family.collate(model, given, draws))
        alone = [
            family.predict(model, family.collate(model, [one], [draw]))
            for one, draw in zip(given, draws, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_the_room_that_captions_take_is_counted_before_anything_is_computed(model):
    count = model.family.caption_counter(resolve(str(written("z_image"))))
    width = model.description.text_width
    sizes = {caption: item(model, caption)["text"].numel() for caption in CAPTIONS}
    for caption in CAPTIONS:
        assert (count(caption) - count("")) * width == sizes[caption] - sizes[""]


# -- the predictor ------------------------------------------------------------------------------------------


def test_predict_is_the_call_that_the_pipeline_makes(model):
    """One step is listened to; the pipeline turns the answer round before its solver, and so do we."""
    family, pipe = model.family, model.family.pipeline(model)
    heard: list[tuple[Any, Any]] = []
    hook = model.predictor.register_forward_hook(lambda module, given, out: heard.append((given, out[0])))
    (prompt,) = family.prompts(model, ["A red house."])
    empty = {f"negative_{name}": rows for name, rows in family.prompts(model, [""])[0].items()}
    side = model.description.latent_factor
    with torch.no_grad():
        family.run_pipeline(
            pipe,
            prompt | empty,
            width=12 * side,
            height=8 * side,
            num_inference_steps=2,
            guidance_scale=0.0,
            output_type="latent",
            generator=torch.Generator().manual_seed(7),
        )
    hook.remove()
    (pictures, time, *_), wanted = heard[1]
    noisy, sigma = pictures[0].squeeze(1)[None], 1 - float(time[0])
    assert 0.2 < sigma < 0.95
    batch = family.collate(model, [item(model, "A red house.")], [Draw(1, 1)])
    batch |= {
        "latents": torch.zeros_like(noisy),
        "noise": noisy / sigma,
        "timesteps": torch.tensor([1000 * sigma]),
    }
    with torch.no_grad():
        got = family.predict(model, batch)
    torch.testing.assert_close(got, -wanted[0].squeeze(1)[None], rtol=1e-4, atol=1e-5)


def test_a_picture_follows_guidance_and_negative_prompt(model):
    drawn = [
        make_pictures(model, ["a red house"], steps=2, width=16, height=16, **more)[0].tobytes()
        for more in ({}, {"guidance_scale": 0.0}, {"negative_prompt": "the city of the night"})
    ]
    assert len(set(drawn)) == 3


# -- files --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big() -> Any:
    with torch.device("meta"):
        return build(z_image.SHEET.components["transformer"], PUBLISHED)


def test_the_published_size_comes_out_of_the_shapes(big):
    assert sum(parameter.numel() for parameter in big.parameters()) == pytest.approx(6.15e9, rel=1e-3)
    original = base.original_transformer(big.state_dict())
    for state in (original, big.state_dict()):
        assert z_image.transformer_config({n: tuple(t.shape) for n, t in state.items()}) == PUBLISHED
    names = match_targets(z_image.SHEET, {"transformer": weight_shapes(big)}, "auto")["transformer"]
    assert len(names) == 30 * 7


def test_original_names_become_what_diffusers_makes_of_them():
    state = base.parts()["transformer"].state_dict()
    original = base.original_transformer(state)
    theirs = convert_z_image_transformer_checkpoint_to_diffusers(dict(original))
    ours = z_image.convert_transformer(dict(original), base.TRANSFORMER)
    assert ours.keys() == theirs.keys() == state.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_transformer_alone_takes_the_rest_from_elsewhere(model, tmp_path):
    """As community files hold it: bare original names, its reader and autoencoder in files of their own."""
    modules, whole = base.parts(), written("z_image")
    parts = {
        "alone": base.original_transformer(modules["transformer"].state_dict()),
        "qwen": {f"model.{n}": t for n, t in modules["text_encoder"].state_dict().items()},
        "ae": {n.removeprefix("vae."): t for n, t in base.t5.original_rest(modules, "vae.").items()},
    }
    paths = {name: tmp_path / name / f"{name}.safetensors" for name in parts}
    for name, state in parts.items():
        paths[name].parent.mkdir()
        save_file({n: t.clone().contiguous() for n, t in state.items()}, str(paths[name]))
    assert find("auto", resolve(str(paths["alone"]))).sheet.name == "z_image"
    rest = {"text_encoder": str(paths["qwen"]), "vae": str(paths["ae"])}
    with pytest.raises(ProblemsError) as caught:
        load(paths["alone"], components=rest)
    assert [p.code for p in caught.value.problems] == ["LS4540"]
    assert caught.value.problems[0].params["component"] == "text_encoder"
    rest["tokenizer"] = str(base.write_tokenizer(tmp_path / "words"))
    other = load(paths["alone"], components=rest)
    torch.testing.assert_close(predicted(other, "a red house"), predicted(model, "a red house"))
    eight = {n: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for n, t in load_file(paths["alone"]).items()}
    save_file(eight, str(tmp_path / "eight.safetensors"))
    rough = predicted(load(tmp_path / "eight.safetensors", components=rest), "a red house")
    exact = predicted(model, "a red house")
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.2
    assert "cap_pad_token" in load_file(str(whole / "transformer/diffusion_pytorch_model.safetensors"))


@pytest.mark.long
def test_a_file_in_kohyas_layout_comes_apart_again(big):
    names = ["layers.3.attention.to_q", "layers.3.attention.to_v", "layers.3.feed_forward.w1"]
    shapes = {n: s for n, s in weight_shapes(big).items() if n.startswith("layers.3.")}
    generator = torch.Generator().manual_seed(0)
    pairs = {
        n: (
            torch.randn(4, shapes[n][1], generator=generator),
            torch.randn(shapes[n][0], 4, generator=generator),
        )
        for n in names
    }
    pairs["layers.3.attention.to_k"] = tuple(torch.zeros_like(t) for t in pairs["layers.3.attention.to_q"])
    tensors = {}
    for name, (down, up) in pairs.items():
        own = z_image.FAMILY.names("transformer", name)
        tensors |= {f"{own}.lora_down.weight": down, f"{own}.lora_up.weight": up}
        tensors[f"{own}.alpha"] = torch.tensor(2.0)
    whole = fused(z_image.FAMILY, {"transformer": shapes}, tensors)
    assert "lora_unet_layers_3_attention_qkv.lora_down.weight" in whole, "the weight as the original holds it"
    back = plain_state(whole, z_image.FAMILY.lora_groups({"transformer": shapes}), {"transformer": shapes})
    for state in (back, ZImagePipeline.lora_state_dict(dict(whole))):
        for name in names:
            down, up = pairs[name]
            first, second = (state[f"transformer.{name}.lora_{half}.weight"] for half in "AB")
            torch.testing.assert_close(second @ first, 2.0 / 4 * up @ down, rtol=1e-4, atol=1e-3)


def test_diffusers_takes_a_folder_that_is_ours(tmp_path):
    pipe = ZImagePipeline.from_pretrained(str(written("z_image")), local_files_only=True)
    assert type(pipe.text_encoder).__name__ == z_image.SHEET.components["text_encoder"].class_name
