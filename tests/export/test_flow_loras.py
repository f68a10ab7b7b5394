"""LoRAs of Stable Diffusion 3 and FLUX: names and numbers at full size, and what Diffusers makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from safetensors.torch import save_file

from lora_scripts.adapters.spec import match_targets
from lora_scripts.export.kohya import diffusers_name, fused
from lora_scripts.export.readback import lora_layers
from lora_scripts.families import flux, sd3
from lora_scripts.families._components import build, weight_shapes
from lora_scripts.families._original_blocks import plain_state, split_rows
from tests.bases import flux as small_flux
from tests.bases import sd3 as small_sd3

FLUX: dict[str, Any] = {
    "patch_size": 1, "in_channels": 64, "out_channels": 64, "num_layers": 19, "num_single_layers": 38,
    "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
    "pooled_projection_dim": 768, "guidance_embeds": True, "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
SD3: dict[str, Any] = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
    "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
    "dual_attention_layers": (), "qk_norm": None,
}  # fmt: skip
MEDIUM = {**SD3, "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}
LARGE = {
    **SD3,
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}


def meta(family: Any, config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return build(family.SHEET.components["transformer"], config)


@pytest.fixture(scope="module")
def big_flux():
    return meta(flux, FLUX)


def size(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def layers(family: Any, module: Any, targets: Any = "auto") -> list[str]:
    modules = {"transformer": weight_shapes(module)}
    return match_targets(family.SHEET, modules, targets)["transformer"]


def groups(family: Any, module: Any, names: list[str]) -> set[str]:
    found = family.FAMILY.lora_groups({"transformer": weight_shapes(module)})
    return {name for name, group in found.items() if any(part in names for _, part in group)}


@pytest.mark.parametrize(
    ("preset", "apart", "together"), [("auto", 418, 228), ("blocks", 494, 304), ("attention", 266, 114)]
)
def test_flux_has_the_layers_that_sd_scripts_has(big_flux, preset, apart, together):
    """304 is the published number of sd-scripts' whole set, which keeps fused weights as one."""
    names = layers(flux, big_flux, preset)
    assert len(names) == apart
    files = groups(flux, big_flux, names)
    assert len(files) == together
    if preset == "blocks":
        assert {
            "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_double_blocks_18_txt_mlp_2",
            "lora_unet_double_blocks_3_img_mod_lin", "lora_unet_single_blocks_37_linear1",
            "lora_unet_single_blocks_0_linear2", "lora_unet_single_blocks_5_modulation_lin",
        } <= files  # fmt: skip


def test_sizes_are_the_published_ones(big_flux):
    assert size(big_flux) == 11_901_408_320
    assert size(meta(sd3, SD3)) == 2_028_328_000


def test_what_lies_around_the_blocks_is_left_alone(big_flux):
    assert all("transformer_blocks." in name for name in layers(flux, big_flux, ("proj_out",)))


@pytest.mark.parametrize("config", [SD3, MEDIUM, LARGE], ids=["3-medium", "3.5-medium", "3.5-large"])
def test_sd3_configurations_come_out_of_the_shapes_and_names_go_both_ways(config):
    module = meta(sd3, config)
    original = small_sd3.original_transformer(module.state_dict())
    assert sd3.transformer_config({name: tuple(t.shape) for name, t in original.items()}) == config
    names = layers(sd3, module)
    blocks, dual = config["num_layers"], len(config["dual_attention_layers"])
    assert len(names) == blocks * (3 + 3 + 1 + 1 + 2 + 2) - 1 - 2 - 1 + 4 * dual
    assert f"transformer_blocks.{blocks - 1}.attn.add_q_proj" not in names, "nothing depends on it"
    assert len({diffusers_name(sd3.FAMILY, "transformer", name) for name in names}) == len(names)


def test_flux_configuration_comes_out_of_the_shapes(big_flux):
    original = small_flux.original_transformer(big_flux.state_dict())
    assert flux.transformer_config({name: tuple(t.shape) for name, t in original.items()}) == FLUX


def test_the_fused_file_is_what_diffusers_takes_apart(big_flux):
    """At the published width, by Diffusers' own conversion: one layer for each module, with its effect."""
    names = layers(flux, big_flux)
    chosen = [n for n in names if n.startswith(("transformer_blocks.0.", "single_transformer_blocks.3."))]
    modules = {
        "transformer": {name: shape for name, shape in weight_shapes(big_flux).items() if name in chosen}
    }
    generator = torch.Generator().manual_seed(0)
    pairs, tensors = {}, {}
    for number, (name, (tall, wide)) in enumerate(modules["transformer"].items()):
        rank = 4 if number % 2 or "attn" in name else 6
        down, up = torch.randn(rank, wide, generator=generator), torch.randn(tall, rank, generator=generator)
        pairs[name] = (down, up)
        own = flux.FAMILY.names("transformer", name)
        tensors |= {
            f"{own}.lora_down.weight": down,
            f"{own}.lora_up.weight": up,
            f"{own}.alpha": torch.tensor(2.0),
        }
    whole = fused(flux.FAMILY, modules, dict(tensors))
    assert "lora_unet_single_blocks_3_linear1.lora_down.weight" in whole
    assert {float(t) for n, t in whole.items() if n.endswith(".alpha")} == {2.0}
    read = FluxPipeline.lora_state_dict(dict(whole))
    assert {n.split(".lora_")[0] for n in read} == {f"transformer.{name}" for name in chosen}
    ours = plain_state(whole, flux.FAMILY.lora_groups(modules), modules)
    for name, (down, up) in pairs.items():
        probe = torch.randn(down.shape[1], generator=generator)
        wanted = 2.0 / down.shape[0] * up @ (down @ probe)
        for state in (read, ours):
            first, second = (state[f"transformer.{name}.lora_{half}.weight"] for half in "AB")
            torch.testing.assert_close(second @ (first @ probe), wanted, rtol=1e-3, atol=1e-2)
        assert ours[f"transformer.{name}.lora_A.weight"].shape == down.shape, "no rank is gained on the way"


def test_diffusers_own_pipeline_puts_the_fused_file_on(tmp_path):
    """At the published width, which is the only one that its reader of kohya's layout knows; blocks cut short
    and never filled, since what counts are the layers that it puts on."""
    small = {**FLUX, "num_layers": 1, "num_single_layers": 1}
    module = meta(flux, small).to(torch.bfloat16).to_empty(device="cpu")
    names = layers(flux, module)
    modules = {"transformer": {n: shape for n, shape in weight_shapes(module).items() if n in names}}
    generator = torch.Generator().manual_seed(0)
    pairs = {
        name: (torch.randn(2, wide, generator=generator), torch.randn(tall, 2, generator=generator))
        for name, (tall, wide) in modules["transformer"].items()
    }
    tensors = {}
    for name, (down, up) in pairs.items():
        own = flux.FAMILY.names("transformer", name)
        tensors |= {f"{own}.lora_down.weight": down, f"{own}.lora_up.weight": up}
        tensors[f"{own}.alpha"] = torch.tensor(3.0)
    path = tmp_path / "x.safetensors"
    whole = fused(flux.FAMILY, modules, tensors)
    save_file({name: tensor.contiguous() for name, tensor in whole.items()}, str(path))
    absent = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), transformer=module, **absent)
    flux.FAMILY.load_lora(pipe, path, "x")
    found = lora_layers(module, "x")
    assert found.keys() == pairs.keys()
    for name, (down, up) in pairs.items():
        layer, probe = found[name], torch.randn(down.shape[1], generator=generator)
        first, second = (half["x"].weight.detach().float() for half in (layer.lora_A, layer.lora_B))
        got = layer.scaling["x"] * second @ (first @ probe)
        wanted = 1.5 * up @ (down @ probe)
        assert float((got - wanted).norm() / wanted.norm()) < 0.02, name  # it is put on in the base's bf16


def test_a_part_that_was_not_trained_keeps_no_rank():
    down, up = torch.randn(4, 8), torch.zeros(9, 4)
    up[:3, :2] = 1.0
    (first, second), (none, _), _ = split_rows(down, up, [3, 3, 3])
    assert first.shape == (2, 8)
    assert torch.equal(second @ first, up[:3] @ down)
    assert none.shape == (0, 8)
