"""Stable Diffusion XL at its published size: on the meta device, and as one file of made-up fp16 weights,
written in a stream. ``python -m tests.families.full_size_sdxl FILE`` writes it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from lora_scripts.families import sdxl
from lora_scripts.families._components import build
from tests.bases import sdxl as small

from . import full_size

UNET: dict[str, Any] = {
    **sdxl.UNET,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
TEXT: dict[str, Any] = {**full_size.TEXT, **sdxl.TEXT}
TEXT_2: dict[str, Any] = {
    **sdxl.TEXT_2,
    "vocab_size": 49408,
    "hidden_size": 1280,
    "max_position_embeddings": 77,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "intermediate_size": 5120,
    "projection_dim": 1280,
}
CONFIGS = {"unet": UNET, "text_encoder": TEXT, "text_encoder_2": TEXT_2, "vae": full_size.VAE | sdxl.VAE}


def modules() -> dict[str, Any]:
    """The four parts at their published size, on the meta device."""
    return {name: build(sdxl.SHEET.components[name], config) for name, config in CONFIGS.items()}


def shapes() -> dict[str, tuple[int, ...]]:
    """Every name of the original file with its shape; nothing is allocated."""
    return {name: tuple(tensor.shape) for name, tensor in small.original(modules()).items()}


def write(path: Path) -> Path:
    """The file in float16, 6.9 GB."""
    return full_size.stream(path, shapes(), np.float16)


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
