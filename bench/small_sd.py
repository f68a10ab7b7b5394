"""A Stable Diffusion 1.x in its own structure at three tenths of the width, with random weights, and pictures
to train it on: nothing to download."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (96, 192, 384, 384),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 256,
    "attention_head_dim": 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": (32, 64, 128, 128),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "sample_size": 128,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
WORDS = (
    "red",
    "green",
    "blue",
    "small",
    "tall",
    "old",
    "house",
    "tower",
    "river",
    "bridge",
    "street",
    "night",
)


def write_base(folder: Path, seed: int = 0) -> Path:
    """The base as a Diffusers folder."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from lora_scripts.families._clip import tokenizer

    torch.manual_seed(seed)
    pipe: Any = StableDiffusionPipeline(
        unet=UNet2DConditionModel(**UNET),
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)),
        tokenizer=tokenizer(),
        scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(str(folder), safe_serialization=True)
    return folder


def write_pictures(folder: Path, count: int, side: int, seed: int = 0) -> Path:
    """``count`` drawn pictures of ``side`` x ``side`` with captions in ``metadata.csv``."""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True)
    chance = random.Random(seed)
    lines = ["file_name,text"]
    for number in range(count):
        picture = Image.new("RGB", (side, side), tuple(chance.randrange(256) for _ in range(3)))
        pen = ImageDraw.Draw(picture)
        for _ in range(12):
            left, top = chance.randrange(side), chance.randrange(side)
            box = (left, top, left + chance.randrange(8, side // 2), top + chance.randrange(8, side // 2))
            colour = tuple(chance.randrange(256) for _ in range(3))
            (pen.rectangle if chance.random() < 0.5 else pen.ellipse)(box, fill=colour)
        picture.save(folder / f"{number:03d}.png")
        lines.append(f"{number:03d}.png,{' '.join(chance.sample(WORDS, 6))}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
