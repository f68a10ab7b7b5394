"""Writes the finished parts as a Diffusers folder in half precision, and reads such a folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from demo.base.tokenizer import POSITIONS, write_tokenizer
from demo.base.unet import SCHEDULE

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

FOLDER = Path(__file__).resolve().parents[2] / "src" / "lora_scripts" / "builtin" / "demo_base"
LIMIT_BYTES = 40 * 1000 * 1000

_CARD = """# builtin:demo

A very small text-to-image model with the architecture of Stable Diffusion 1.x, so that LoRA training can be
tried without a download. It was trained on pictures that this project draws itself (`demo/draw.py`) and knows
towers, houses, trees, cars and boats in seven colours, on the left, in the middle or on the right, on a
street, by the water or in a field, in four kinds of weather, at three times of day. Pictures are 128 pixels
wide and high; one latent pixel covers 4 x 4 picture pixels (Stable Diffusion: 8 x 8).

A caption reads: `a red tower on the left, a blue car on the right, on a street, in the rain, at night`.

`make demo-base` trains it again. The byte pairs of the tokenizer are an excerpt of CLIP's (MIT licence).
"""


def write_folder(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> int:
    """Write the pipeline in fp16 and return its size in bytes; refuses to exceed the promised size."""
    import copy

    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    scheduler = PNDMScheduler(**SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    half = [copy.deepcopy(module).to(torch.float16) for module in (vae, text_encoder, unet)]
    pipeline = StableDiffusionPipeline(
        vae=half[0],
        text_encoder=half[1],
        tokenizer=tokenizer,
        unet=half[2],
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    # The plain files are read by every version of Transformers and by WebUIs.
    shutil.rmtree(folder / "tokenizer")
    write_tokenizer(folder / "tokenizer")
    # As in Stable Diffusion's own folders: other samplers made from this configuration would clip otherwise.
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "clip_sample": False}, indent=2, sort_keys=True)
    )
    (folder / "README.md").write_text(_CARD)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT_BYTES:
        raise ValueError(f"{folder} has {size} bytes, more than {LIMIT_BYTES}")
    return size


def load_folder(folder: Path = FOLDER, dtype: torch.dtype | None = None) -> StableDiffusionPipeline:
    """The pipeline of a folder, offline, in fp32 unless told otherwise, without progress bars."""
    import torch

    from lora_scripts.families._components import quiet_libraries

    quiet_libraries()  # before the pipeline's import, which has things to say
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=dtype or torch.float32, local_files_only=True, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.tokenizer.model_max_length == POSITIONS
    return pipeline


def fingerprint(folder: Path = FOLDER) -> str:
    """Hash of the weights and settings that decide what the base does; its notes and figures do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".safetensors", ".json", ".txt") and path.parent != folder:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
