"""What Stable Diffusion 1.x and 2.x share: one text encoder, targets, noise schedule, single-file layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._base import ImageModel
from ._clip import tokenizers
from ._diffusion import LatentDiffusion
from ._single_file import Layout, convert_unet, convert_vae, unet_widths, vae_widths
from ._source import Source

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION = r"(?:.+\.)?transformer_blocks\.\d+\.attn[12]\.to_(?:q|k|v|out\.0)"
REST = r"(?:.+\.)?attentions\.\d+\.(?:proj_in|proj_out|transformer_blocks\.\d+\.ff\.net\.(?:0\.proj|2))"
CLIP = r"(?:.+\.)?self_attn\.(?:q|k|v|out)_proj|(?:.+\.)?mlp\.fc[12]"
PRESETS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "attention-mlp": {"unet": (ATTENTION, REST), "text_encoder": (CLIP,)},
    "attention": {"unet": (ATTENTION,), "text_encoder": (CLIP,)},
}
CONVOLUTIONS: Mapping[str, tuple[str, ...]] = {
    "unet": (r"(?:.+\.)?resnets\.\d+\.conv[12]", r"(?:.+\.)?(?:down|up)samplers\.\d+\.conv")
}
"""The 3x3 ones that sd-scripts adapts: of ``ResnetBlock2D``, ``Downsample2D`` and ``Upsample2D``."""
# What a single file does not say: the rest of the published configurations, widths come from the shapes.
UNET: dict[str, Any] = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
}
VAE: dict[str, Any] = {
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "layer_norm_eps": 1e-05,
}


def unet_layout(own: Mapping[str, Any]) -> Layout:
    """``own``: what the family's U-Net has beyond ``UNET``."""
    return Layout(
        ("model.diffusion_model.", ""),
        "input_blocks.0.0.weight",
        lambda shapes: {**UNET, **own, **unet_widths(shapes)},
        convert_unet,
    )


def vae_layout(own: Mapping[str, Any]) -> Layout:
    return Layout(
        ("first_stage_model.", "vae.", ""),
        "decoder.conv_in.weight",
        lambda shapes: {**VAE, **own, **vae_widths(shapes)},
        convert_vae,
    )


class StableDiffusion(LatentDiffusion):
    """A U-Net that is told what to draw by one CLIP text encoder. ``padding``: what fills up a caption."""

    pipeline_class = "StableDiffusionPipeline"
    padding = "<|endoftext|>"
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
        return tokenizers(source, {"tokenizer": self.padding})

    def embed(self, model: ImageModel, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``text`` (B, 77, width): the last layer's output or, with ``clip_skip`` n, that of the n-th from
        the end, in either case through the final norm, as WebUIs and sd-scripts have it."""
        encoder: Any = model.modules["text_encoder"]
        given = ids["ids"].to(model.device)
        if model.clip_skip == 1:
            return {"text": encoder(given).last_hidden_state}
        found = encoder(given, output_hidden_states=True).hidden_states[-model.clip_skip]
        inner = getattr(encoder, "text_model", encoder)
        return {"text": inner.final_layer_norm(found)}

    def pipeline_extras(self) -> dict[str, Any]:
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
