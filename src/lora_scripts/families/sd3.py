"""Stable Diffusion 3 and 3.5, medium and large: a transformer told by two CLIP encoders and, or not, T5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import _stable_diffusion as shared
from . import _t5
from ._base import Component, ImageModel, Sheet
from ._clip import END
from ._flow import SUPPORTS, vae_layout
from ._flow_t5 import ToldByT5
from ._open_clip import convert_projected, projected_widths
from ._original_blocks import OriginalBlocks
from ._single_file import Layout, Shapes

if TYPE_CHECKING:
    from torch import Tensor

CODE = "https://github.com/Stability-AI/sd3-ref"
CLIP = "CLIPTextModelWithProjection"
ATTENTION = r"transformer_blocks\.\d+\.attn2?\.(?:to_(?:q|k|v|out\.0|add_out)|add_[qkv]_proj)"
FEED_FORWARD = r"transformer_blocks\.\d+\.ff(?:_context)?\.net\.(?:0\.proj|2)"

SHEET = Sheet(
    name="sd3",
    title="Stable Diffusion 3",
    task="image-generation",
    required_fields=("image", "caption"),
    components={
        "transformer": Component("transformer", "diffusers", "SD3Transformer2DModel", kohya="lora_unet"),
        "text_encoder": Component("text_encoder", "transformers", CLIP),
        "text_encoder_2": Component("text_encoder_2", "transformers", CLIP),
        "text_encoder_3": Component(
            "text_encoder_3", "transformers", "T5EncoderModel", storage="wide", optional=True
        ),
        "vae": Component("vae", "diffusers", "AutoencoderKL", storage="float32"),
    },
    tokenizers=("tokenizer", "tokenizer_2", "tokenizer_3"),
    predictor="transformer",
    target_presets={
        "attention-mlp": {"transformer": (ATTENTION, FEED_FORWARD)},
        "attention": {"transformer": (ATTENTION,)},
    },
    default_preset="attention-mlp",
    base_versions={"flow": "sd3"},
    architectures={"flow": "stable-diffusion-3/lora"},
    implementation=CODE,
    resolution=1024,
    lora_layout="diffusers",
    sampler="Euler",
    trainable=r"transformer_blocks\..+",
    idle=("transformer_blocks.last.attn.add_q_proj",),
    network_module="networks.lora_sd3",
    caption_tokens=256,
    supports=SUPPORTS,
)

OURS, IMAGE, TEXT = "transformer_blocks.#", "joint_blocks.#.x_block", "joint_blocks.#.context_block"
BLOCKS = OriginalBlocks(
    {
        "pos_embed.proj": "x_embedder.proj",
        "context_embedder": "context_embedder",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        **{f"{OURS}.attn.to_{x}": f"{IMAGE}.attn.qkv/{n}" for n, x in enumerate("qkv")},
        **{
            f"{OURS}.attn.add_{x}_proj": f"{TEXT}.attn.qkv/{n}"
            for n, x in enumerate("qkv")
        },
        **{f"{OURS}.attn2.to_{x}": f"{IMAGE}.attn2.qkv/{n}" for n, x in enumerate("qkv")},
        **{f"{OURS}.attn.norm_{x}": f"{IMAGE}.attn.ln_{x}" for x in "qk"},
        **{f"{OURS}.attn.norm_added_{x}": f"{TEXT}.attn.ln_{x}" for x in "qk"},
        **{f"{OURS}.attn2.norm_{x}": f"{IMAGE}.attn2.ln_{x}" for x in "qk"},
        f"{OURS}.attn.to_out.0": f"{IMAGE}.attn.proj",
        f"{OURS}.attn.to_add_out": f"{TEXT}.attn.proj",
        f"{OURS}.attn2.to_out.0": f"{IMAGE}.attn2.proj",
        f"{OURS}.norm1.linear": f"{IMAGE}.adaLN_modulation.1",
        f"{OURS}.norm1_context.linear": f"{TEXT}.adaLN_modulation.1",
        "transformer_blocks.last.norm1_context.linear": f"~{TEXT}.adaLN_modulation.1",
        f"{OURS}.ff.net.0.proj": f"{IMAGE}.mlp.fc1",
        f"{OURS}.ff.net.2": f"{IMAGE}.mlp.fc2",
        f"{OURS}.ff_context.net.0.proj": f"{TEXT}.mlp.fc1",
        f"{OURS}.ff_context.net.2": f"{TEXT}.mlp.fc2",
        "norm_out.linear": "~final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    },
    plain={"pos_embed": "pos_embed.pos_embed"},
)  # fmt: skip
MARKERS = ("x_embedder.proj.weight", "pos_embed.proj.weight")
HEAD = 64
"""Width of an attention head in every published size."""


def transformer_config(shapes: Shapes) -> dict[str, Any]:
    """What the shapes of a transformer say, under either kind of names (without prefix)."""
    shapes = BLOCKS.original_shapes(shapes, "joint_blocks.")
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    blocks = {int(name.split(".")[1]) for name in shapes if name.startswith("joint_blocks.")}
    dual = {int(name.split(".")[1]) for name in shapes if name.endswith("attn2.qkv.weight")}
    normed = any(name.endswith("ln_q.weight") for name in shapes)
    return {
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
        "num_layers": len(blocks),
        "attention_head_dim": HEAD,
        "num_attention_heads": max(1, width // HEAD),
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "caption_projection_dim": shapes["context_embedder.weight"][0],
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
        "dual_attention_layers": tuple(sorted(dual)),
        "qk_norm": "rms_norm" if normed else None,
    }


def convert_transformer(state: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    return BLOCKS.convert(state, width, "joint_blocks.")


def clip_layout(name: str, own: str, activation: str, padding: int) -> Layout:
    """``name`` as the whole files call the encoder, ``own`` as files of a folder do."""
    given = {**shared.TEXT, "hidden_act": activation, "pad_token_id": padding}
    return Layout(
        (f"text_encoders.{name}.transformer.", f"{own}.", ""),
        "embeddings.token_embedding.weight",
        lambda shapes: {**given, **projected_widths(shapes)},
        convert_projected,
    )


class StableDiffusion3(ToldByT5):
    sheet = SHEET
    pipeline_class = "StableDiffusion3Pipeline"
    scheduler: Mapping[str, Any] = {"num_train_timesteps": 1000, "shift": 3.0}
    blocks = BLOCKS
    clip: Mapping[str, str] = {"tokenizer": END, "tokenizer_2": "!"}
    apart = 39
    reader = "text_encoder_3"
    layouts: Mapping[str, Layout] = {
        "transformer": Layout(
            ("model.diffusion_model.", ""), MARKERS, transformer_config, convert_transformer
        ),
        "text_encoder": clip_layout("clip_l", "text_encoder", "quick_gelu", 49407),
        "text_encoder_2": clip_layout("clip_g", "text_encoder_2", "gelu", 0),
        "text_encoder_3": _t5.layout("text_encoders.t5xxl.transformer.", "text_encoder_3."),
        "vae": vae_layout(1.5305, 0.0609),
    }

    def largest_side(self, configs: Mapping[str, Mapping[str, Any]]) -> int:
        return int(configs["transformer"]["pos_embed_max_size"]) * self.size_multiple(configs)

    def embed(self, model: ImageModel, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``clip`` (B, 77, width): the last but one layer of both encoders side by side; ``t5`` (B, tokens,
        width), where it is there; ``pooled`` (B, width): both encoders' projections of the end token."""
        import torch

        states, pooled = [], []
        for name, key in (("text_encoder", "ids"), ("text_encoder_2", "ids_2")):
            encoder: Any = model.modules[name]
            read = encoder(ids[key].to(model.device), output_hidden_states=True)
            states.append(read.hidden_states[-2])
            pooled.append(read.text_embeds)
        found = {"clip": torch.cat(states, dim=-1), "pooled": torch.cat(pooled, dim=-1)}
        return found | ({"t5": self.read_t5(model, ids["ids_3"])} if "ids_3" in ids else {})

    def joined(self, model: ImageModel, text: Mapping[str, Tensor]) -> Tensor:
        """CLIP's tokens, as wide as T5's, then T5's; both in the model's precision, since autocast on a
        processor joins no others."""
        import torch

        width = int(model.configs["transformer"]["joint_attention_dim"])
        clip = text["clip"].to(model.dtype)
        wide = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
        return torch.cat([wide, text["t5"].to(wide)], dim=1) if "t5" in text else wide

    def probe_text(self, model: ImageModel, generator: Any) -> dict[str, Tensor]:
        import torch

        found = super().probe_text(model, generator)
        return {"clip": torch.randn((77, found["t5"].shape[1] // 2), generator=generator), **found}

    def step(self, model: ImageModel, inputs: Tensor, steps: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        output: Tensor = model.predictor(
            hidden_states=inputs,
            timestep=steps,
            encoder_hidden_states=self.joined(model, text).to(model.dtype),
            pooled_projections=text["pooled"].to(model.dtype),
            return_dict=False,
        )[0]
        return output


FAMILY = StableDiffusion3()
