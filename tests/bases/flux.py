"""A small random FLUX.1 dev: the real classes and layouts. ``python -m tests.bases.flux FOLDER`` writes both;
the file holds all parts, and T5's tokenizer lies beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.bases import t5

TRANSFORMER: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": t5.WIDTH,
    "pooled_projection_dim": 64,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 14, 14),
}
VAE: dict[str, Any] = {**t5.VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def parts(seed: int = 0, **transformer: Any) -> dict[str, Any]:
    """The four modules, float32, weights drawn from ``seed``. ``transformer``: what it has otherwise."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    return {
        "transformer": t5.spread(FluxTransformer2DModel(**{**TRANSFORMER, **transformer}).eval(), seed),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**t5.CLIP)).eval(),
        "text_encoder_2": t5.encoder(),
        "vae": AutoencoderKL(**VAE).eval(),
    }


def folder(path: Path, modules: dict[str, Any] | None = None, **scheduler: Any) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    from lora_scripts.families._clip import tokenizer

    pipe = FluxPipeline(
        **(modules or parts()),
        tokenizer=tokenizer(),
        tokenizer_2=t5.tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(**(scheduler or SCHEDULER)),
    )
    pipe.save_pretrained(path, safe_serialization=True)
    return path


def original_transformer(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Diffusers' names -> Black Forest Labs', written down apart from the program's own table."""
    done: dict[str, torch.Tensor] = {}
    counts = {
        start: 1 + max(int(name.split(".")[1]) for name in state if name.startswith(start))
        for start in ("transformer_blocks.", "single_transformer_blocks.")
    }
    plain = {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear"}
    for ours, theirs in (("timestep", "time_in"), ("text", "vector_in"), ("guidance", "guidance_in")):
        if f"time_text_embed.{ours}_embedder.linear_1.weight" in state:
            plain[f"time_text_embed.{ours}_embedder.linear_1"] = f"{theirs}.in_layer"
            plain[f"time_text_embed.{ours}_embedder.linear_2"] = f"{theirs}.out_layer"
    for leaf in ("weight", "bias"):
        done |= {f"{theirs}.{leaf}": state[f"{ours}.{leaf}"] for ours, theirs in plain.items()}
        done[f"final_layer.adaLN_modulation.1.{leaf}"] = t5.swapped(state[f"norm_out.linear.{leaf}"])
        for n in range(counts["transformer_blocks."]):
            block, double = f"transformer_blocks.{n}", f"double_blocks.{n}"
            for stream, names, out, ff, norm in (
                ("img", [f"attn.to_{c}" for c in "qkv"], "attn.to_out.0", "ff", "norm1"),
                (
                    "txt",
                    [f"attn.add_{c}_proj" for c in "qkv"],
                    "attn.to_add_out",
                    "ff_context",
                    "norm1_context",
                ),
            ):
                three = t5.qkv(state, [f"{block}.{name}" for name in names], leaf)
                done[f"{double}.{stream}_attn.qkv.{leaf}"] = three
                done[f"{double}.{stream}_attn.proj.{leaf}"] = state[f"{block}.{out}.{leaf}"]
                done[f"{double}.{stream}_mlp.0.{leaf}"] = state[f"{block}.{ff}.net.0.proj.{leaf}"]
                done[f"{double}.{stream}_mlp.2.{leaf}"] = state[f"{block}.{ff}.net.2.{leaf}"]
                done[f"{double}.{stream}_mod.lin.{leaf}"] = state[f"{block}.{norm}.linear.{leaf}"]
        for n in range(counts["single_transformer_blocks."]):
            block, one = f"single_transformer_blocks.{n}", f"single_blocks.{n}"
            names = [f"{block}.attn.to_{c}" for c in "qkv"] + [f"{block}.proj_mlp"]
            done[f"{one}.linear1.{leaf}"] = t5.qkv(state, names, leaf)
            done[f"{one}.linear2.{leaf}"] = state[f"{block}.proj_out.{leaf}"]
            done[f"{one}.modulation.lin.{leaf}"] = state[f"{block}.norm.linear.{leaf}"]
    for n in range(counts["transformer_blocks."]):
        for stream, added in (("img", ""), ("txt", "added_")):
            for c, word in (("q", "query"), ("k", "key")):
                weight = state[f"transformer_blocks.{n}.attn.norm_{added}{c}.weight"]
                done[f"double_blocks.{n}.{stream}_attn.norm.{word}_norm.scale"] = weight
    for n in range(counts["single_transformer_blocks."]):
        for c, word in (("q", "query"), ("k", "key")):
            weight = state[f"single_transformer_blocks.{n}.attn.norm_{c}.weight"]
            done[f"single_blocks.{n}.norm.{word}_norm.scale"] = weight
    return done


def original(modules: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Everything under the names of the one-file checkpoints that ComfyUI users know."""
    names = original_transformer(modules["transformer"].state_dict())
    found = {f"model.diffusion_model.{name}": tensor for name, tensor in names.items()}
    for name, tensor in modules["text_encoder"].state_dict().items():
        inner = name.removeprefix("text_model.")
        found[f"text_encoders.clip_l.transformer.text_model.{inner}"] = tensor
    for name, tensor in modules["text_encoder_2"].state_dict().items():
        if name != "encoder.embed_tokens.weight":
            found[f"text_encoders.t5xxl.transformer.{name}"] = tensor
    return found | t5.original_rest(modules, "vae.")


def single(path: Path, modules: dict[str, Any] | None = None) -> Path:
    state = original(modules or parts())
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, str(path))
    t5.write_tokenizer(path.parent / "tokenizer_2")
    return path


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    print(folder(place / "flux"), single(place / "flux.safetensors"))
