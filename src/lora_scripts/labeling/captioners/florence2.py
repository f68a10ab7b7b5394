"""Florence-2 by the class that is part of Transformers: captions in three lengths, by its own prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_scripts.core.problems import Problem, ProblemsError

from .._captioner import Asked, Captioner, Words
from ._models import locate
from ._sentences import clean, whole_sentences
from ._transformers_model import VisionModel, check, ended
from ._transformers_model import load as load_model

if TYPE_CHECKING:
    from PIL.Image import Image

TITLE = "label.captioner.florence2"
DEFAULT_MODEL: str | None = "florence-community/Florence-2-base"
TASKS = {
    "caption": "<CAPTION>",
    "detailed caption": "<DETAILED_CAPTION>",
    "more detailed caption": "<MORE_DETAILED_CAPTION>",
}
"""What can be asked for; the model was trained on these prompts and understands no others."""
DEFAULT_TASK = "detailed caption"


def task_of(instruction: str | None) -> str:
    """The model's prompt for ``instruction``, which is a name in ``TASKS`` or the prompt itself.

    Raises ProblemsError LS3160.
    """
    asked = " ".join((instruction or DEFAULT_TASK).strip("<> ").replace("_", " ").lower().split())
    if asked not in TASKS:
        raise ProblemsError(Problem("LS3160", {"instruction": instruction, "known": ", ".join(TASKS)}))
    return TASKS[asked]


class Florence2:
    def __init__(self, loaded: VisionModel, task: str) -> None:
        self.loaded, self.task = loaded, task
        self.batch_size = loaded.batch_size
        self.room = loaded.model.config.text_config.max_position_embeddings - 2

    def describe(self, pictures: Sequence[Image]) -> list[Words]:
        texts = [self.task] * len(pictures)
        inputs = self.loaded.processor(text=texts, images=list(pictures), return_tensors="pt", padding=True)
        ids = self.loaded.generate(inputs, self.room)
        said = self.loaded.processor.batch_decode(ids, skip_special_tokens=True)
        # the first token of the decoder is the one that ends a text
        whole = ended(ids[:, 1:], self.loaded.model.generation_config)
        return [
            Words(clean(text) if done else whole_sentences(clean(text)))
            for text, done in zip(said, whole, strict=True)
        ]

    def close(self) -> None:
        self.loaded.close()


def load(asked: Asked) -> Captioner:
    """Raises ProblemsError LS3150 to LS3168, LS4003 to LS4005, LS4013: the model cannot be had or read."""
    task = task_of(asked.instruction)
    path = locate(asked.model or str(DEFAULT_MODEL))
    folder = path if path.is_dir() else path.parent
    kind = check(folder, "florence2", ("florence2",), str(DEFAULT_MODEL))
    return Florence2(load_model(folder, kind, asked), task)
