"""Chat models that see (Qwen-VL, Gemma, InternVL, LLaVA ...), with one instruction for all pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._captioner import Asked, Captioner, Words
from ._models import locate, stop
from ._sentences import clean, whole_sentences
from ._transformers_model import OTHERS, VisionModel, check, ended
from ._transformers_model import load as load_model

if TYPE_CHECKING:
    from PIL.Image import Image

TITLE = "label.captioner.qwen_vl"
DEFAULT_MODEL: str | None = "Qwen/Qwen2.5-VL-3B-Instruct"
DEFAULT_INSTRUCTION = (
    "Write a caption for this picture, to train an image generator with. In one or two plain sentences say "
    "what is shown and what it looks like, then the setting, the composition, the light and the colours. Say "
    "only what can be seen. Begin with the subject itself, not with words such as 'The image shows'."
)
LARGEST = 1024 * 1024
"""Pixels that a model is shown; with more, each picture would cost thousands of tokens and say no more."""
LONGEST = 50
"""Sides' ratio up to which a picture is shown as it is; processors refuse extreme strips."""


def shown(picture: Image) -> Image:
    """``picture`` with at most ``LARGEST`` pixels; a strip is set on white."""
    from PIL import Image as Images

    width, height = picture.size
    short, long = min(width, height), max(width, height)
    if long > short * LONGEST:
        thick = math.ceil(long / LONGEST)
        ground = Images.new("RGB", (max(width, thick), max(height, thick)), "white")
        ground.paste(picture, ((ground.width - width) // 2, (ground.height - height) // 2))
        picture, (width, height) = ground, ground.size
    if width * height <= LARGEST:
        return picture
    scale = math.sqrt(LARGEST / (width * height))
    size = (max(1, math.floor(width * scale)), max(1, math.floor(height * scale)))
    return picture.resize(size, Images.Resampling.LANCZOS)


class ChatModel:
    def __init__(self, loaded: VisionModel) -> None:
        self.loaded = loaded
        self.batch_size = loaded.batch_size
        self.instruction = loaded.asked.instruction or DEFAULT_INSTRUCTION

    def describe(self, pictures: Sequence[Image]) -> list[Words]:
        inputs = self.loaded.processor.apply_chat_template(
            [self._turn(picture) for picture in pictures],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            enable_thinking=False,
            processor_kwargs={"padding": True},
        )
        ids = self.loaded.generate(inputs)
        if not self.loaded.model.config.is_encoder_decoder:
            ids = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.loaded.processor.batch_decode(ids, skip_special_tokens=True)
        whole = ended(ids, self.loaded.model.generation_config)
        return [
            Words(clean(text) if done else whole_sentences(clean(text)))
            for text, done in zip(texts, whole, strict=True)
        ]

    def _turn(self, picture: Image) -> list[dict[str, Any]]:
        content = [{"type": "image", "image": shown(picture)}, {"type": "text", "text": self.instruction}]
        return [{"role": "user", "content": content}]

    def close(self) -> None:
        self.loaded.close()


def load(asked: Asked) -> Captioner:
    """Raises ProblemsError LS3150 to LS3168, LS4003 to LS4005, LS4013: the model cannot be had or read."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    path = locate(asked.model or str(DEFAULT_MODEL))
    folder = path if path.is_dir() else path.parent
    kinds = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - set(OTHERS)
    kind = check(folder, "qwen-vl", kinds, str(DEFAULT_MODEL))
    loaded = load_model(folder, kind, asked)
    if not (getattr(loaded.processor, "chat_template", None) or loaded.processor.tokenizer.chat_template):
        raise stop("LS3159", folder, kind=kind, instead=DEFAULT_MODEL)
    return ChatModel(loaded)
