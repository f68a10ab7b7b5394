"""BLIP and BLIP-2: short plain sentences. ``builtin:demo`` is the small one that comes with the project.

With BLIP an instruction is the beginning that every caption continues; with BLIP-2 it is a prompt such as
``Question: what is in the picture? Answer:``, and the caption is what follows it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._captioner import Asked, Captioner, Words
from ._models import locate
from ._sentences import clean
from ._transformers_model import VisionModel, check
from ._transformers_model import load as load_model

if TYPE_CHECKING:
    from PIL.Image import Image

TITLE = "label.captioner.blip"
DEFAULT_MODEL: str | None = "Salesforce/blip-image-captioning-large"
KINDS = ("blip", "blip-2")
_APART = re.compile(
    r"\s+(?='\s?(?:s|t|re|ve|ll|d|m)\b)|(?<=')\s+(?=(?:s|t|re|ve|ll|d|m)\b)|\s+(?=[,.;:!?](?:\s|$))"
)


class Blip:
    def __init__(self, loaded: VisionModel) -> None:
        self.loaded = loaded
        self.batch_size = loaded.batch_size
        config = loaded.model.config
        self.answers = config.model_type == "blip-2"
        text = config.text_config
        self.room = getattr(text, "max_position_embeddings", None) if not self.answers else None
        if self.answers and config.image_token_id is None:
            # copies from before Transformers 4.46 do not say which token stands for the picture
            config.image_token_id = loaded.processor.tokenizer.convert_tokens_to_ids("<image>")

    def describe(self, pictures: Sequence[Image]) -> list[Words]:
        inputs, prompt = self._inputs(pictures)
        most = None if self.room is None else self.room - prompt
        ids = self.loaded.generate(inputs, most)
        if self.answers and not self.loaded.model.config.text_config.is_encoder_decoder:
            ids = ids[:, prompt:]
        texts = self.loaded.processor.batch_decode(ids, skip_special_tokens=True)
        return [Words(clean(_APART.sub("", text))) for text in texts]

    def _inputs(self, pictures: Sequence[Image]) -> tuple[Any, int]:
        """The processor's output, and the tokens that stand before the first new one."""
        processor, text = self.loaded.processor, self.loaded.asked.instruction
        images = list(pictures)
        if not self.answers:
            if not text:
                return processor(images=images, return_tensors="pt"), 1
            inputs = processor(images=images, text=[text] * len(images), return_tensors="pt", padding=True)
            return inputs, inputs["input_ids"].shape[1] - 1
        config = self.loaded.model.config
        inputs = processor(images=images, return_tensors="pt")
        tokenizer = processor.tokenizer
        start = [] if config.text_config.is_encoder_decoder else [config.text_config.bos_token_id]
        told = tokenizer(text)["input_ids"] if text else [token for token in start if token is not None]
        row = [config.image_token_id] * config.num_query_tokens + told
        if not text and config.text_config.is_encoder_decoder:
            row.append(tokenizer.eos_token_id)
        import torch

        inputs["input_ids"] = torch.tensor([row] * len(images))
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return inputs, len(row)

    def close(self) -> None:
        self.loaded.close()


def load(asked: Asked) -> Captioner:
    """Raises ProblemsError LS3150 to LS3168, LS4003 to LS4005, LS4013: the model cannot be had or read."""
    path = locate(asked.model or str(DEFAULT_MODEL))
    folder = path if path.is_dir() else path.parent
    kind = check(folder, "blip", KINDS, str(DEFAULT_MODEL))
    return Blip(load_model(folder, kind, asked))
