"""A small random Stable Diffusion XL: the real classes and layouts, as a Diffusers folder and as the original
single file. ``python -m tests.bases.sdxl FOLDER`` writes both."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.families import tiny

UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 32, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (1, 1, 1),
    "cross_attention_dim": 128,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 64,
}
VAE: dict[str, Any] = {**tiny.VAE, "scaling_factor": 0.13025, "force_upcast": True}
TEXT: dict[str, Any] = {**tiny.TEXT, "projection_dim": 64}
TEXT_2: dict[str, Any] = {**tiny.TEXT2, "projection_dim": 64}


def parts(seed: int = 0) -> dict[str, Any]:
    """The four modules, float32, weights drawn from ``seed``."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    return {
        "unet": UNet2DConditionModel(**UNET).eval(),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT)).eval(),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2)).eval(),
        "vae": AutoencoderKL(**VAE).eval(),
    }


def folder(path: Path, modules: dict[str, Any] | None = None, **scheduler: Any) -> Path:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    from lora_scripts.families._clip import tokenizer

    noise = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, **scheduler
    )
    pipe = StableDiffusionXLPipeline(
        **(modules or parts()),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(padding="!"),
        scheduler=noise,
        add_watermarker=False,
    )
    pipe.save_pretrained(path, safe_serialization=True)
    return path


def original(modules: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Everything under the names of Stability AI's own file."""
    unet, vae, second = (modules[name] for name in ("unet", "vae", "text_encoder_2"))
    levels = len(unet.config.block_out_channels)
    names = tiny.original_unet(unet.state_dict(), unet.config.layers_per_block, levels)
    found = {f"model.diffusion_model.{name}": tensor for name, tensor in names.items()}
    start = "conditioner.embedders.0.transformer.text_model."
    for name, tensor in modules["text_encoder"].state_dict().items():
        found[start + name.removeprefix("text_model.")] = tensor
    found[f"{start}embeddings.position_ids"] = torch.arange(77).unsqueeze(0)
    found |= tiny.open_clip(second.state_dict(), second.config, "conditioner.embedders.1.model.", 0)
    names = tiny.original_vae(vae.state_dict(), len(vae.config.block_out_channels))
    return found | {f"first_stage_model.{name}": tensor for name, tensor in names.items()}


def single(
    path: Path, modules: dict[str, Any] | None = None, *, markers: tuple[str, ...] = (), **metadata: str
) -> Path:
    """``markers``: empty keys that say what the base predicts. ``metadata``: entries of the header."""
    state = {name: tensor.contiguous() for name, tensor in original(modules or parts()).items()}
    save_file(state | {name: torch.zeros(0) for name in markers}, str(path), metadata or None)
    return path


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    print(folder(place / "sdxl"), single(place / "sdxl.safetensors"))
