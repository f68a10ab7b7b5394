"""Stable Diffusion 2.x and its fine-tunes: OpenCLIP's text, noise (at 512) or v (at 768) as prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import _stable_diffusion as shared
from ._base import Component, Sheet, Unsupported
from ._open_clip import convert_text, text_widths
from ._single_file import Layout, Shapes, convert_unet, unet_widths
from ._source import Source

SHEET = Sheet(
    name="sd2",
    title="Stable Diffusion 2.x",
    task="image-generation",
    required_fields=("image", "caption"),
    components={
        "unet": Component("unet", "diffusers", "UNet2DConditionModel", kohya="lora_unet"),
        "text_encoder": Component(
            "text_encoder",
            "transformers",
            "CLIPTextModel",
            kohya="lora_te",
            inner="text_model.",
            fused=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        ),
        "vae": Component("vae", "diffusers", "AutoencoderKL", storage="float32"),
    },
    tokenizers=("tokenizer",),
    predictor="unet",
    target_presets=shared.PRESETS,
    default_preset="attention-mlp",
    convolutions=shared.CONVOLUTIONS,
    base_versions={"epsilon": "sd_v2", "v_prediction": "sd_v2_v"},
    architectures={
        "epsilon": "stable-diffusion-v2-512/lora",
        "v_prediction": "stable-diffusion-v2-768-v/lora",
    },
    implementation="diffusers",
    resolution=768,
    supports={
        "text_encoder_training": True,
        "gradient_checkpointing": True,
        "quantization": True,
        "clip_skip": Unsupported("model.unsupported.clip_skip"),
        "inpainting": Unsupported("model.unsupported.inpainting"),
    },
)

EPSILON_RESOLUTION = 512
UNET: dict[str, Any] = {"use_linear_projection": True, "upcast_attention": True, "sample_size": 96}
VAE: dict[str, Any] = {"sample_size": 768}
TEXT: dict[str, Any] = {**shared.TEXT, "hidden_act": "gelu", "pad_token_id": 0, "projection_dim": 512}


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """Heads are 64 wide, so that wider blocks have more of them."""
    widths = unet_widths(shapes)
    heads = [max(1, width // 64) for width in widths["block_out_channels"]]
    return {**shared.UNET, **UNET, **widths, "attention_head_dim": heads}


class StableDiffusion2(shared.StableDiffusion):
    sheet = SHEET
    padding = "!"
    predictions = ("v_prediction", "epsilon")
    ambiguous = True
    layouts: Mapping[str, Layout] = {
        "unet": Layout(("model.diffusion_model.", ""), "input_blocks.0.0.weight", unet_config, convert_unet),
        "text_encoder": Layout(
            (
                "cond_stage_model.model.",
                "conditioner.embedders.0.model.",
                "cond_stage_model.transformer.",
                "text_encoder.",
                "",
            ),
            "token_embedding.weight",
            lambda shapes: {**TEXT, **text_widths(shapes)},
            convert_text,
        ),
        "vae": shared.vae_layout(VAE),
    }

    def resolution(
        self, configs: Mapping[str, Mapping[str, Any]], source: Source, prediction_type: str
    ) -> int:
        """A file's: the bases that predict noise were trained at 512 pixels, those that predict v at 768."""
        if source.kind == "file" and prediction_type == "epsilon":
            return EPSILON_RESOLUTION
        return super().resolution(configs, source, prediction_type)


FAMILY = StableDiffusion2()
