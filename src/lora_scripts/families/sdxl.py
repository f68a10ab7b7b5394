"""Stable Diffusion XL and its fine-tunes: two text encoders, a caption's sum, and the picture's own size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem

from . import _stable_diffusion as shared
from ._base import Component, ImageModel, Sheet, Stage, Unsupported
from ._clip import END, tokenizers
from ._open_clip import convert_projected, projected_widths
from ._original_names import unet_name
from ._single_file import Layout, Shapes, clip_widths, convert_clip, convert_unet, unet_widths
from ._source import Source
from ._stages import PLAIN, StageOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lora_scripts.data.sample import Sample

CODE = "https://github.com/Stability-AI/generative-models"
VERSION, ARCHITECTURE = "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"

SHEET = Sheet(
    name="sdxl",
    title="Stable Diffusion XL",
    task="image-generation",
    required_fields=("image", "caption"),
    components={
        "unet": Component("unet", "diffusers", "UNet2DConditionModel", kohya="lora_unet"),
        "text_encoder": Component(
            "text_encoder", "transformers", "CLIPTextModel", kohya="lora_te1", inner="text_model."
        ),
        "text_encoder_2": Component(
            "text_encoder_2",
            "transformers",
            "CLIPTextModelWithProjection",
            kohya="lora_te2",
            inner="text_model.",
            fused=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        ),
        "vae": Component("vae", "diffusers", "AutoencoderKL", storage="float32"),
    },
    tokenizers=("tokenizer", "tokenizer_2"),
    predictor="unet",
    target_presets={
        name: {**table, "text_encoder_2": (shared.CLIP,)} for name, table in shared.PRESETS.items()
    },
    default_preset="attention-mlp",
    convolutions=shared.CONVOLUTIONS,
    base_versions={"epsilon": VERSION, "v_prediction": VERSION},
    architectures={"epsilon": ARCHITECTURE, "v_prediction": ARCHITECTURE},
    implementation=CODE,
    resolution=1024,
    supports={
        "text_encoder_training": True,
        "gradient_checkpointing": True,
        "quantization": True,
        "clip_skip": Unsupported("model.unsupported.clip_skip"),
        "inpainting": Unsupported("model.unsupported.inpainting"),
    },
)

EDM_MARKS = {"edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min"}
"""Keys by which a file says that it was trained on EDM's noise levels."""
LAYERS, ATTENDING = 2, (0, 1)
"""Blocks of a level on the way down, and levels with attention on the way up: what original names count."""
UNET: dict[str, Any] = {
    **shared.UNET,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "sample_size": 128,
}
VAE: dict[str, Any] = {"scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": True}
TEXT: dict[str, Any] = {
    **shared.TEXT,
    "hidden_act": "quick_gelu",
    "pad_token_id": 49407,
    "projection_dim": 768,
}
TEXT_2: dict[str, Any] = {**shared.TEXT, "hidden_act": "gelu", "pad_token_id": 0}


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """Heads are 64 wide, and each level has transformers of its own depth."""
    found = unet_widths(shapes)
    widths, step = found["block_out_channels"], found["layers_per_block"] + 1
    depths = []
    for level in range(len(widths)):
        start = f"input_blocks.{1 + level * step}.1.transformer_blocks."
        depths.append(len({name[len(start) :].split(".")[0] for name in shapes if name.startswith(start)}))
    return {
        **UNET,
        **found,
        "attention_head_dim": [max(1, width // 64) for width in widths],
        "transformer_layers_per_block": [max(1, depth) for depth in depths],
        "projection_class_embeddings_input_dim": shapes["label_emb.0.0.weight"][1],
    }


def size_numbers(sample: Sample) -> tuple[int, int, int, int, int, int]:
    """The picture's own height and width, top and left of its cut, height and width of what is learnt, in
    pixels: SDXL's size and crop conditioning (Podell et al. 2023, arXiv:2307.01952, section 2.2).

    The cut is counted in the scaled picture, and from the other side where the picture is mirrored.
    """
    picture, placed = sample.picture, sample.placement
    left, top = placed.crop
    if sample.flipped:
        left = placed.spare[0] - left
    return picture.height, picture.width, top, left, placed.bucket.height, placed.bucket.width


class StableDiffusionXL(shared.StableDiffusion):
    sheet = SHEET
    pipeline_class = "StableDiffusionXLPipeline"
    pipeline_inputs: Mapping[str, str] = {"text": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
    layouts: Mapping[str, Layout] = {
        "unet": Layout(("model.diffusion_model.", ""), "input_blocks.0.0.weight", unet_config, convert_unet),
        "text_encoder": Layout(
            ("conditioner.embedders.0.transformer.", "text_encoder.", ""),
            "embeddings.token_embedding.weight",
            lambda shapes: {**TEXT, **clip_widths(shapes)},
            convert_clip,
        ),
        "text_encoder_2": Layout(
            ("conditioner.embedders.1.model.", "text_encoder_2.", ""),
            "token_embedding.weight",
            lambda shapes: {**TEXT_2, **projected_widths(shapes)},
            convert_projected,
        ),
        "vae": shared.vae_layout(VAE),
    }

    def tokenizers(self, source: Source) -> dict[str, Any]:
        return tokenizers(source, {"tokenizer": END, "tokenizer_2": "!"})

    def missing(self, places: Mapping[str, Source], configs: Mapping[str, Any]) -> list[Problem]:
        """LS4500 for a base that was trained on EDM's noise levels (Karras et al. 2022, arXiv:2206.00364):
        its parts are the same, its schedule is not."""
        source, schedule = places["unet"], ""
        if source.kind == "folder":
            text = (source.path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")
            schedule = str(json.loads(text).get("_class_name", ""))
        elif EDM_MARKS & set(source.shapes):
            schedule = "EDM"
        if not schedule.startswith("EDM"):
            return []
        told = {"path": str(source.path), "schedule": schedule}
        return [Problem("LS4500", told, Location(str(source.path)))]

    def embed(self, model: ImageModel, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``text`` (B, 77, width): the last but one layer of both encoders side by side, without a final
        norm; ``pooled`` (B, width): the second one's last layer at the end token, projected."""
        import torch

        first: Any = model.modules["text_encoder"]
        second: Any = model.modules["text_encoder_2"]
        one = first(ids["ids"].to(model.device), output_hidden_states=True)
        two = second(ids["ids_2"].to(model.device), output_hidden_states=True)
        text = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
        return {"text": text, "pooled": two.text_embeds}

    def stages(self, model: ImageModel, asked: StageOptions = PLAIN) -> list[Stage]:
        """As every family's, and ``sizes``, six numbers for each picture, which are not worth a cache."""
        import torch

        def run(samples: list[Sample]) -> list[dict[str, Any]]:
            return [{"sizes": torch.tensor(size_numbers(each), dtype=torch.float32)} for each in samples]

        sizes = Stage(
            name="sizes",
            components=(),
            key=lambda sample: repr(size_numbers(sample)),
            group=lambda sample: 0,
            run=run,
            cached=False,
        )
        return [*super().stages(model, asked), sizes]

    def denoise(self, model: ImageModel, inputs: Tensor, steps: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """The six numbers stay in float32: bf16 has no 1365."""
        output: Tensor = model.predictor(
            inputs,
            steps,
            encoder_hidden_states=text["text"].to(model.dtype),
            added_cond_kwargs={"text_embeds": text["pooled"].to(model.dtype), "time_ids": text["sizes"]},
            return_dict=False,
        )[0]
        return output

    def probe_text(self, model: ImageModel, generator: torch.Generator) -> dict[str, Tensor]:
        import torch

        found = super().probe_text(model, generator)
        config = model.configs["unet"]
        if "text" in found:
            width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            found["pooled"] = torch.randn((width,), generator=generator)
        side = float(model.description.resolution)
        return {**found, "sizes": torch.tensor([side, side, 0.0, 0.0, side, side])}

    def pipeline_extras(self) -> dict[str, Any]:
        return {"add_watermarker": False}

    def names(self, component: str, module_name: str) -> str:
        """As kohya's tools write it for this family alone: the U-Net's modules by their original names."""
        if component == "unet" and (original := unet_name(module_name, LAYERS, ATTENDING)):
            return f"lora_unet_{original.replace('.', '_')}"
        return super().names(component, module_name)

    def modules_by_name(
        self, modules: Mapping[str, Mapping[str, tuple[int, ...]]]
    ) -> dict[str, tuple[str, str]]:
        """Files that name the U-Net's modules as Diffusers does are about as common."""
        others = {f"lora_unet_{name.replace('.', '_')}": ("unet", name) for name in modules["unet"]}
        return others | super().modules_by_name(modules)


FAMILY = StableDiffusionXL()
