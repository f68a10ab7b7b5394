"""Stable Diffusion 1.x and its fine-tunes, at any size: CLIP, a U-Net with cross-attention, a VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._base import Component, ImageModel, Sheet, Unsupported
from ._clip import tokenizer
from ._diffusion import LatentDiffusion
from ._single_file import (
    Layout,
    clip_widths,
    convert_clip,
    convert_unet,
    convert_vae,
    unet_widths,
    vae_widths,
)
from ._source import Source

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION = r"(?:.+\.)?transformer_blocks\.\d+\.attn[12]\.to_(?:q|k|v|out\.0)"
REST = r"(?:.+\.)?attentions\.\d+\.(?:proj_in|proj_out|transformer_blocks\.\d+\.ff\.net\.(?:0\.proj|2))"
CLIP = r"(?:.+\.)?self_attn\.(?:q|k|v|out)_proj|(?:.+\.)?mlp\.fc[12]"

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
    target_presets={
        "attention-mlp": {"unet": (ATTENTION, REST), "text_encoder": (CLIP,)},
        "attention": {"unet": (ATTENTION,), "text_encoder": (CLIP,)},
    },
    default_preset="attention-mlp",
    base_versions={"epsilon": "sd_v1", "v_prediction": "sd_v1_v"},
    architectures={"epsilon": "stable-diffusion-v1/lora", "v_prediction": "stable-diffusion-v1/lora"},
    implementation="diffusers",
    resolution=512,
    supports={
        "text_encoder_training": True,
        "gradient_checkpointing": True,
        "inpainting": Unsupported("model.unsupported.inpainting"),
    },
)

# What a single file does not say: the rest of the published configurations, widths come from the shapes.
UNET: dict[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "sample_size": 64,
}
VAE: dict[str, Any] = {
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-05,
    "pad_token_id": 49407,
    "projection_dim": 768,
}


class StableDiffusion1(LatentDiffusion):
    sheet = SHEET
    pipeline_class = "StableDiffusionPipeline"
    layouts: Mapping[str, Layout] = {
        "unet": Layout(
            ("model.diffusion_model.", ""),
            "input_blocks.0.0.weight",
            lambda shapes: {**UNET, **unet_widths(shapes)},
            convert_unet,
        ),
        "text_encoder": Layout(
            ("cond_stage_model.transformer.", "text_encoder.", ""),
            "embeddings.token_embedding.weight",
            lambda shapes: {**TEXT, **clip_widths(shapes)},
            convert_clip,
        ),
        "vae": Layout(
            ("first_stage_model.", "vae.", ""),
            "decoder.conv_in.weight",
            lambda shapes: {**VAE, **vae_widths(shapes)},
            convert_vae,
        ),
    }
    scheduler: Mapping[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }

    def tokenizers(self, source: Source) -> dict[str, Any]:
        if source.kind == "file":
            return {"tokenizer": tokenizer()}
        from transformers import CLIPTokenizer

        return {
            "tokenizer": CLIPTokenizer.from_pretrained(str(source.path / "tokenizer"), local_files_only=True)
        }

    def embed(self, model: ImageModel, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoder = model.modules["text_encoder"]
        return {"text": encoder(ids["ids"].to(model.device)).last_hidden_state}

    def pipeline_extras(self) -> dict[str, Any]:
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


FAMILY = StableDiffusion1()
