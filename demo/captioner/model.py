"""The captioner: BLIP's own classes at small size, and the folder that `from_pretrained` reads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from demo.base.captions import ATTRIBUTES
from demo.captioner.pictures import SIDE

if TYPE_CHECKING:
    import torch
    from transformers import BertTokenizer, BlipForConditionalGeneration

FOLDER = Path(__file__).resolve().parents[2] / "src" / "lora_scripts" / "builtin" / "demo_captioner"
LIMIT_BYTES = 20 * 1000 * 1000
WIDTH, PATCH = 256, 16

_CARD = """# The captioner of builtin:demo

A very small BLIP (`BlipForConditionalGeneration`), so that labeling can be tried without a download. It was
trained on pictures that this project draws itself (`demo/captioner/`) in many looks, and names what the
demo's world has: towers, houses, trees, cars and boats in seven colours, on the left, in the middle or on
the right, on a street, by the water or in a field, in four kinds of weather, at three times of day:

    a red tower on the left, a blue car on the right, on a street, in the rain, at night

It does not name the style, so a LoRA learns that. It knows nothing else: of a photograph it says just such a
sentence, which is nonsense. For your own pictures use BLIP, Florence-2 or a vision chat model.

`make demo-captioner` trains it again.
"""


def build(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """A fresh captioner."""
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration

    torch.manual_seed(17)
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": 0.02,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = BlipForConditionalGeneration(BlipConfig(vision_config=vision, text_config=text))
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding[0, 1:] = _positions()
    return model


def _positions() -> torch.Tensor:
    """Where patches lie, (patches, WIDTH), as waves along both axes.

    A random start is far weaker than what the patches show: then captions name things, but not their places.
    """
    import torch

    rows = SIDE // PATCH
    frequencies = torch.pi * 2.0 ** torch.linspace(-1, 2, WIDTH // 4)
    angles = ((torch.arange(rows) + 0.5) / rows)[:, None] * frequencies
    waves = torch.cat((angles.sin(), angles.cos()), 1)
    down = waves[:, None].expand(rows, rows, -1)
    return 0.3 * torch.cat((down, down.transpose(0, 1)), 2).reshape(rows * rows, WIDTH)


def build_readers() -> torch.nn.ModuleDict:
    """Two modules that read all classes of ATTRIBUTES, in one row of logits: one off the picture's patches
    (n, patches, WIDTH), one off its first token (n, WIDTH).

    They stay outside the captioner and give the picture's side a straight way to learn what counts. The
    second brings it all together in one place, where the words find it.
    """
    import torch
    from torch import nn

    torch.manual_seed(18)
    patches = (SIDE // PATCH) ** 2
    classes = sum(len(options) + 1 for options in ATTRIBUTES.values())
    return nn.ModuleDict(
        {
            "patches": nn.Sequential(
                nn.Linear(WIDTH, 48), nn.GELU(), nn.Flatten(), nn.Linear(48 * patches, classes)
            ),
            "first": nn.Linear(WIDTH, classes),
        }
    )


def write_folder(folder: Path, model: BlipForConditionalGeneration, tokenizer: BertTokenizer) -> int:
    """Write model (fp16) and processor; returns the size in bytes and refuses to exceed the promised size."""
    import torch
    from transformers import BlipImageProcessor, BlipProcessor

    half = copy.deepcopy(model).to(torch.float16)
    half.save_pretrained(folder)
    pictures = BlipImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
    BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    (folder / "README.md").write_text(_CARD, encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LIMIT_BYTES:
        raise ValueError(f"{folder} has {size} bytes, more than {LIMIT_BYTES}")
    return size
