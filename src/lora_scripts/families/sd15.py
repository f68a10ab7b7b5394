"""Stable Diffusion 1.x and its fine-tunes, at any size: CLIP, a U-Net with cross-attention, a VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _stable_diffusion as shared
from ._base import Component, Sheet, Unsupported
from ._single_file import Layout, clip_widths, convert_clip

SHEET = Sheet(
    name="sd15",
    title="Stable Diffusion 1.x",
    task="image-generation",
    required_fields=("image", "caption"),
    components={
        "unet": Component("unet", "diffusers", "UNet2DConditionModel", kohya="lora_unet"),
        "text_encoder": Component(
            "text_encoder", "transformers", "CLIPTextModel", kohya="lora_te", inner="text_model."
        ),
        "vae": Component("vae", "diffusers", "AutoencoderKL", storage="float32"),
    },
    tokenizers=("tokenizer",),
    predictor="unet",
    target_presets=shared.PRESETS,
    default_preset="attention-mlp",
    convolutions=shared.CONVOLUTIONS,
    base_versions={"epsilon": "sd_v1", "v_prediction": "sd_v1_v"},
    architectures={"epsilon": "stable-diffusion-v1/lora", "v_prediction": "stable-diffusion-v1/lora"},
    implementation="diffusers",
    resolution=512,
    supports={
        "text_encoder_training": True,
        "gradient_checkpointing": True,
        "quantization": True,
        "clip_skip": True,
        "inpainting": Unsupported("model.unsupported.inpainting"),
    },
)

UNET: dict[str, Any] = {**shared.UNET, "attention_head_dim": 8, "sample_size": 64}
VAE: dict[str, Any] = {**shared.VAE, "sample_size": 512}
TEXT: dict[str, Any] = {
    **shared.TEXT,
    "hidden_act": "quick_gelu",
    "pad_token_id": 49407,
    "projection_dim": 768,
}


class StableDiffusion1(shared.StableDiffusion):
    sheet = SHEET
    layouts: Mapping[str, Layout] = {
        "unet": shared.unet_layout(UNET),
        "text_encoder": Layout(
            ("cond_stage_model.transformer.", "text_encoder.", ""),
            "embeddings.token_embedding.weight",
            lambda shapes: {**TEXT, **clip_widths(shapes)},
            convert_clip,
        ),
        "vae": shared.vae_layout(VAE),
    }


FAMILY = StableDiffusion1()
