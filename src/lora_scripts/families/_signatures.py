"""What weights are, told from their names and shapes alone, so that a wrong file can be named to the user."""

from __future__ import annotations

from collections.abc import Mapping

from lora_scripts.core.catalogue import say

Shapes = Mapping[str, tuple[int, ...]]

NAMES = {
    "lora": "LoRA",
    "sdxl": "Stable Diffusion XL",
    "sdxl_refiner": "Stable Diffusion XL Refiner",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
    "z_image": "Z-Image",
    "sd2": "Stable Diffusion 2.x",
    "sd15": "Stable Diffusion 1.x",
    "vae": "VAE",
    "clip": "CLIP",
    "controlnet": "ControlNet",
}
"""Kinds that are called the same in every language."""
DESCRIBED = ("embedding", "causal_lm")
"""Kinds whose name is made of words: ``model.kind.KIND`` in the catalogue."""

LORA_ENDINGS = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora_A.default.weight",
    ".lora.down.weight",
    "_lora.down.weight",
    ":down",
)


def _first(names: Shapes, *endings: str) -> tuple[int, ...] | None:
    return next((shape for name, shape in names.items() if name.endswith(endings)), None)


def _denoiser(names: Shapes) -> str | None:
    """sd15, sd2, sdxl or the refiner: told apart by structure, never by size."""
    unet = [n for n in names if "input_blocks." in n or "down_blocks." in n]
    if not any("attn2.to_k.weight" in n for n in unet):
        return None
    extra = _first(names, "label_emb.0.0.weight", "add_embedding.linear_1.weight")
    context = _first(names, "attn2.to_k.weight")
    if extra is not None:
        return "sdxl_refiner" if context and context[1:2] == (1280,) else "sdxl"
    project = _first(names, "proj_in.weight")
    return "sd2" if project is not None and len(project) == 2 else "sd15"


RELATIVES = ("distilled_guidance_layer.", "individual_token_refiner.", "double_stream_modulation_")
"""In the names of transformers that are built like FLUX.1 and are none: Chroma, HunyuanVideo, FLUX.2."""


def _transformer(names: Shapes) -> str | None:
    """sd3, flux or z_image, under the original names or, in a folder or a file with the transformer alone,
    Diffusers'."""
    if any(name.endswith("cap_pad_token") for name in names):
        return "z_image"
    if any("joint_blocks." in name for name in names):
        return "sd3"
    if any(part in name for name in names for part in RELATIVES):
        return None
    if any("double_blocks." in name for name in names):
        return "flux"
    for start in ("transformer/", ""):
        blocks = [name for name in names if name.startswith(f"{start}transformer_blocks.")]
        if any(".attn.add_k_proj." in name for name in blocks) and f"{start}context_embedder.weight" in names:
            if any(name.startswith(f"{start}single_transformer_blocks.") for name in names):
                return "flux"
            return "sd3" if f"{start}pos_embed.proj.weight" in names else None
    return None


def signature(names: Shapes) -> str | None:
    """One of ``NAMES`` or ``DESCRIBED``, or None for weights of no known kind."""
    if any(n.endswith(LORA_ENDINGS) or ".hada_" in n or ".lokr_" in n for n in names):
        return "lora"
    if 0 < len(names) <= 4 and all("." not in n and len(shape) <= 2 for n, shape in names.items()):
        return "embedding"
    if found := _transformer(names):
        return found
    if any("controlnet_" in n or n.startswith("control_model.") or "input_hint_block" in n for n in names):
        return "controlnet"
    if found := _denoiser(names):
        return found
    if any("model.layers." in n and "self_attn.q_proj" in n for n in names):
        return "causal_lm"
    if any(n.endswith("encoder.conv_in.weight") for n in names):
        return "vae"
    if any("self_attn.q_proj" in n or "resblocks." in n for n in names):
        return "clip"
    return None


def title(kind: str | None, lang: str | None = None) -> str | None:
    return say(f"model.kind.{kind}", lang) if kind in DESCRIBED else NAMES.get(kind or "")
