"""What a captioner is: pictures in, words out. Each one is a file of its own in ``captioners/``.

Such a file has ``TITLE`` (a ``say`` key: what it is, for ``--help``), ``DEFAULT_MODEL`` (what ``--model`` is
when not given, None where there is nothing to name) and ``load(asked) -> Captioner``, which raises
``ProblemsError`` with an LS31xx code where the model or a package cannot be had. It is found by the name of
its file, with ``-`` for ``_``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from lora_scripts.core.problems import Problem

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["general", "character", "rating"]


@dataclass(frozen=True)
class Tag:
    """One thing that a tagger sees, and how sure it is (0 to 1)."""

    name: str
    score: float
    kind: Kind = "general"


@dataclass(frozen=True)
class Words:
    """What a captioner says of one picture: a sentence, tags, both, or neither if it found nothing to say.

    ``problem``: why it could not look at this picture, where it can look at others.
    """

    text: str = ""
    tags: tuple[Tag, ...] = ()
    problem: Problem | None = None


@dataclass(frozen=True)
class Asked:
    """What the user asks of captioners; each takes what concerns it.

    ``dtype``: "auto" (bf16 on a card that has it, else fp32), "fp32", "fp16" or "bf16". ``batch_size``: None
    leaves it to the captioner. ``max_new_tokens``, ``beams``: of those that generate text. ``threshold`` and
    ``character_threshold``: the least score of a general and of a character tag. ``rating``: whether rating
    tags are kept. ``url``: of the server that ``http`` asks; ``allow_remote``: whether it may be elsewhere.
    """

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    max_new_tokens: int = 75
    beams: int = 1
    instruction: str | None = None
    threshold: float = 0.35
    character_threshold: float = 0.85
    rating: bool = False
    keep_underscores: bool = False
    url: str | None = None
    allow_remote: bool = False


class Captioner(Protocol):
    """A loaded captioner."""

    batch_size: int
    """How many pictures it takes at a time on the device it lies on."""

    def describe(self, pictures: Sequence[Image]) -> list[Words]:
        """Says what it sees: RGB pictures of the same or similar shape in, as many ``Words`` out, in order.

        Out of memory, it lets ``torch.OutOfMemoryError`` or ``MemoryError`` pass: the caller halves
        the batch.
        """
        ...

    def close(self) -> None:
        """Gives memory and connections back; nothing is asked of it afterwards."""
        ...
