"""A full-size Stable Diffusion 1.5 in one file: real names, shapes and size, made-up weights, written in a
stream."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from lora_scripts.families import sd15
from lora_scripts.families._components import build

from . import tiny

UNET: dict[str, Any] = {
    **sd15.UNET,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
VAE: dict[str, Any] = {
    **sd15.VAE,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT: dict[str, Any] = {
    **sd15.TEXT,
    "vocab_size": 49408,
    "hidden_size": 768,
    "max_position_embeddings": 77,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
CONFIGS = {"unet": UNET, "text_encoder": TEXT, "vae": VAE}


def modules() -> dict[str, Any]:
    """The three parts at their published size, on the meta device."""
    return {name: build(sd15.SHEET.components[name], config) for name, config in CONFIGS.items()}


def shapes() -> dict[str, tuple[int, ...]]:
    """Every name of the original file with its shape; nothing is allocated."""
    parts = modules()
    names = {
        f"model.diffusion_model.{n}": tuple(t.shape)
        for n, t in tiny.original_unet(parts["unet"].state_dict(), 2, 4).items()
    }
    names |= {
        f"first_stage_model.{n}": tuple(t.shape)
        for n, t in tiny.original_vae(parts["vae"].state_dict(), 4).items()
    }
    for name, tensor in parts["text_encoder"].state_dict().items():
        names[f"cond_stage_model.transformer.text_model.{name}"] = tuple(tensor.shape)
    return names


def write(path: Path, *, ema: bool = True) -> Path:
    """Writes the file in float32: 4.3 GB, 7.7 GB with ``model_ema`` twins."""
    kept = shapes()
    if ema:
        twins = [n for n in kept if n.startswith("model.diffusion_model.")]
        kept |= {"model_ema." + n.removeprefix("model.").replace(".", ""): kept[n] for n in twins}
    return stream(path, kept, np.float32)


def stream(path: Path, kept: dict[str, tuple[int, ...]], kind: type[np.floating[Any]]) -> Path:
    """Writes made-up weights of these names and shapes without holding them in memory.

    Gains are one and other weights small, so that a pass through the network stays finite.
    """
    item, name_of = np.dtype(kind).itemsize, {np.float32: "F32", np.float16: "F16"}[kind]
    table: dict[str, Any] = {}
    offset = 0
    for name in sorted(kept):
        size = item * math.prod(kept[name])
        table[name] = {"dtype": name_of, "shape": list(kept[name]), "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    block = (np.random.default_rng(0).standard_normal(2**20) * 0.02).astype(kind)
    with open(path, "wb") as handle:
        handle.write(len(header).to_bytes(8, "little") + header)
        for name in sorted(kept):
            count = math.prod(kept[name])
            if len(kept[name]) == 1:
                fill = np.ones if name.endswith("weight") else np.zeros
                handle.write(fill(count, kind).tobytes())
                continue
            while count:
                part = min(count, len(block))
                handle.write(block[:part].tobytes())
                count -= part
    return path
