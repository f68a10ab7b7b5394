"""Files of Stable Diffusion 3 and FLUX: original names, a transformer alone, eight bits, what is missing."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from safetensors.torch import load_file, save_file

from lora_scripts.core.problems import ProblemsError
from lora_scripts.export.facts import ExportFacts
from lora_scripts.export.metadata import spec_metadata
from lora_scripts.families import flux, sd3
from lora_scripts.families._base import Draw
from lora_scripts.families._source import find, resolve
from tests.bases import flux as small_flux
from tests.bases import sd3 as small_sd3
from tests.families.loaded import load, written
from tests.families.test_flow import BASES, item


def test_sd3s_original_names_become_what_diffusers_makes_of_them():
    state = small_sd3.parts()["transformer"].state_dict()
    original = small_sd3.original_transformer(state)
    config = small_sd3.TRANSFORMER
    theirs = convert_sd3_transformer_checkpoint_to_diffusers(dict(original))
    ours = sd3.convert_transformer(dict(original), config)
    assert ours.keys() == theirs.keys() == state.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_fluxs_original_names_become_what_diffusers_makes_of_them():
    """At the published width, which is the only one that Diffusers' conversion knows; blocks cut short."""
    wide = {"attention_head_dim": 128, "num_attention_heads": 24, "num_layers": 1, "num_single_layers": 1}
    with torch.device("meta"):
        from diffusers import FluxTransformer2DModel

        module = FluxTransformer2DModel(**{**small_flux.TRANSFORMER, **wide, "axes_dims_rope": (16, 56, 56)})
    original = small_flux.original_transformer(module.state_dict())
    theirs = convert_flux_transformer_checkpoint_to_diffusers(dict(original))
    ours = flux.convert_transformer(dict(original), module.config)
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(BASES))
def test_a_transformer_alone_takes_the_rest_from_elsewhere(name, tmp_path):
    """As community files hold it: under bare original names, one in eight bits."""
    base = BASES[name]
    modules = base.parts()
    whole = written(name)
    state = base.original_transformer(modules["transformer"].state_dict())
    alone = tmp_path / "alone.safetensors"
    save_file({n: t.clone().contiguous() for n, t in state.items()}, str(alone))
    parts = [part for part in find("auto", resolve(str(whole))).sheet.components if part != "transformer"]
    with pytest.raises(ProblemsError) as caught:
        load(alone)
    assert {p.code for p in caught.value.problems} <= {"LS4011", "LS4540"}
    rest = {part: str(whole / part) for part in parts}
    model, reference = load(alone, components=rest), load(whole)
    batch = reference.family.collate(reference, [item(reference, "a red house")], [Draw(1)])
    with torch.no_grad():
        exact = reference.family.predict(reference, batch)
        torch.testing.assert_close(model.family.predict(model, batch), exact, rtol=1e-5, atol=1e-6)
    renamed = tmp_path / "renamed.safetensors"  # under Diffusers' names, without the configuration beside it
    save_file({n: t.contiguous() for n, t in modules["transformer"].state_dict().items()}, str(renamed))
    assert find("auto", resolve(str(renamed))).sheet.name == name
    other = load(renamed, components=rest)
    known = base.original_transformer(other.predictor.state_dict())
    assert known.keys() == state.keys()
    assert all(torch.equal(known[key], state[key]) for key in state)
    with torch.no_grad():
        torch.testing.assert_close(other.family.predict(other, batch), exact, rtol=1e-5, atol=1e-6)
    with pytest.raises(ProblemsError) as caught:
        load(whole / "transformer")
    assert [p.code for p in caught.value.problems] == ["LS4551"]
    assert caught.value.problems[0].params["parent"] == str(whole)
    eight = {
        n: t.to(torch.float8_e4m3fn) if n.endswith("weight") and t.ndim == 2 else t for n, t in state.items()
    }
    small = tmp_path / "eight.safetensors"
    save_file({n: t.clone().contiguous() for n, t in eight.items()}, str(small))
    again = load(small, components=rest)
    assert {p.dtype for p in again.predictor.parameters()} == {torch.float32}
    with torch.no_grad():
        rough = again.family.predict(again, batch)
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.2
    packed = load(small, components=rest, quantization="4bit")
    with torch.no_grad():
        rougher = packed.family.predict(packed, batch)
    assert 0 < float((rougher - rough).norm() / exact.norm()) < 0.3


def test_weights_that_somebody_else_has_packed_are_refused(tmp_path):
    whole = small_flux.folder(tmp_path / "flux")
    path = whole / "transformer" / "config.json"
    told = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": told}))
    source = resolve(str(whole))
    with pytest.raises(ProblemsError) as caught:
        find("auto", source).describe(source)
    assert [p.code for p in caught.value.problems] == ["LS4550"]
    assert caught.value.problems[0].params["method"] == "bitsandbytes"


def test_scaled_eight_bit_weights_are_multiplied_out(tmp_path):
    modules, whole = small_flux.parts(), written("flux")
    state = small_flux.original_transformer(modules["transformer"].state_dict())
    name = "double_blocks.0.img_mlp.0"
    scale = state[f"{name}.weight"].abs().max() / 400
    state[f"{name}.scale_weight"] = scale.reshape(())
    state[f"{name}.weight"] = (state[f"{name}.weight"] / scale).to(torch.float8_e4m3fn)
    path = tmp_path / "scaled.safetensors"
    save_file(
        {n: t.clone().contiguous() for n, t in state.items()} | {"scaled_fp8": torch.zeros(0)}, str(path)
    )
    rest = {part: str(whole / part) for part in ("text_encoder", "text_encoder_2", "vae")}
    got = load(path, components=rest).predictor.transformer_blocks[0].ff.net[0].proj.weight
    wanted = modules["transformer"].transformer_blocks[0].ff.net[0].proj.weight
    assert float((got - wanted).detach().norm() / wanted.detach().norm()) < 0.05


def test_t5_may_be_left_out_of_sd3_and_not_of_flux():
    model = load(written("sd3"), components={"text_encoder_3": "none"})
    assert "text_encoder_3" not in model.modules
    given = item(model, "a red house")
    assert "t5" not in given
    batch = model.family.collate(model, [given], [Draw(1)])
    assert torch.isfinite(model.family.predict(model, batch)).all()
    with pytest.raises(ProblemsError):
        load(written("flux"), components={"text_encoder_2": "none"})


def test_t5_without_a_tokenizer_is_said_with_where_it_was_looked_for(tmp_path):
    place = tmp_path / "one"
    place.mkdir()
    path = small_flux.single(place / "flux.safetensors")
    tokenizer = place / "tokenizer_2"
    elsewhere = tokenizer.rename(tmp_path / "elsewhere")
    with pytest.raises(ProblemsError) as caught:
        load(path)
    assert [p.code for p in caught.value.problems] == ["LS4540"]
    assert load(path, components={"tokenizer_2": str(elsewhere)}).tokenizers["tokenizer_2"] is not None


def test_schnell_is_told_no_scale_and_does_not_shift(tmp_path):
    modules = small_flux.parts(guidance_embeds=False)
    state = small_flux.original(modules)
    path = tmp_path / "schnell.safetensors"
    save_file({n: t.clone().contiguous() for n, t in state.items()}, str(path))
    small_flux.t5.write_tokenizer(tmp_path / "tokenizer_2")
    model = load(path)
    assert model.description.guided is False
    assert model.family.published(model.scheduler_config).shift == 1.0
    told = {
        guided: spec_metadata(model_of, ExportFacts("x", {}), "")
        for guided, model_of in ((False, model), (True, load(written("flux"))))
    }
    assert told[False]["modelspec.architecture"] == "flux-1-schnell/lora"
    assert told[True]["modelspec.architecture"] == "flux-1-dev/lora"
    assert torch.isfinite(
        model.family.predict(model, model.family.collate(model, [item(model, "a")], [Draw(1)]))
    ).all()
    assert load_file(str(path)).keys() == state.keys()
