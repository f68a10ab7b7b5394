"""A small random Stable Diffusion 3.5: the real classes and layouts, with query norms and, as 3.5 medium has
it, a first block with two attentions. ``python -m tests.bases.sd3 FOLDER`` writes folder and file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.bases import t5

TRANSFORMER: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 64,
    "num_attention_heads": 2,
    "joint_attention_dim": 160,
    "caption_projection_dim": 128,
    "pooled_projection_dim": 128,
    "pos_embed_max_size": 16,
    "dual_attention_layers": (0,),
    "qk_norm": "rms_norm",
}
VAE: dict[str, Any] = {**t5.VAE, "scaling_factor": 1.5305, "shift_factor": 0.0609}
SCHEDULER: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 3.0}


def parts(seed: int = 0) -> dict[str, Any]:
    """The five modules, float32, weights drawn from ``seed``."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    torch.manual_seed(seed)
    return {
        "transformer": t5.spread(SD3Transformer2DModel(**TRANSFORMER).eval(), seed),
        "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**t5.CLIP)).eval(),
        "text_encoder_2": CLIPTextModelWithProjection(
            CLIPTextConfig(**{**t5.CLIP, "hidden_act": "gelu", "pad_token_id": 0})
        ).eval(),
        "text_encoder_3": T5EncoderModel(T5Config(**{**t5.T5, "d_model": 160})).eval(),
        "vae": AutoencoderKL(**VAE).eval(),
    }


def folder(path: Path, modules: dict[str, Any] | None = None) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    from lora_scripts.families._clip import tokenizer

    pipe = StableDiffusion3Pipeline(
        **(modules or parts()),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(padding="!"),
        tokenizer_3=t5.tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
    )
    pipe.save_pretrained(path, safe_serialization=True)
    return path


def original_transformer(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Diffusers' names -> Stability AI's, written down apart from the program's own table."""
    done = {"pos_embed": state["pos_embed.pos_embed"]}
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    for leaf in ("weight", "bias"):
        for ours, theirs in (
            ("pos_embed.proj", "x_embedder.proj"),
            ("context_embedder", "context_embedder"),
            ("proj_out", "final_layer.linear"),
            ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
            ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
            ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
            ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
        ):
            done[f"{theirs}.{leaf}"] = state[f"{ours}.{leaf}"]
        done[f"final_layer.adaLN_modulation.1.{leaf}"] = t5.swapped(state[f"norm_out.linear.{leaf}"])
        for n in range(last + 1):
            block, x, context = (
                f"transformer_blocks.{n}", f"joint_blocks.{n}.x_block", f"joint_blocks.{n}.context_block"
            )  # fmt: skip
            done[f"{x}.attn.qkv.{leaf}"] = t5.qkv(state, [f"{block}.attn.to_{c}" for c in "qkv"], leaf)
            added = [f"{block}.attn.add_{c}_proj" for c in "qkv"]
            done[f"{context}.attn.qkv.{leaf}"] = t5.qkv(state, added, leaf)
            done[f"{x}.attn.proj.{leaf}"] = state[f"{block}.attn.to_out.0.{leaf}"]
            done[f"{x}.adaLN_modulation.1.{leaf}"] = state[f"{block}.norm1.linear.{leaf}"]
            done[f"{x}.mlp.fc1.{leaf}"] = state[f"{block}.ff.net.0.proj.{leaf}"]
            done[f"{x}.mlp.fc2.{leaf}"] = state[f"{block}.ff.net.2.{leaf}"]
            modulation = state[f"{block}.norm1_context.linear.{leaf}"]
            done[f"{context}.adaLN_modulation.1.{leaf}"] = t5.swapped(modulation) if n == last else modulation
            if n < last:
                done[f"{context}.attn.proj.{leaf}"] = state[f"{block}.attn.to_add_out.{leaf}"]
                done[f"{context}.mlp.fc1.{leaf}"] = state[f"{block}.ff_context.net.0.proj.{leaf}"]
                done[f"{context}.mlp.fc2.{leaf}"] = state[f"{block}.ff_context.net.2.{leaf}"]
            if f"{block}.attn2.to_q.{leaf}" in state:
                done[f"{x}.attn2.qkv.{leaf}"] = t5.qkv(state, [f"{block}.attn2.to_{c}" for c in "qkv"], leaf)
                done[f"{x}.attn2.proj.{leaf}"] = state[f"{block}.attn2.to_out.0.{leaf}"]
            if leaf == "weight" and f"{block}.attn.norm_q.weight" in state:
                for c in "qk":
                    done[f"{x}.attn.ln_{c}.weight"] = state[f"{block}.attn.norm_{c}.weight"]
                    done[f"{context}.attn.ln_{c}.weight"] = state[f"{block}.attn.norm_added_{c}.weight"]
                    if f"{block}.attn2.norm_{c}.weight" in state:
                        done[f"{x}.attn2.ln_{c}.weight"] = state[f"{block}.attn2.norm_{c}.weight"]
    return done


def original(modules: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Everything but T5 under the names of the published file with both CLIP encoders."""
    names = original_transformer(modules["transformer"].state_dict())
    found = {f"model.diffusion_model.{name}": tensor for name, tensor in names.items()}
    for name, short in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        start = f"text_encoders.{short}.transformer."
        found |= {start + n: tensor for n, tensor in modules[name].state_dict().items()}
    return found | t5.original_rest(modules, "first_stage_model.")


def single(path: Path, modules: dict[str, Any] | None = None) -> Path:
    state = original(modules or parts())
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, str(path))
    return path


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    print(folder(place / "sd3"), single(place / "sd3.safetensors"))
