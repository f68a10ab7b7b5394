"""FLUX.1 dev and schnell: a transformer over packed latents, told by T5 and by CLIP's sum of the caption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _stable_diffusion as shared
from . import _t5
from ._base import Component, ImageModel, Sheet
from ._flow import PATCH, SUPPORTS, vae_layout
from ._flow_t5 import ToldByT5
from ._original_blocks import OriginalBlocks, plain_state
from ._single_file import Layout, Shapes, clip_widths, convert_clip

if TYPE_CHECKING:
    from torch import Tensor

CODE = "https://github.com/black-forest-labs/flux"
ATTENTION = r"(?:single_)?transformer_blocks\.\d+\.attn\.(?:to_(?:q|k|v|out\.0|add_out)|add_[qkv]_proj)"
FEED_FORWARD = (
    r"transformer_blocks\.\d+\.ff(?:_context)?\.net\.(?:0\.proj|2)"
    r"|single_transformer_blocks\.\d+\.proj_(?:mlp|out)"
)
MODULATION = r"(?:single_)?transformer_blocks\.\d+\.norm(?:1|1_context)?\.linear"

SHEET = Sheet(
    name="flux",
    title="FLUX.1",
    task="image-generation",
    required_fields=("image", "caption"),
    components={
        "transformer": Component("transformer", "diffusers", "FluxTransformer2DModel", kohya="lora_unet"),
        "text_encoder": Component("text_encoder", "transformers", "CLIPTextModel"),
        "text_encoder_2": Component("text_encoder_2", "transformers", "T5EncoderModel", storage="wide"),
        "vae": Component("vae", "diffusers", "AutoencoderKL", storage="float32"),
    },
    tokenizers=("tokenizer", "tokenizer_2"),
    predictor="transformer",
    target_presets={
        "attention-mlp": {"transformer": (ATTENTION, FEED_FORWARD)},
        "attention": {"transformer": (ATTENTION,)},
        "blocks": {"transformer": (ATTENTION, FEED_FORWARD, MODULATION)},
    },
    default_preset="attention-mlp",
    base_versions={"flow": "flux1"},
    architectures={"flow": "flux-1-schnell/lora", "guided": "flux-1-dev/lora"},
    implementation=CODE,
    resolution=1024,
    guidance=3.5,
    sampler="Euler",
    trainable=r"(?:single_)?transformer_blocks\..+",
    network_module="networks.lora_flux",
    caption_tokens=512,
    supports=SUPPORTS,
)

DOUBLE, SINGLE = "transformer_blocks.#", "single_transformer_blocks.#"
STREAMS = {
    "img": ("to_{}", "to_out.0", "ff", "norm1", "norm_{}"),
    "txt": ("add_{}_proj", "to_add_out", "ff_context", "norm1_context", "norm_added_{}"),
}
TEXT: dict[str, Any] = {**shared.TEXT, "hidden_act": "quick_gelu", "pad_token_id": 49407}
SHIFTING = {"use_dynamic_shifting": True, "shift": 3.0}
MARKERS = ("img_in.weight", "single_transformer_blocks.0.proj_mlp.weight")
KNOWN_WIDTH = 3072
"""The only width whose files Diffusers' own reader of kohya's layout takes apart; every published base has
it."""


def _double(stream: str) -> dict[str, str]:
    letters, out, feed, norm, normed = STREAMS[stream]
    start = f"double_blocks.#.{stream}"
    return {
        **{f"{DOUBLE}.attn.{letters.format(x)}": f"{start}_attn.qkv/{n}" for n, x in enumerate("qkv")},
        f"{DOUBLE}.attn.{normed.format('q')}": f"{start}_attn.norm.query_norm",
        f"{DOUBLE}.attn.{normed.format('k')}": f"{start}_attn.norm.key_norm",
        f"{DOUBLE}.attn.{out}": f"{start}_attn.proj",
        f"{DOUBLE}.{feed}.net.0.proj": f"{start}_mlp.0",
        f"{DOUBLE}.{feed}.net.2": f"{start}_mlp.2",
        f"{DOUBLE}.{norm}.linear": f"{start}_mod.lin",
    }


BLOCKS = OriginalBlocks(
    {
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        **{
            f"time_text_embed.{ours}.linear_{n}": f"{theirs}.{layer}"
            for ours, theirs in (
                ("timestep_embedder", "time_in"),
                ("text_embedder", "vector_in"),
                ("guidance_embedder", "guidance_in"),
            )
            for n, layer in ((1, "in_layer"), (2, "out_layer"))
        },
        **_double("img"),
        **_double("txt"),
        **{f"{SINGLE}.attn.to_{x}": f"single_blocks.#.linear1/{n}" for n, x in enumerate("qkv")},
        f"{SINGLE}.proj_mlp": "single_blocks.#.linear1/3",
        f"{SINGLE}.proj_out": "single_blocks.#.linear2",
        f"{SINGLE}.attn.norm_q": "single_blocks.#.norm.query_norm",
        f"{SINGLE}.attn.norm_k": "single_blocks.#.norm.key_norm",
        f"{SINGLE}.norm.linear": "single_blocks.#.modulation.lin",
        "norm_out.linear": "~final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    },
    leaves={"scale": "weight"},
)


def transformer_config(shapes: Shapes) -> dict[str, Any]:
    """What the shapes of a transformer say, under either kind of names (without prefix)."""
    shapes = BLOCKS.original_shapes(shapes, "double_blocks.")
    head = shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0]
    width, channels = shapes["img_in.weight"]
    numbers = {
        start: {name.split(".")[1] for name in shapes if name.startswith(start)}
        for start in ("double_blocks.", "single_blocks.")
    }
    return {
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0],
        "num_layers": len(numbers["double_blocks."]),
        "num_single_layers": len(numbers["single_blocks."]),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "axes_dims_rope": (head // 8, head * 7 // 16, head * 7 // 16),
    }


def convert_transformer(state: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    return BLOCKS.convert(state, width, "double_blocks.")


def pack(latents: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h / 2 * w / 2, 4 C): every square of four latents is one place."""
    batch, channels, height, width = latents.shape
    squares = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PATCH**2)


def unpack(places: Tensor, height: int, width: int) -> Tensor:
    """The way back, to (B, C, height, width) in latents."""
    batch, _, channels = places.shape
    squares = places.view(batch, height // PATCH, width // PATCH, channels // PATCH**2, PATCH, PATCH)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, height, width)


def place_ids(height: int, width: int, device: Any) -> Tensor:
    """(height * width, 3): zero, row and column of each place; text has zeros only."""
    import torch

    ids = torch.zeros(height, width, 3, device=device)
    ids[..., 1] += torch.arange(height, device=device)[:, None]
    ids[..., 2] += torch.arange(width, device=device)[None, :]
    return ids.view(-1, 3)


class Flux(ToldByT5):
    sheet = SHEET
    pipeline_class = "FluxPipeline"
    blocks = BLOCKS
    reader = "text_encoder_2"
    scheduler: Mapping[str, Any] = {"num_train_timesteps": 1000, "shift": 1.0}
    layouts: Mapping[str, Layout] = {
        "transformer": Layout(
            ("model.diffusion_model.", ""), MARKERS, transformer_config, convert_transformer
        ),
        "text_encoder": Layout(
            ("text_encoders.clip_l.transformer.", "text_encoder.", ""),
            "embeddings.token_embedding.weight",
            lambda shapes: {**TEXT, **clip_widths(shapes)},
            convert_clip,
        ),
        "text_encoder_2": _t5.layout("text_encoders.t5xxl.transformer.", "text_encoder_2."),
        "vae": vae_layout(0.3611, 0.1159),
    }

    def scheduler_of(self, configs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """dev, which is told a guidance scale, shifts by resolution; schnell does not shift."""
        guided = configs["transformer"].get("guidance_embeds")
        return {**self.scheduler, **SHIFTING} if guided else self.scheduler

    def input_channels(self, configs: Mapping[str, Mapping[str, Any]]) -> int:
        return super().input_channels(configs) * PATCH**2

    def embed(self, model: ImageModel, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``t5`` (B, tokens, width) and ``pooled`` (B, width): CLIP's last layer at the end token."""
        encoder: Any = model.modules["text_encoder"]
        pooled = encoder(ids["ids"].to(model.device)).pooler_output
        return {"t5": self.read_t5(model, ids["ids_2"]), "pooled": pooled}

    def step(self, model: ImageModel, inputs: Tensor, steps: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """A predictor that was distilled is told the guidance scale to behave as it would at."""
        import torch

        height, width = inputs.shape[-2:]
        told = torch.full((len(inputs),), self.rule(model).guidance, device=inputs.device)
        output: Tensor = model.predictor(
            hidden_states=pack(inputs),
            timestep=steps / model.schedule.config.num_train_timesteps,
            guidance=told if model.configs["transformer"].get("guidance_embeds") else None,
            encoder_hidden_states=text["t5"].to(model.dtype),
            pooled_projections=text["pooled"].to(model.dtype),
            txt_ids=torch.zeros(text["t5"].shape[1], 3, device=inputs.device),
            img_ids=place_ids(height // PATCH, width // PATCH, inputs.device),
            return_dict=False,
        )[0]
        return unpack(output, height, width)

    def load_lora(self, pipe: Any, path: Path, name: str) -> None:
        """Diffusers' own reader of kohya's layout, for bases of another than the published width ours."""
        config = pipe.transformer.config
        if config.num_attention_heads * config.attention_head_dim == KNOWN_WIDTH:
            super().load_lora(pipe, path, name)
            return
        from safetensors.torch import load_file

        from ._components import weight_shapes

        tensors = load_file(str(path))
        shapes = {"transformer": weight_shapes(pipe.transformer)}
        state = plain_state(tensors, self.lora_groups(shapes), shapes)
        pipe.load_lora_weights(state or tensors, adapter_name=name)

    def decode(self, model: ImageModel, latents: Tensor, size: tuple[int, int] | None = None) -> list[Any]:
        """The pipeline's latents are packed; ``size``: of the picture, width and height in pixels."""
        if latents.ndim == 3:
            assert size is not None
            factor = self.latent_factor(model)
            latents = unpack(latents, size[1] // factor, size[0] // factor)
        return super().decode(model, latents)


FAMILY = Flux()
